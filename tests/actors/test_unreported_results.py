"""A result that is not stored yet because the broker cannot be reached: its process does not give it up."""

from __future__ import annotations

import pytest
from tests.builders import Story, at_work, call

from linestop.actors.facts import Performing
from linestop.schemas.events import EffectStarted, Finished, ModelFailedEvent, ModelStarted, Stopped

LATER_S = 200


def _with_unreported_results(story: Story) -> Performing:
    """The facts of the process that has the results of all open starts."""
    open_now = frozenset(attempt.n for attempt in story.run.open_attempts)
    return Performing(open_now, unreported=open_now)


def _with_unreportable_results(story: Story) -> Performing:
    """The facts of the process that had the results and could not append them."""
    open_now = frozenset(attempt.n for attempt in story.run.open_attempts)
    return Performing(open_now, unreportable=open_now)


def _last_try() -> Story:
    """A call that is safe to repeat, in its last try, past its end."""
    story = at_work(call("look")).advance_s(12).run_until_idle().advance_s(12).run_until_idle().advance_s(12)
    assert (story.run.calls["look"].tries, len(story.run.open_attempts)) == (3, 1)
    return story


@pytest.mark.parametrize("over", [False, True], ids=["open", "stopped"])
def test_a_process_with_the_result_does_not_report_a_call_as_unknown(over: bool) -> None:
    """Any other process may report it, and so may its own process if the result could not be appended at all."""
    story = _last_try()
    if over:
        story.given(Stopped(by="bob", why="enough"), by="operator")
    story.when("executor", _with_unreported_results(story)).expect_nothing()
    story.when("executor", _with_unreportable_results(story)).then(Finished, call="look")


def test_a_process_with_the_result_does_not_repeat_a_call() -> None:
    """The call would be made twice although it succeeded."""
    story = at_work(call("look")).advance_s(LATER_S)
    story.when("executor", _with_unreported_results(story)).expect_nothing()
    story.when("executor").then(EffectStarted)


def test_another_call_is_started_while_a_result_is_unreported() -> None:
    """Only the call with the unreported result waits."""
    story = at_work(call("pay"), call("look"))
    facts = _with_unreported_results(story)
    story.send_control("approve", call="pay").append_decided()
    story.when("executor", facts).then(EffectStarted)


@pytest.mark.parametrize("over", [False, True], ids=["open", "stopped"])
def test_a_process_with_the_reply_neither_repeats_nor_gives_up_a_model_request(over: bool) -> None:
    """The request would be paid twice, or in full."""
    story = Story().open_run().run_until_idle().advance_s(LATER_S)
    if over:
        story.given(Stopped(by="bob", why="enough"), by="operator")
    story.when("planner", _with_unreported_results(story)).expect_nothing()
    story.when("planner", _with_unreportable_results(story)).then(ModelFailedEvent if over else ModelStarted)
