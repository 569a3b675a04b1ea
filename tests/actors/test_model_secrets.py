"""Planner: which parts of the model's text are stored, and which are redacted first."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import Story, agent, all_at_once, call, reply

from linestop.actors.facts import Secrets
from linestop.schemas.events import Asked, Compacted, ModelStarted, Proposed, Sealed
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.tool_contracts import canonical

SECRET = "hunter2hunter2"
CLEAN = "it is [redacted:secret]"


def thinking() -> Story:
    """A run whose first model request is in progress."""
    return Story().open_run().run_until_idle()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The order is late,\n  so I pay\tit back.", "The order is late, so I pay it back."),
        ("\x1b[31mred\u202e \x00", "[31mred"),
        ("word " * 200, "word " * 99 + "word …"),
        ("字" * 600, "字" * 500 + " …"),
        ("", ""),
    ],
)
def test_the_text_beside_calls_is_their_reason(text: str, reason: str) -> None:
    """On one line, cut at a word, and without control characters of a terminal."""
    event = thinking().planner_events(reply(call("pay"), text=text))[0]
    assert isinstance(event, Proposed)
    assert (event.text, event.reason) == (text, reason)


def test_a_final_answer_needs_no_reason() -> None:
    """The answer itself is the text."""
    event = thinking().planner_events(reply(text="done"))[0]
    assert isinstance(event, Proposed)
    assert event.reason == ""


def test_a_person_is_asked_with_the_models_reason() -> None:
    """Approvals show why the model wants the call."""
    story = thinking().finish_model(reply(call("pay"), text="The order never came."))
    assert story.last(Asked).calls[0].reason == "The order never came."


def secretive(**fields: object) -> Story:
    """A run whose first model request is in progress, in a process that knows a secret."""
    return Story(agent(**fields), facts=(Secrets(values=(SECRET,)),)).open_run().run_until_idle()


def leaks(story: Story) -> list[str]:
    """Events of the run that contain the secret."""
    return [subject for subject, payload, _ in story.messages if SECRET.encode() in payload]


def test_a_known_secret_in_an_answer_that_is_returned_is_in_no_event() -> None:
    """The last text of a run that failed is part of its outcome."""
    story = secretive(output_schema={"type": "object"}, limits={"returned_max": 2})
    for _ in range(3):
        story.finish_model(reply(text=f"it is {SECRET}"))
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.partial) == ("failed", "it is [redacted:secret]")
    assert leaks(story) == []


def test_a_known_secret_beside_calls_is_in_no_event_of_a_stopped_run() -> None:
    """Neither as text nor as reason, nor in the provider's text blocks; signed blocks stay as they are."""
    story = secretive()
    blocks: tuple[dict[str, object], ...] = (
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": f"it is {SECRET}"},
    )
    story.finish_model(reply(call("pay"), text=f"it is {SECRET}", blocks=blocks))
    assert story.last(Proposed).blocks == canonical([blocks[0], {"type": "text", "text": CLEAN}]).decode()
    assert (story.last(Proposed).reason, story.last(Asked).calls[0].reason) == (CLEAN, CLEAN)
    story.send_control("stop", why="enough").append_decided().run_until_idle()
    assert story.last(Sealed).partial == CLEAN
    assert leaks(story) == []


def test_a_known_secret_that_a_provider_repeats_is_in_no_failure() -> None:
    """Some providers quote the request that they refuse, and the failure becomes the reason of the run's end."""
    story = secretive().finish_model(ModelFailed("permanent", f"no such thing: {SECRET}"))
    assert story.last(Sealed).why == "no such thing: [redacted:secret]"
    assert leaks(story) == []


def test_a_known_secret_is_in_no_summary() -> None:
    """Otherwise it would be in every later prompt."""
    story = secretive()
    started = msgspec.structs.replace(story.last(ModelStarted), purpose="compact")
    view = msgspec.structs.replace(
        story.planner.prepare(story.run, story.last(ModelStarted), story.planner_facts), covers_to=1
    )
    story.caller.answer = reply(text=f"it is {SECRET}")
    (event,) = all_at_once(story.planner.perform(view, started))
    assert isinstance(event, Compacted)
    assert event.summary == CLEAN
