"""The sweep alone: with every other wake of a run cut, each run still ends, at most two rounds late.

Cut are the wakes of the log, the hints of one role to another, alarms in the process, durable timers, the news of
workers that died and of accounts that have room. Only the intake (tasks, control messages) and the sweep are left.
``tests.bus.test_deadlines_on_time`` is the opposite: everything but the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from tests.bus.test_deadlines_on_time import LAYOUTS, ROWS, Layout, Row, until_event, virtually
from tests.virtual_processes import (
    HANGS,
    BrokerFaults,
    Processes,
    ScriptedModel,
    ScriptedTools,
    agent,
    calls,
    processes,
)

from linestop.bus.stores.worker_heartbeats import Roster
from linestop.runtime import run_loop
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.deadline_alarms import Alarms
from linestop.runtime.housekeeping.stalled_run_sweep import OPEN_RUN_RECHECK
from linestop.schemas.defaults import SWEEP_EVERY_S
from linestop.schemas.model_messages import ModelFailed

ROUNDS_S = 2 * SWEEP_EVERY_S + 0.5
"""A round sees that a run stands still, the next one wakes the role whose turn it is."""


def late_max_s(roles: Layout) -> float:
    """A performer elsewhere may have ended long before the sweep advances a run with an open start again."""
    return ROUNDS_S + (OPEN_RUN_RECHECK.total_seconds() if len(roles) > 1 else 0.0)


CUT = ("runs.", "live.", "timers.")


def _copies(self: BrokerFaults, subject: str) -> Sequence[float]:
    del self
    return () if subject.startswith(CUT) else (0.0,)


def _do_nothing(*args: Any, **options: Any) -> None:
    del args, options


async def _set_nothing(*args: Any, **options: Any) -> None:
    del args, options


def _no_workers(*args: Any, **options: Any) -> list[Any]:
    del args, options
    return []


@pytest.fixture(autouse=True)
def only_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every other wake."""
    cut: list[tuple[Any, str, Callable[..., Any]]] = [
        (BrokerFaults, "copies", _copies),
        (run_loop, "role_to_wake", _do_nothing),
        (Alarms, "_ring_in", _do_nothing),
        (Alarms, "_set_durable", _set_nothing),
        (ActorProcess, "_on_deaths", _do_nothing),
        (ActorProcess, "_on_funds_freed", _do_nothing),
        (Roster, "update", _no_workers),
    ]
    for owner, name, instead in cut:
        monkeypatch.setattr(owner, name, instead)


async def _expect_completion(p: Processes, *, within_s: float) -> None:
    with anyio.fail_after(within_s):
        await until_event(p, "sealed", 1)
    run = await p.run()
    assert run.sealed is not None
    assert run.sealed.status == "completed", run.sealed.why


@LAYOUTS
def test_a_run_ends(roles: Layout) -> None:
    """A turn with a call and one without; with one role per process each of the dozen steps waits for the sweep."""

    async def main() -> None:
        model = ScriptedModel([calls(("mail", {"q": 1}))])
        async with processes(roles, model, version=agent(limits={"wall_s": 10_000}), sweeping=True) as p:
            await _expect_completion(p, within_s=20 * late_max_s(roles) if len(roles) > 1 else 1)

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("name", ROWS)
def test_a_deadline_takes_effect_although_no_alarm_rings(name: str, roles: Layout) -> None:
    """Retries, expiries and waits, near and far: never before their moment, and at most two rounds later."""
    row = ROWS[name]

    async def main() -> None:
        async with processes(
            roles, ScriptedModel(row.script), ScriptedTools(row.tools), version=agent(**row.agent), sweeping=True
        ) as p:
            await until_event(p, row.since, max(_failures(row), 1))
            before, since_s = len(await p.event_times(row.then)), (await p.event_times(row.since))[-1]
            due_s = since_s + row.after_s
            await anyio.sleep(due_s + late_max_s(roles) - (anyio.current_time() - p.began_s))
            found = await p.event_times(row.then)
            assert len(found) > before, (await p.run()).entries
            assert due_s - 1e-6 <= found[before] <= due_s + late_max_s(roles), found[before] - due_s

    virtually(main)


def _failures(row: Row) -> int:
    return sum(isinstance(answer, ModelFailed) for answer in row.script) + sum(map(len, row.tools.values()))


@LAYOUTS
@pytest.mark.parametrize("role", ["executor", "planner"])
def test_an_open_start_of_a_dead_worker_is_taken_over(role: Any, roles: Layout) -> None:
    """At its end, by a worker that knows of the death only from the log."""

    async def main() -> None:
        model = ScriptedModel([calls(("mail", {"q": 1}))], [] if role == "executor" else [HANGS])
        scripted_tools = ScriptedTools(takes_s={"mail": [HANGS]} if role == "executor" else {})
        async with processes(
            roles, model, scripted_tools, version=agent(limits={"wall_s": 10_000}), sweeping=True
        ) as p:
            await until_event(p, f"{role}.started", 1)
            done_s = ((await p.run()).open_attempts[0].done_by - p.began).total_seconds()
            await p.start(await p.kill(role), "spare#1")
            await anyio.sleep(done_s + 2 * ROUNDS_S - (anyio.current_time() - p.began_s))
            again_s = (await p.event_times(f"{role}.started"))[1]
            assert done_s <= again_s <= done_s + 2 * ROUNDS_S, again_s - done_s

    virtually(main)
