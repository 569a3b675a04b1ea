"""When somebody must look at a run again although nothing happens."""

from __future__ import annotations

from datetime import timedelta

from tests.builders import NOW, OK, Story, agent, at_work, call

from linestop.schemas.events import Policy, Stopped
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.next_action import NextStart, next_start


def told(story: Story) -> list[tuple[float, str, str]]:
    """Seconds from the beginning, role and name of every deadline."""
    return [((d.at - NOW).total_seconds(), d.role, d.name) for d in deadlines(story.run, story.now, story.performing)]


def test_an_open_model_call_is_looked_at_when_it_should_be_done() -> None:
    """By the planner, and by budget, which holds for a takeover."""
    found = set(told(Story(agent(limits={"wall_s": 1_000})).opened().quiet()))
    assert {(130.0, "planner", "done-by"), (130.0, "budget", "done-by")} <= found


def test_an_open_effect_is_looked_at_when_it_should_be_done() -> None:
    """Also after a stop."""
    story = at_work(call("look"))
    assert {(12.0, "executor", "done-by"), (12.0, "budget", "done-by")} <= set(told(story))
    story.given(Stopped(by="a", why="x"), by="operator")
    assert told(story) == [(12.0, "executor", "done-by"), (12.0, "budget", "done-by")]


def test_a_working_run_has_its_wall_and_its_last_day() -> None:
    """Its wall as long as something is performed, for the role that does; nobody else can know when it comes."""
    story = Story().opened()
    assert told(story) == [(30 * 86_400.0, "validator", "run-max")]
    story.quiet()
    assert (120.0, "planner", "wall") in told(story)
    assert "wall" not in {deadline.name for deadline in deadlines(story.run, story.now)}
    working = at_work(call("look"), version=agent(limits={"wall_s": 10}))
    assert (10.0, "executor", "wall") in told(working)


def test_a_call_that_must_be_over_before_the_wall_does_not_come_to_it() -> None:
    """After its ``done_by`` nobody works on it."""
    assert "wall" not in {name for _, _, name in told(at_work(call("look")))}


def test_a_waiting_run_has_no_wall() -> None:
    """It has the expiry of what it asked instead."""
    found = told(at_work(call("pay")))
    assert found == [(3_600.0, "approver", "expiry"), (30 * 86_400.0, "validator", "run-max")]


def test_time_that_was_waited_moves_the_wall() -> None:
    """Only work counts."""
    story = (
        at_work(call("pay"), version=agent(limits={"wall_s": 5}))
        .wait(500)
        .word("approve", call="pay")
        .said()
        .quiet()
        .wait(1)
    )
    assert (505.0, "executor", "wall") in told(story)


def test_a_question_about_spending_expires() -> None:
    """Like any other."""
    story = Story(agent(policy=Policy(ask_on_spend=True), limits={"ask_from_micros": 0})).opened().quiet()
    assert (3_600.0, "approver", "expiry") in told(story)
    assert "wall" not in {name for _, _, name in told(story)}


def test_a_wait_ends_at_its_moment() -> None:
    """The executor says so."""
    assert (60.0, "executor", "wait") in told(at_work(call("wait.until", '{"until":60}', id="w")))


def test_a_retry_has_its_moment() -> None:
    """Of a model call as of an effect."""
    story = Story().opened().quiet().model(ModelFailed("availability", "down"))
    start = next_start(story.run, story.now)
    assert isinstance(start, NextStart)
    assert ((start.at - NOW).total_seconds(), "planner", "retry") in told(story)
    assert timedelta(seconds=0.75) <= start.at - NOW <= timedelta(seconds=1.25)


def test_a_sealed_run_has_none() -> None:
    """It is over."""
    assert told(at_work(call("look")).tools(look=OK).model(Story().caller.answer)) == []
    assert told(Story()) == []
