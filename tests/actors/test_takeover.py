"""Executor: taking over effects whose performer does not report."""

from __future__ import annotations

import pytest
from tests.builders import OK, UNKNOWN, Story, at_work, call, paid

from linestop.actors.facts import Worker
from linestop.schemas.events import (
    Asked,
    EffectStarted,
    Finished,
    Resolved,
)
from linestop.schemas.tool_contracts import ToolError, ToolResult

NEXT_INCARNATION = Worker(id="w#2")
TRANSIENT = ToolResult(outcome="failed", error=ToolError(type="transient", message="try later", retry_safe=True))


def started(story: Story) -> EffectStarted:
    """The last start of effects."""
    return story.last(EffectStarted)


def test_an_open_start_is_left_alone_until_its_end() -> None:
    """No other worker reports or repeats a start before ``done_by``."""
    story = at_work(call("look")).advance_s(11.9)
    story.when("executor").expect_nothing()


def test_a_safe_start_past_its_end_is_taken_over_under_the_same_key() -> None:
    """A read whose performer does not report is repeated with the same effect key."""
    story = at_work(call("look"))
    first = started(story).calls[0]
    again = story.advance_s(12).when("executor").then(EffectStarted).calls[0]
    assert (again.attempt, again.effect_key) == (2, first.effect_key)


def test_takeovers_end_at_the_tools_retries() -> None:
    """After three attempts without a report, the model gets an error."""
    story = at_work(call("look"))
    for _ in range(3):
        story.advance_s(12).run_until_idle()
    assert story.run.calls["look"].outcome_text == "The call did not answer in time, and was tried often enough."
    assert len(story.run.calls["look"].attempts) == 3


def test_a_later_incarnation_takes_over_a_safe_start_at_once() -> None:
    """A worker's name is locked by one process, so a later incarnation knows that the earlier one is dead."""
    story = at_work(call("look"))
    story.when("executor", NEXT_INCARNATION).then(EffectStarted, worker="w#2")


def test_another_worker_does_not_take_over_before_the_end() -> None:
    """Only the same name proves that the earlier worker is dead."""
    at_work(call("look")).when("executor", Worker(id="v#9")).expect_nothing()


def test_a_later_incarnation_does_not_repeat_an_unsafe_effect() -> None:
    """An irreversible effect of a dead worker may still have happened: not even its outcome is reported early."""
    paid().when("executor", NEXT_INCARNATION).expect_nothing()


def test_an_unsafe_start_past_its_end_is_unknown_and_a_person_is_asked() -> None:
    """Interrupted and not safe to repeat: unknown, then a person."""
    story = paid().advance_s(12)
    story.when("executor").then(Finished, outcome="unknown", attempt=1)
    story.when("executor").expect_nothing()
    assert story.when("approver").then(Asked).calls[0].rule == "unknown"


def test_an_idempotent_effect_past_its_end_is_repeated() -> None:
    """A tool that passes its key on may be called again."""
    story = at_work(call("note")).advance_s(12)
    story.when("executor").then(EffectStarted)


def test_a_probe_confirms_that_the_effect_happened() -> None:
    """The probe is a start of its own; its success is the result of the call."""
    story = paid("wire").finish_tools(wire=UNKNOWN).advance_s(20).run_until_idle()
    assert started(story).purpose == "probe"
    assert started(story).calls[0].cost_max_micros == 0
    story.finish_tools(wire=OK)
    assert story.run.calls["wire"].outcome_text == '{"ok":true}'


def test_a_probe_with_never_started_lets_the_effect_be_tried_again() -> None:
    """An effect that did not happen may be made under its approval."""
    story = (
        paid("wire")
        .finish_tools(wire=UNKNOWN)
        .advance_s(20)
        .run_until_idle()
        .finish_tools(wire=ToolResult(outcome="never_started"))
    )
    event = started(story)
    assert (event.purpose, event.calls[0].attempt) == ("effect", 3)


@pytest.mark.parametrize("result", [TRANSIENT, UNKNOWN])
def test_a_probe_without_a_finding_leaves_the_outcome_to_a_person(result: ToolResult) -> None:
    """A call is probed once; then a person must decide."""
    story = paid("wire").finish_tools(wire=UNKNOWN).advance_s(20).run_until_idle().finish_tools(wire=result)
    assert story.last(Asked).calls[0].rule == "unknown"


def test_the_next_incarnation_reports_a_silent_probe_as_unknown_at_once() -> None:
    """A probe changes nothing, so the death of its worker is reason enough."""
    story = paid("wire").finish_tools(wire=UNKNOWN).advance_s(20).run_until_idle()
    story.when("executor", NEXT_INCARNATION).then(Finished, outcome="unknown", attempt=2)


def test_a_late_result_settles_an_unknown_outcome_without_a_person() -> None:
    """A performer that was given up may still report what happened."""
    story = paid().advance_s(12).run_until_idle()
    assert story.stage("pay") == "asked"
    story.given(Finished(call="pay", attempt=1, outcome="succeeded", result="paid", late=True))
    assert story.run.calls["pay"].outcome_text == "paid"


def test_a_late_failure_of_an_earlier_attempt_does_not_settle_a_later_one() -> None:
    """A person had it tried again; the failure of the first attempt does not tell the outcome of the second."""
    story = (
        paid()
        .finish_tools(pay=UNKNOWN)
        .send_control("resolve", call="pay", action="retry")
        .append_decided()
        .run_until_idle()
        .finish_tools(pay=UNKNOWN)
    )
    failed = Finished(call="pay", attempt=1, outcome="failed", error=TRANSIENT.error, late=True)
    story.given(failed).run_until_idle()
    assert story.stage("pay") == "asked"
    assert len(story.run.calls["pay"].attempts) == 2


def test_a_late_success_of_a_superseded_attempt_settles_the_call_and_its_successor_changes_nothing() -> None:
    """An ended call stays ended, whatever the attempt that took over reports afterwards."""
    story = at_work(call("look"), call("pay")).advance_s(12).run_until_idle()
    story.given(Finished(call="look", attempt=1, outcome="succeeded", result="first", late=True)).run_until_idle()
    assert story.run.calls["look"].outcome_text == "first"
    story.given(Finished(call="look", attempt=2, outcome="failed", error=TRANSIENT.error)).advance_s(
        10
    ).run_until_idle()
    assert story.run.calls["look"].outcome_text == "first"
    assert len(story.run.calls["look"].attempts) == 2
    assert story.stage("look") == "answered"


def test_a_call_that_a_late_success_has_ended_is_not_repeated_when_its_open_attempt_expires() -> None:
    """The attempt that took over ends as unknown, and no further attempt takes over."""
    story = at_work(call("look"), call("pay")).advance_s(12).run_until_idle()
    story.given(Finished(call="look", attempt=1, outcome="succeeded", result="first", late=True)).run_until_idle()
    story.advance_s(60).run_until_idle()
    look = story.run.calls["look"]
    assert [attempt.outcome for attempt in look.attempts] == ["succeeded", "unknown"]
    assert (look.outcome_text, story.stage("look")) == ("first", "answered")


def test_a_retry_resolution_starts_the_effect_once_more() -> None:
    """``resolve retry`` makes the call startable again, under the same key."""
    story = paid().finish_tools(pay=UNKNOWN)
    key = started(story).calls[0].effect_key
    story.send_control("resolve", call="pay", action="retry").then(Resolved)
    line = story.when("executor").then(EffectStarted).calls[0]
    assert (line.attempt, line.effect_key) == (2, key)
