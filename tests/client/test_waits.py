"""What a run waits for according to ``show``, since when and until when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import NOW, OK, Story, agent, at_work, call

from linestop.bus.stores.worker_heartbeats import Heartbeat, ProcessLoad, WorkerStatus
from linestop.client.what_a_run_waits_for import Wait, waits
from linestop.schemas.events import AccountLine, Policy, Queued, SettledHold
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.subjects import ACTORS, RoleName

BUSY = ProcessLoad(runs=64, runs_max=64, starts=64, starts_max=64, waiting=3, lag_s=0.0)


def worker(role: RoleName, name: str = "w#1", *, alive: bool = True, **fields: Any) -> WorkerStatus:
    """A worker whose last heartbeat was at ``NOW``."""
    return WorkerStatus(beat=Heartbeat(role=role, worker=name, started_at=NOW, **fields), last_beat=NOW, alive=alive)


def all_workers(*without: RoleName) -> list[WorkerStatus]:
    """One living worker of each role except these."""
    return [worker(role) for role in ACTORS if role not in without]


def after(seconds: float) -> datetime:
    """The moment ``seconds`` after the story began."""
    return NOW + timedelta(seconds=seconds)


def only_wait(story: Story, workers: list[WorkerStatus] | None = None, *, later_s: float = 0.0) -> Wait:
    """The one thing that the run waits for."""
    (wait,) = waits(story.run, story.now + timedelta(seconds=later_s), workers)
    return wait


def test_a_run_waits_for_the_role_whose_turn_it_is_and_names_a_missing_worker() -> None:
    """Since its last event, and at most until the run's deadline."""
    story = Story().open_run()
    wait = only_wait(story, all_workers("budget"), later_s=38)
    assert (wait.kind, wait.role, wait.missing, wait.since) == ("worker", "budget", True, NOW)
    assert wait.sentence == (
        "waits for a budget worker, and no worker has that role: start one with `linestop actor budget`, `up` or `dev`"
    )
    assert story.run.opened is not None
    assert wait.until == story.run.opened.deadline_at
    assert only_wait(story, all_workers()).sentence == "waits for a budget worker"
    assert only_wait(story).missing is False


def test_a_role_whose_only_worker_refuses_or_is_ending_is_missing() -> None:
    """With the reason that the worker gives."""
    refuses = worker("budget", state="refusing", why="Its clock is 300 s ahead of the broker's.")
    wait = only_wait(Story().open_run(), [*all_workers("budget"), refuses])
    assert wait.missing
    assert "(Its clock is 300 s ahead of the broker's)" in wait.sentence
    assert only_wait(Story().open_run(), [*all_workers("budget"), worker("budget", state="ending")]).missing


def test_overload_is_reported_only_if_every_worker_of_the_role_is_overloaded() -> None:
    """A worker that is not overloaded takes the run."""
    story = Story().open_run()
    wait = only_wait(story, [worker("budget", load=BUSY)])
    assert (wait.overloaded, wait.missing) == (True, False)
    assert "each one is overloaded: w#1 has 64 of 64 runs, 64 of 64 starts, 3 waiting for a place" in wait.sentence
    assert not only_wait(story, [worker("budget", load=BUSY), worker("budget", "v#1")]).overloaded


def test_an_open_attempt_is_named_with_its_worker_and_its_deadline() -> None:
    """First the model's attempt, then the tool's."""
    story = Story().open_run().run_until_idle()
    wait = only_wait(story)
    assert (wait.kind, wait.sentence, wait.since) == (
        "model",
        "waits for model playbook/large (attempt 1, by w#1)",
        NOW,
    )
    assert wait.until == story.run.open_attempts[0].done_by
    wait = only_wait(at_work(call("look")))
    assert (wait.kind, wait.sentence) == ("tool", "waits for tool look (attempt 1, by w#1)")


@pytest.mark.parametrize("gone", [worker("executor", alive=False), worker("executor", "w#2", state="refusing")])
def test_an_attempt_whose_worker_is_gone_waits_for_another_executor(gone: WorkerStatus) -> None:
    """Also while ``done_by`` is far away; a later worker with the same name proves that the first one ended."""
    tool, role = waits(at_work(call("look")).run, NOW, [*all_workers("executor"), gone])
    assert tool.sentence.endswith("but that worker has ended or fallen silent")
    assert (role.role, role.missing, role.since) == ("executor", True, tool.since)
    tool, role = waits(at_work(call("look")).run, NOW, [*all_workers("executor"), gone, worker("executor", "v#1")])
    assert not role.missing


def test_a_run_waits_for_a_retry_until_its_time_and_then_for_a_role() -> None:
    """The request to a model that was unavailable is repeated."""
    story = Story().open_run().run_until_idle().finish_model(ModelFailed(kind="availability", message="503"))
    wait = only_wait(story, all_workers())
    assert (wait.kind, wait.sentence) == ("retry", "waits to try model playbook/large again")
    assert wait.until is not None
    later_s = (wait.until - story.now).total_seconds()
    assert only_wait(story, all_workers("planner", "budget"), later_s=later_s).missing


def test_a_run_waits_for_a_person_until_the_question_expires() -> None:
    """The wait names the question, who may decide it, and since when."""
    story = at_work(call("pay"))
    story.advance_s(5)
    wait = only_wait(story)
    assert (wait.kind, wait.sentence) == ("person", "waits for a person to approve pay")
    asked = story.run.calls["pay"].asked
    assert asked is not None
    assert (wait.since, wait.until) == (NOW, asked.expires_at)
    two = agent(policy=Policy(deciders=("ann", "bob"), quorum=2))
    wait = only_wait(at_work(call("pay"), version=two))
    assert wait.sentence == "waits for one of ann, bob to approve pay (0 of 2 have)"


def test_a_paused_run_waits_for_a_person_to_resume_it() -> None:
    """The wait names who paused the run and why, and hides all other waits."""
    story = at_work(call("pay")).send_control("pause", why="look at this").append_decided()
    assert only_wait(story).sentence == "waits for a person to resume it; bob paused it: look at this"


def test_a_wait_for_a_time_names_that_time() -> None:
    """The wait began when the call was cleared."""
    until = after(90)
    story = at_work(call("wait.until", msgspec.json.encode({"until": until.isoformat()}).decode()))
    wait = only_wait(story, all_workers())
    assert (wait.kind, wait.since, wait.until) == ("time", NOW, until)


def test_a_run_that_waits_for_money_names_the_account() -> None:
    """And the time at which the account's next period begins."""
    story = Story().open_run()
    line = AccountLine(account="user-acme-1", period="2026-01-01", before_micros=10, limit_micros=10, spent_micros=5)
    holds = tuple(SettledHold(hold=hold, spent_micros=0, released_micros=0) for hold in story.run.holds)
    story.given(Queued(need_micros=5, why="There is no room now.", account=line, resets_at=after(3600), holds=holds))
    wait = only_wait(story, all_workers())
    assert (wait.kind, wait.sentence) == ("account", "waits for money of user ann: There is no room now")
    assert (wait.since, wait.until) == (NOW, after(3600))


def test_a_stopped_run_waits_for_its_open_calls_and_then_for_its_receipt() -> None:
    """It no longer waits for a person; a sealed run waits for nothing."""
    story = at_work(call("look")).send_control("stop", why="enough")
    story.append_decided()
    assert only_wait(story).kind == "tool"
    story.finish_tools(look=OK)
    assert story.run.sealed is not None
    assert waits(story.run, story.now, []) == []
