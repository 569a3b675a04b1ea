"""What may start next, and what it may cost: one result for every role."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import MODEL, OK, Story, agent, at_gate, at_work, call

from linestop.schemas.defaults import TOKEN_OVERHEAD
from linestop.schemas.events import Finished, Policy
from linestop.schemas.run.starting.next_start import (
    Exhausted,
    NextStart,
    hold_target_micros,
    next_start,
    spend_question_due,
)
from linestop.schemas.tool_contracts import ToolResult


def start(story: Story) -> NextStart:
    """Return the next start."""
    found = next_start(story.run, story.now)
    assert isinstance(found, NextStart)
    return found


def test_the_first_start_is_a_model_request_for_the_whole_prompt() -> None:
    """Every byte counts as a token, and the answer at its limit."""
    story = Story().open_run()
    found = start(story)
    assert (found.kind, found.turn, found.attempt, found.at) == ("model", 1, 1, story.now)
    assert found.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD
    assert found.output_tokens_max == 4_096
    assert found.cost_max_micros == MODEL.price.cost_max_micros(found.input_tokens_max, 4_096)


def test_nothing_starts_while_something_is_open_or_asked() -> None:
    """Each of these blocks it: an open call, a judgement, a gate, a person."""
    assert next_start(Story().run, Story().now) is None
    assert next_start(Story().open_run().run_until_idle().run, Story().now) is None
    assert next_start(at_gate(call("note")).run, Story().now) is None
    assert next_start(at_work(call("pay")).run, Story().now) is None
    assert next_start(at_work().run, Story().now) is None


def test_a_call_that_may_start_costs_its_price() -> None:
    """All due calls start together."""
    story = at_gate(call("look"), call("rent"))
    found = start(story)
    assert (found.kind, found.calls, found.cost_max_micros) == ("effect", ("look", "rent"), 40_000)


def test_a_probe_waits_until_its_attempt_must_be_over_and_costs_nothing() -> None:
    """Earlier, it would run before the effect could happen; when due, it comes before other starts."""
    story = at_work(call("wire"), call("pay")).send_control("approve", call="wire").append_decided().run_until_idle()
    story.given(Finished(call="wire", attempt=1, outcome="unknown")).send_control(
        "approve", call="pay"
    ).append_decided()
    assert (start(story).kind, start(story).calls) == ("effect", ("pay",))
    story.advance_s(20)
    assert (start(story).kind, start(story).calls, start(story).cost_max_micros) == ("probe", ("wire",), 0)


def test_a_takeover_by_incarnation_is_seen_by_its_own_worker_only() -> None:
    """Budget, which has no worker, sees it at ``done_by``."""
    story = at_work(call("look"))
    assert next_start(story.run, story.now) is None
    found = next_start(story.run, story.now, "w#2")
    assert isinstance(found, NextStart)
    assert found.takeover
    assert start(story.advance_s(12)).takeover


def test_a_probe_is_made_once() -> None:
    """After it nothing can start: a person must decide."""
    story = at_work(call("wire")).send_control("approve", call="wire").append_decided().run_until_idle()
    story.finish_tools(wire=ToolResult(outcome="unknown")).advance_s(20).run_until_idle().finish_tools(
        wire=ToolResult(outcome="unknown")
    )
    assert next_start(story.run, story.now) is None


@pytest.mark.parametrize(
    ("limits", "name"),
    [({"turns_max": 0}, "turns_max"), ({"tokens_max": 100}, "tokens_max"), ({"events_max": 51}, "events_max")],
)
def test_a_run_at_a_limit_says_which(limits: dict[str, int], name: str) -> None:
    """The stop has the limit's value and its maximum."""
    story = Story(agent(limits=limits)).open_run()
    found = next_start(story.run, story.now)
    assert isinstance(found, Exhausted)
    assert (found.code, found.limit, found.max_value) == ("limit", name, limits[name])
    assert f"'{name}'" in found.why


def test_spending_is_asked_about_once_it_would_pass_the_threshold() -> None:
    """The sum is: spent, reserved and the next start."""
    story = Story(agent(policy=Policy(ask_on_spend=True))).open_run()
    cost = start(story).cost_max_micros
    for threshold, due in ((cost, False), (cost - 1, True)):
        version = agent(policy=Policy(ask_on_spend=True), limits={"ask_from_micros": threshold})
        asking = Story(version).open_run()
        assert spend_question_due(asking.run, asking.now) is due
        assert (next_start(asking.run, asking.now) is None) is due


def test_a_hold_is_what_is_missing_or_a_few_starts_ahead_within_the_limit() -> None:
    """It is 0 if the start is covered, -1 if the limit forbids it."""
    story = Story(agent(limits={"cost_max_micros": 100})).open_run()
    found = start(story)
    small = msgspec.structs.replace(found, cost_max_micros=10)
    assert hold_target_micros(story.run, small) == 40
    assert hold_target_micros(story.run, msgspec.structs.replace(found, cost_max_micros=60)) == 100
    assert hold_target_micros(story.run, msgspec.structs.replace(found, cost_max_micros=101)) == -1
    held = Story().open_run().run_until_idle()
    assert hold_target_micros(held.run, small) == 0


def test_the_next_turn_comes_when_all_calls_have_ended() -> None:
    """Its prompt is larger than the last."""
    story = at_work(call("look"))
    before = story.run.context_bytes
    story.finish_tools(look=OK)
    assert story.run.context_bytes > before
    assert story.run.turn == 2
