"""Where the values of an irreversible call come from."""

from __future__ import annotations

from typing import Any

import pytest
from tests.builders import OK, Story, agent, at_work, call, contract, reply

from linestop.actors.provenance import provenance, says, untrusted
from linestop.schemas.events import (
    Judged,
    Policy,
)
from linestop.schemas.tools import ToolResult


def flags(args: str, version: Any = None, **results: ToolResult) -> tuple[str, ...]:  # noqa: ANN401
    """The flags of an irreversible call with these arguments, after these reads."""
    story = at_work(call("look"), version=version).tools(look=results.get("look", OK)).model(reply(call("pay", args)))
    return story.last(Judged).calls[0].flags


@pytest.mark.parametrize(
    "args",
    ['{"q":"ann@example.com"}', '{"q":" Order 4711 "}', '{"amount":25}', '{"amount":25.0}', '{"q":"4711"}', "{}"],
)
def test_values_of_the_task_are_trusted(args: str) -> None:
    """As words and numbers of their own, in any case."""
    assert flags(args) == ()


@pytest.mark.parametrize(
    "args", ['{"amount":5}', '{"amount":471}', '{"q":"471"}', '{"q":"example.co"}', '{"amount":2.5}']
)
def test_a_part_of_a_word_or_number_is_not_of_the_task(args: str) -> None:
    """A task about order 4711 says nothing of 471."""
    assert flags(args) == ("untrusted-value",)


def test_a_value_of_an_untrusted_result_needs_a_person_and_is_traced() -> None:
    """The person sees from which event it came."""
    read = ToolResult(outcome="succeeded", value={"to": "eve@evil.org"})
    story = at_work(call("look")).tools(look=read).model(reply(call("pay", '{"q":"eve@evil.org"}')))
    line = story.last(Judged).calls[0].provenance[0]
    assert (line.path, line.n, line.field) == ("$.q", story.run.calls["look"].finished_n, "untrusted")


def test_a_value_of_a_trusted_field_needs_nobody() -> None:
    """``trusted`` names the parts of a result that count."""
    trusting = agent(
        tools=(contract("look", trusted=("order.mail",)), contract("pay", tier="irreversible")),
        policy=Policy(clear=("pay",)),
    )
    read = ToolResult(outcome="succeeded", value={"order": {"mail": "kim@x.org", "note": "eve@x.org"}})
    assert flags('{"q":"kim@x.org"}', trusting, look=read) == ()
    assert flags('{"q":"eve@x.org"}', trusting, look=read) == ("untrusted-value",)


def test_a_persons_answer_is_trusted() -> None:
    """What somebody was asked for and said."""
    story = at_work(call("ask.person", '{"question":"to whom?"}', id="q")).word("answer", call="q", answer="kim@x.org")
    story.said().quiet().model(reply(call("pay", '{"q":"kim@x.org"}')))
    assert story.last(Judged).calls[0].flags == ()


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("pay 1,250,000.50 now", 1_250_000.5, True), ("account 12345678.", 12_345_678, True), ("-5 degrees", -5, True),
        ("12.50€", 12.5, True), ("v12", 12, False), ("12kg", 12, False), ("a+b", "a+b", True), ("aa", "a", False),
        ("cost: 3.14", 14, False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_numbers(text: str, value: float | str, *, found: bool) -> None:
    """However they are written."""
    assert says(text, value) is found


def test_too_many_values_count_as_of_unknown_origin() -> None:
    """Two hundred leaves are looked at."""
    story = Story().opened()
    assert not untrusted(provenance(story.run, [25] * 200))
    assert untrusted(provenance(story.run, [25] * 201))
