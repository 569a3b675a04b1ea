"""A result that its process has and could not say yet, since the broker is away: nobody in that process gives it up."""

from __future__ import annotations

import pytest
from tests.builders import Story, at_work, call

from linestop.actors.facts import Performing
from linestop.schemas.events import EffectStarted, Finished, ModelFailedEvent, ModelStarted, Stopped

LATER_S = 200


def _on_its_way(story: Story) -> Performing:
    """The facts of the process that has the results of all open starts."""
    open_now = frozenset(attempt.n for attempt in story.run.open_attempts)
    return Performing(open_now, unreported=open_now)


def _lost(story: Story) -> Performing:
    """The facts of the process that had them and could not say them."""
    open_now = frozenset(attempt.n for attempt in story.run.open_attempts)
    return Performing(open_now, unreportable=open_now)


def _last_try() -> Story:
    """A call that is safe to repeat, in its last try, past its end."""
    story = at_work(call("look")).advance_s(12).run_until_idle().advance_s(12).run_until_idle().advance_s(12)
    assert (story.run.calls["look"].tries, len(story.run.open_attempts)) == (3, 1)
    return story


@pytest.mark.parametrize("over", [False, True], ids=["going on", "stopped"])
def test_a_call_past_its_end_is_not_called_unknown_by_who_has_its_result(over: bool) -> None:
    """Whoever else looks may say so; and so may its own process, if the result could not be said at all."""
    story = _last_try()
    if over:
        story.given(Stopped(by="bob", why="enough"), by="operator")
    story.when("executor", _on_its_way(story)).expect_nothing()
    story.when("executor", _lost(story)).then(Finished, call="look")


def test_a_call_past_its_end_is_not_made_again_by_who_has_its_result() -> None:
    """It would be made twice, though it succeeded."""
    story = at_work(call("look")).advance_s(LATER_S)
    story.when("executor", _on_its_way(story)).expect_nothing()
    story.when("executor").then(EffectStarted)


def test_another_call_is_started_meanwhile() -> None:
    """Only what is about to be said is waited for."""
    story = at_work(call("pay"), call("look"))
    facts = _on_its_way(story)
    story.send_control("approve", call="pay").append_decided()
    story.when("executor", facts).then(EffectStarted)


@pytest.mark.parametrize("over", [False, True], ids=["going on", "stopped"])
def test_a_model_call_past_its_end_is_neither_made_again_nor_given_up_by_who_has_its_answer(over: bool) -> None:
    """It would be paid twice, or in full."""
    story = Story().open_run().run_until_idle().advance_s(LATER_S)
    if over:
        story.given(Stopped(by="bob", why="enough"), by="operator")
    story.when("planner", _on_its_way(story)).expect_nothing()
    story.when("planner", _lost(story)).then(ModelFailedEvent if over else ModelStarted)
