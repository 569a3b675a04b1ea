"""When a role must advance a run although no event comes."""

from __future__ import annotations

from datetime import timedelta

from tests.builders import NOW, OK, Story, agent, at_work, call

from linestop.schemas.events import Policy, Stopped
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.starting.next_start import NextStart, next_start


def deadlines_of(story: Story) -> list[tuple[float, str, str]]:
    """Return seconds from the beginning, role and name of every deadline."""
    return [((d.at - NOW).total_seconds(), d.role, d.name) for d in deadlines(story.run, story.now, story.performing)]


def test_an_open_model_request_has_a_deadline_at_its_done_by() -> None:
    """It wakes the planner, and budget, which holds money for a takeover."""
    found = set(deadlines_of(Story(agent(limits={"wall_s": 1_000})).open_run().run_until_idle()))
    assert {(130.0, "planner", "done-by"), (130.0, "budget", "done-by")} <= found


def test_an_open_effect_has_a_deadline_at_its_done_by() -> None:
    """Also after a stop."""
    story = at_work(call("look"))
    assert {(12.0, "executor", "done-by"), (12.0, "budget", "done-by")} <= set(deadlines_of(story))
    story.given(Stopped(by="a", why="x"), by="operator")
    assert deadlines_of(story) == [(12.0, "executor", "done-by"), (12.0, "budget", "done-by")]


def test_a_working_run_has_its_wall_and_its_last_day() -> None:
    """The wall deadline exists only in the process that performs; no other process can know when it comes."""
    story = Story().open_run()
    assert deadlines_of(story) == [(30 * 86_400.0, "validator", "run-max")]
    story.run_until_idle()
    assert (120.0, "planner", "wall") in deadlines_of(story)
    assert "wall" not in {deadline.name for deadline in deadlines(story.run, story.now)}
    working = at_work(call("look"), version=agent(limits={"wall_s": 10}))
    assert (10.0, "executor", "wall") in deadlines_of(working)


def test_a_call_that_must_end_before_the_time_limit_has_no_wall_deadline() -> None:
    """After its ``done_by`` the call is no longer worked on."""
    assert "wall" not in {name for _, _, name in deadlines_of(at_work(call("look")))}


def test_a_waiting_run_has_no_wall_deadline() -> None:
    """It has the expiry of its question instead."""
    found = deadlines_of(at_work(call("pay")))
    assert found == [(3_600.0, "approver", "expiry"), (30 * 86_400.0, "validator", "run-max")]


def test_waiting_time_moves_the_wall_deadline() -> None:
    """Only work counts."""
    story = (
        at_work(call("pay"), version=agent(limits={"wall_s": 5}))
        .advance_s(500)
        .send_control("approve", call="pay")
        .append_decided()
        .run_until_idle()
        .advance_s(1)
    )
    assert (505.0, "executor", "wall") in deadlines_of(story)


def test_a_question_about_spending_expires() -> None:
    """It has a deadline like any other question."""
    story = Story(agent(policy=Policy(ask_on_spend=True), limits={"ask_from_micros": 0})).open_run().run_until_idle()
    assert (3_600.0, "approver", "expiry") in deadlines_of(story)
    assert "wall" not in {name for _, _, name in deadlines_of(story)}


def test_a_wait_ends_at_its_date() -> None:
    """The executor appends its end."""
    assert (60.0, "executor", "wait") in deadlines_of(at_work(call("wait.until", '{"until":60}', id="w")))


def test_a_retry_has_a_deadline() -> None:
    """Both model requests and effects have one."""
    story = Story().open_run().run_until_idle().finish_model(ModelFailed("availability", "down"))
    start = next_start(story.run, story.now)
    assert isinstance(start, NextStart)
    assert ((start.at - NOW).total_seconds(), "planner", "retry") in deadlines_of(story)
    assert timedelta(seconds=0.75) <= start.at - NOW <= timedelta(seconds=1.25)


def test_a_sealed_run_has_no_deadline() -> None:
    """It is over."""
    assert deadlines_of(at_work(call("look")).finish_tools(look=OK).finish_model(Story().caller.answer)) == []
    assert deadlines_of(Story()) == []
