"""Where the values of an irreversible call come from."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import OK, agent, at_work, call, contract, reply

from linestop.actors.facts import ControlMessage
from linestop.schemas.events import Answered, Judged, Policy
from linestop.schemas.messages import Control
from linestop.schemas.tool_contracts import ToolResult


def flags(args: str, version: Any = None, **results: ToolResult) -> tuple[str, ...]:
    """The flags of an irreversible call with these arguments, after these reads."""
    story = (
        at_work(call("look"), version=version)
        .finish_tools(look=results.get("look", OK))
        .finish_model(reply(call("pay", args)))
    )
    return story.last(Judged).calls[0].flags


@pytest.mark.parametrize(
    "args",
    ['{"q":"ann@example.com"}', '{"q":" Order 4711 "}', '{"amount":25}', '{"amount":25.0}', '{"q":"4711"}', "{}"],
)
def test_values_of_the_task_are_trusted(args: str) -> None:
    """As whole words and numbers, in upper or lower case."""
    assert flags(args) == ()


@pytest.mark.parametrize(
    "args", ['{"amount":5}', '{"amount":471}', '{"q":"471"}', '{"q":"example.co"}', '{"amount":2.5}']
)
def test_a_part_of_a_word_or_number_does_not_come_from_the_task(args: str) -> None:
    """A task about order 4711 does not contain 471."""
    assert flags(args) == ("untrusted-value",)


def test_a_value_of_an_untrusted_result_needs_a_person_and_is_traced() -> None:
    """The person sees from which event it came."""
    read = ToolResult(outcome="succeeded", value={"to": "eve@evil.org"})
    story = at_work(call("look")).finish_tools(look=read).finish_model(reply(call("pay", '{"q":"eve@evil.org"}')))
    line = story.last(Judged).calls[0].provenance[0]
    assert (line.path, line.n, line.field) == ("$.q", story.run.calls["look"].finished_n, "untrusted")


def test_a_value_of_a_trusted_field_needs_no_person() -> None:
    """``trusted`` names the parts of a result that count."""
    trusting = agent(
        tools=(contract("look", trusted=("order.mail",)), contract("pay", tier="irreversible")),
        policy=Policy(clear=("pay",)),
    )
    read = ToolResult(outcome="succeeded", value={"order": {"mail": "kim@x.org", "note": "eve@x.org"}})
    assert flags('{"q":"kim@x.org"}', trusting, look=read) == ()
    assert flags('{"q":"eve@x.org"}', trusting, look=read) == ("untrusted-value",)


@pytest.mark.parametrize(("trusted", "flagged"), [(True, ()), (False, ("untrusted-value",))])
def test_a_persons_answer_is_trusted_and_a_clients_is_not(*, trusted: bool, flagged: tuple[str, ...]) -> None:
    """A person was asked and replied; a reply with a client's credential could come from any service."""
    story = at_work(call("ask.person", '{"question":"to whom?"}', id="q"))
    message = ControlMessage(verb="answer", control=Control(by="bob", call="q", answer="kim@x.org"), trusted=trusted)
    story.when("approver", message).append_decided().run_until_idle().finish_model(
        reply(call("pay", '{"q":"kim@x.org"}'))
    )
    assert story.last(Answered).untrusted is not trusted
    assert story.last(Judged).calls[0].flags == flagged


def test_the_same_question_is_asked_once_in_a_proposal() -> None:
    """The second one is rejected: the reply to the first one counts for both."""
    story = at_work(
        call("ask.person", '{"question":"to whom?"}', id="a"), call("ask.person", '{"question":"to whom?"}', id="b")
    )
    assert [verdict.verdict for verdict in story.last(Judged).calls] == ["pass", "reject"]
    assert "already" in story.run.calls["b"].outcome_text


@pytest.mark.parametrize(
    ("url", "stage"),
    [("https://x.org/a", "answered"), ("https://x.org/a?d=4711", "asked"), ("https://y.org/", "asked")],
)
def test_a_read_that_sends_out_a_composed_value_needs_a_person(url: str, stage: str) -> None:
    """A link that appears in the run may be followed; one that the model composed may carry a secret."""
    fetching = agent(tools=(contract("look"), contract("fetch", egress=("q",))))
    read = ToolResult(outcome="succeeded", value={"link": "https://x.org/a"})
    story = (
        at_work(call("look"), version=fetching)
        .finish_tools(look=read)
        .finish_model(reply(call("fetch", f'{{"q":"{url}"}}')))
    )
    if stage == "answered":
        story.finish_tools(fetch=OK)
    assert story.stage("fetch") == stage
