"""What the defaults of processes and of money do."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

import os
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import anyio
from tests.schemas.default_cases import Cases, virtually

CASES = Cases()
case = CASES.case


COUNTED = ("log.fullest", "log.open_runs", "log.run_changes", "log.moved", "log.load", "log.load_leader", "timers.set")


@case("SWEEP_EVERY_S", "600.0")
@case("HEAD_CHECK_S", "600.0")
@case("REFRESH_FACTS_EVERY_S", "600.0")
@case("RELEASE_HOLDS_EVERY_S", "600.0")
@case("EFFECT_AFTER_ACK_S", "-1.0")
@case("TIMER_IN_PROCESS_MAX_S", "86_400.0")
def requests_of_a_process() -> object:
    """A model that takes a minute, then a question that waits for ten."""
    from tests.virtual_processes import ONE, ScriptedModel, calls, processes

    async def main() -> dict[str, int]:
        model = ScriptedModel([calls(("look", {"q": "a"})), calls(("pay", {"q": "b"}))], [60.0])
        operations: Counter[str] = Counter()
        async with processes(ONE, model, sweeping=True) as line:
            before = line.faults.before

            async def count(operation: str) -> None:
                operations[operation] += 1
                await before(operation)

            with patch.object(line.faults, "before", count):
                await anyio.sleep(600)
        return {name: operations[name] for name in COUNTED}

    return virtually(main)


@case("SWEEP_TRIES_MAX", "2")
def passes_over_a_run_that_does_not_move() -> object:
    """How many rounds of the sweep it takes until the run is stopped."""
    from tests.builders import NOW

    from linestop.bus.interfaces import ChangesPosition, RunChanges
    from linestop.runtime.housekeeping.stalled_run_sweep import Sweep

    stopped: list[int] = []

    async def fail(*_: Any, **__: Any) -> None:
        raise ValueError("it fails")

    async def stop(*_: Any, **__: Any) -> int:
        stopped.append(1)
        return 7

    async def open_runs() -> list[tuple[str, str]]:
        return [("acme", "r1")]

    async def run_changes(_: object) -> RunChanges:
        return RunChanges(position=ChangesPosition())

    def peek(*_: str) -> None:
        return None

    shell = SimpleNamespace(
        advance=fail, stop_stuck=stop, cache=SimpleNamespace(peek=peek), config=SimpleNamespace(may_decide=lambda: True)
    )

    async def main() -> int:
        nothing = cast("Any", None)
        sweep = Sweep(
            cast("Any", shell),
            cast("Any", SimpleNamespace(open_runs=open_runs, run_changes=run_changes)),
            nothing,
            lambda: NOW,
        )
        for _ in range(5):
            await sweep.once()
        return len(stopped)

    return virtually(main)


@case("DEFAULT_TENANT", "'other'")
def a_project_without_configuration() -> object:
    """The tenant of its tasks."""
    from linestop.config.project_file import load_project

    with tempfile.TemporaryDirectory() as folder:
        return load_project(Path(folder), environ={}).config.tenant


@case("AccountLimits.user_day_micros", "10")
@case("AccountLimits.tenant_day_micros", "10")
@case("AccountLimits.system_hour_micros", "10")
def a_hold_of_a_thousand() -> object:
    """Which account refuses it."""
    from tests.builders import NOW

    from linestop.runtime.money.holds import HoldRequest
    from linestop.runtime.money.ledger import AccountLedger
    from linestop.runtime.process_settings import ProcessSettings
    from linestop.testing.memory import MemoryBroker

    async def main() -> str:
        bucket = MemoryBroker(lambda: NOW).bucket("shared")
        ledger = AccountLedger(bucket, ProcessSettings(worker="w").account_limits, now=lambda: NOW)
        hold = HoldRequest(
            hold="acme.r1.1", amount_min_micros=1_000, amount_micros=1_000, tenant="acme", user="ann", opened_at_ms=0
        )
        return (await ledger.reserve(hold)).refused_account

    return virtually(main)


@case("ORPHANED_AFTER_S", "10.0")
def an_orphaned_hold() -> object:
    """How many are given back after a minute."""
    from tests.builders import NOW

    from linestop.runtime.money.holds import HoldRequest
    from linestop.runtime.money.ledger import AccountLedger
    from linestop.runtime.money.orphaned_holds import release_orphaned_holds
    from linestop.runtime.process_settings import ProcessSettings
    from linestop.testing.memory import MemoryBroker

    async def main() -> int:
        at = [NOW]
        broker = MemoryBroker(lambda: at[0])
        ledger = AccountLedger(broker.bucket("shared"), ProcessSettings(worker="w").account_limits, now=lambda: at[0])
        hold = HoldRequest(
            hold="acme.r1.1", amount_min_micros=1_000, amount_micros=1_000, tenant="acme", user="ann", opened_at_ms=0
        )
        await ledger.reserve(hold)
        at[0] += timedelta(seconds=60)
        return await release_orphaned_holds(ledger, broker.log())

    return virtually(main)


@case("RUNS_PER_CORE", "2")
@case("STARTS_PER_CORE", "2")
@case("CORES_COUNTED_MAX", "1")
@case("WorkerLimits.runs_max", "2")
@case("WorkerLimits.starts_max", "2")
@case("PROCESS_TOOL_WEIGHT", "1")
def the_places_of_a_process() -> object:
    """On a machine with three cores; a tool in a process of its own takes some."""
    from tests.builders import agent as desk
    from tests.builders import at_work, call, contract
    from tests.runtime.test_capacity import ScheduledPasses

    from linestop.runtime.process_settings import ProcessSettings
    from linestop.runtime.workers.capacity import Capacity
    from linestop.schemas.events import EffectStarted

    async def main() -> tuple[int, int, int]:
        with patch.object(os, "cpu_count", return_value=3):
            capacity = Capacity(ProcessSettings(worker="w").limits, ScheduledPasses())
        story = at_work(call("look"), version=desk(tools=(contract("look", kind="process"),)))
        capacity.reserve(story.run, story.last(EffectStarted))
        return capacity.load.runs_max, capacity.load.starts_max, capacity.load.starts

    return virtually(main)


@case("HEARTBEAT_EVERY_S", "0.5")
@case("HEARTBEATS_MISSED_MAX", "1")
def a_worker_that_was_silent() -> object:
    """Whether it counts as alive after five seconds."""
    import msgspec
    from tests.builders import NOW

    from linestop.bus.interfaces import BucketValue
    from linestop.bus.stores.worker_heartbeats import Heartbeat, heartbeat_key, workers

    beat = Heartbeat(role="planner", worker="w#1", started_at=NOW)
    stored = BucketValue(
        key=heartbeat_key("planner", "w#1"), value=msgspec.json.encode(beat), revision=1, stored_at=NOW
    )
    return [worker.alive for worker in workers([stored], NOW + timedelta(seconds=5))]


@case("CACHE_RUNS_MAX", "2")
def three_runs_in_memory() -> object:
    """How many of them stay."""
    from linestop.runtime.run_cache import RunCache
    from linestop.schemas.subjects import RunId, TenantId

    cache = RunCache()
    for run in ("r1", "r2", "r3"):
        cache.get(TenantId("acme"), RunId(run))
    return len(cache)


@case("LAG_MAX_S", "0.05")
def a_process_that_is_a_little_late() -> object:
    """Whether it counts as overloaded."""
    from linestop.bus.stores.worker_heartbeats import ProcessLoad

    return ProcessLoad(runs=1, runs_max=9, starts=1, starts_max=9, waiting=0, lag_s=0.1).is_overloaded


@case("CLOCK_OFF_MAX_S", "5.0")
@case("CLOCK_TO_WARN_S", "20.0")
def a_clock_that_is_ten_seconds_off() -> object:
    """Whether its process decides, and whether ``linestop doctor`` warns."""
    from tests.builders import NOW

    from linestop.bus.stores.worker_heartbeats import Heartbeat
    from linestop.cli.doctor import worker_checks
    from linestop.clock import Clock

    clock = Clock(lambda: NOW, lambda: 0.0)
    clock.compare(NOW, NOW + timedelta(seconds=10), NOW, performing=False, has_open_runs=True)
    beat = Heartbeat(role="planner", worker="w#1", started_at=NOW, clock_offset_s=10.0)
    worker = cast("Any", SimpleNamespace(beat=beat))
    return clock.refusal, worker_checks._clock_sentences([worker])  # pyright: ignore[reportPrivateUsage]


@case("SHUTDOWN_DRAIN_S", "2.0")
def a_process_that_ends_in_the_middle_of_a_request() -> object:
    """How long it takes to end."""
    from tests.run_logs import InMemory
    from tests.virtual_processes import ONE, ScriptedModel, ScriptedTools, calls, processes

    from linestop.runtime.actor_process import ActorProcess
    from linestop.runtime.process_settings import ProcessSettings
    from linestop.runtime.role_factory import make_role
    from linestop.testing.virtual_time import virtual_now

    async def main() -> float:
        model = ScriptedModel([calls(("look", {"q": "a"}))], [300.0])
        roles = [make_role(role, requester=model, runner=ScriptedTools()) for role in ONE[0]]
        async with processes((), model) as line:
            settings = ProcessSettings(worker="w#1", now=virtual_now, sweeping=False)
            async with ActorProcess(InMemory(line.broker), roles, settings).running():
                await anyio.sleep(5)
                began = anyio.current_time()
            return round(anyio.current_time() - began, 1)

    return virtually(main)


@case("ROTATE_EVERY_S", "600.0")
def two_hours_of_rotation() -> object:
    """How often the log is rotated."""
    from linestop.runtime.housekeeping.log_rotation import Rotation

    rotated: list[int] = []

    async def rotate_once(*_: object) -> int:
        rotated.append(1)
        return 0

    nothing = cast("Any", None)

    async def main() -> int:
        with patch.object(Rotation, "rotate_once", rotate_once), anyio.move_on_after(7_200):
            await Rotation(nothing, nothing, days=1, report=nothing).run_for_ever(nothing)
        return len(rotated)

    return virtually(main)


@case("SPACE_CHECK_EVERY_S", "5.0")
def a_minute_of_a_space_watch() -> object:
    """How often it checks."""
    from linestop.runtime.housekeeping.space_alerts import SpaceWatch

    checked: list[int] = []

    async def check(_: object) -> None:
        checked.append(1)

    nothing = cast("Any", None)

    async def main() -> int:
        with patch.object(SpaceWatch, "check", check), anyio.move_on_after(60):
            await SpaceWatch(nothing, nothing, None, nothing).run_for_ever()
        return len(checked)

    return virtually(main)
