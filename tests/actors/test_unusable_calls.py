"""Planner: the arguments of calls that cannot be made are stored without their secrets."""

from __future__ import annotations

import json

import msgspec
import pytest
from tests.builders import Story, agent, call, contract, reply

from linestop.actors.facts import Secrets
from linestop.actors.model_turn.unusable_calls import REMOVED, clean_call
from linestop.schemas.events import Judged, Proposed
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.verify.check_log import verify

SECRET = "hunter2hunter2"
KEY = "sk-ant-" + "a1B2" * 10
ESCAPED = "".join(f"\\u{ord(char):04x}" for char in SECRET)


def secretive() -> Story:
    """A run whose first model request is in progress, in a process that knows a secret."""
    return Story(agent(), facts=(Secrets(values=(SECRET,)),)).open_run().run_until_idle()


def leaks(story: Story) -> list[str]:
    """Events of the run that contain a secret, written plainly or escaped."""
    payloads = [(subject, payload.decode()) for subject, payload, _ in story.messages]
    return [subject for subject, text in payloads if any(secret in text for secret in (SECRET, KEY, ESCAPED))]


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("pay", f'{{"q": "{SECRET}"'),
        ("pay", f"please pay with {KEY}"),
        ("pay", f'{{"q": ["{SECRET}"]}}'),
        ("pay", f'{{"{SECRET}": 1}}'),
        ("pay", f'{{"q": "a", "q": "{SECRET}"}}'),
        ("pay", f'"{SECRET}"'),
        ("pay", f'{{"q": "{ESCAPED}"'),
        ("pay", f'{{"{ESCAPED}": 1}}'),
        ("nothing.such", f'{{"q": "{SECRET}"}}'),
        (SECRET, "{}"),
    ],
)
def test_a_secret_in_a_call_that_is_rejected_is_in_no_event(tool: str, args: str) -> None:
    """Neither as it was written nor in the reason nor in the provider's blocks; and the log verifies."""
    story = secretive()
    blocks: tuple[dict[str, object], ...] = ({"type": "tool_use", "id": "x", "name": tool, "input": args},)
    story.finish_model(reply(call(tool, args, id="x"), blocks=blocks))
    assert story.last(Judged).calls[0].verdict == "reject"
    assert story.last(Proposed).blocks == ""
    assert leaks(story) == []
    assert verify(story.run.tenant, story.run.run, story.messages).problems == ()


def test_arguments_that_would_be_valid_without_their_secret_are_still_rejected() -> None:
    """A limit that the secret broke must not let its marker through as an argument."""
    short = contract("pay", parameters={"type": "object", "properties": {"q": {"type": "string", "maxLength": 30}}})
    proposed = call("pay", json.dumps({"q": KEY}))
    assert clean_call(proposed, [short], Redactor()).args == REMOVED
    twice = call("pay", f'{{"q": "{KEY}", "q": "b"}}')
    assert KEY not in clean_call(twice, [short], Redactor()).args


def test_a_valid_call_is_stored_as_it_was_written() -> None:
    """The call runs as it was written, secrets included; a reply without secrets is not changed."""
    story = secretive()
    story.finish_model(reply(call("look", f'{{ "q": "{SECRET}" }}')))
    assert story.last(Proposed).calls[0].args == f'{{ "q": "{SECRET}" }}'
    for args in ('{"q": "http://a/b', '{"no": "\\u0041"}', "not JSON", ""):
        proposed = call("look", args)
        assert clean_call(proposed, [contract("look")], Redactor((SECRET,))) == proposed


def test_too_many_calls_at_once_are_stored_without_secrets() -> None:
    """All of them are rejected, whatever they contain."""
    story = secretive()
    calls_max = story.run.limits.proposal_calls_max
    story.finish_model(
        reply(*(call("look", json.dumps({"q": f"{SECRET} {n}"}), id=f"c{n}") for n in range(calls_max + 1)))
    )
    assert {verdict.verdict for verdict in story.last(Judged).calls} == {"reject"}
    assert leaks(story) == []


def test_only_the_name_and_arguments_of_a_call_are_redacted() -> None:
    """Provider and log identify the call by its id."""
    proposed = call("x", f'{{"q": "{SECRET}"}}', id="c1")
    assert clean_call(proposed, (), Redactor((SECRET,))) == msgspec.structs.replace(
        proposed, args='{"q":"[redacted:secret]"}'
    )
