"""What the defaults of processes, streams, tools and the machine do."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from unittest.mock import patch

import anyio
import anyio.lowlevel
from tests.schemas.default_cases import Cases

CASES = Cases()
case = CASES.case
T = TypeVar("T")


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """The result of ``main`` under virtual time."""
    from linestop.testing.virtual_time import run_virtual

    results: list[T] = []

    async def run() -> None:
        results.append(await main())

    run_virtual(run, seed=1)
    return results[0]


def failure(work: Callable[[], object]) -> str:
    """The class of the error of ``work``, or nothing."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever a bound raises
        return type(error).__name__
    return ""


COUNTED = ("log.open_runs", "log.run_changes", "log.moved", "log.load", "log.load_leader", "timers.set")


@case("SWEEP_EVERY_S", "600.0")
@case("HEAD_CHECK_S", "600.0")
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


@case("APPEND_TRIES_MAX", "2")
def appends_while_another_is_in_flight() -> object:
    """How often one is repeated."""
    from linestop.bus.jetstream import retry

    asked: list[int] = []

    async def request(*_: Any, **__: Any) -> object:
        asked.append(1)
        return SimpleNamespace(data=b"")

    async def main() -> int:
        with patch.object(retry, "read_ack"), patch.object(retry, "meaning", return_value="in_flight"):
            await retry.publish(cast("Any", SimpleNamespace(request=request)), "runs.x", b"", headers=b"")
        return len(asked)

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


@case("ARCHIVE_DAYS_MAX", "10")
def a_hundred_days_in_the_archive() -> object:
    """Whether that is allowed."""
    from linestop.schemas.defaults import Retention

    return failure(lambda: Retention(archive_days=100))


@case("Retention.runs_days", "10")
@case("Retention.archive_days", "10")
def the_planned_space() -> object:
    """What ``linestop bus plan`` prints for a project without configuration."""
    printed = StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"LINESTOP_PROJECT": folder}),
        redirect_stdout(printed),
    ):
        from linestop.cli.commands.bus import plan

        figures = {"runs_per_day": 100, "turns": 5, "text_bytes": 100, "long_bytes": 0, "days": 90}
        assert plan.callback is not None
        plan.callback(disk=10**11, **figures, runs_days=None, as_json=False)
    return printed.getvalue()


@case("MESSAGE_BYTES_MAX", "100_000")
@case("CONTROL_BYTES_MAX", "10_000")
@case("BLOB_PART_BYTES", "10_000")
@case("STOP_ACK_WAIT_S", "9.0")
@case("ACK_WAIT_S", "9.0")
def what_the_broker_is_configured_with() -> object:
    """The sizes of messages, and the times after which they are delivered again."""
    from linestop.bus.streams.stream_definitions import consumers, streams

    return [spec.config for spec in streams()], [spec.config for spec in consumers()]


@case("BLOB_BYTES_MAX", "10")
def a_long_blob() -> object:
    """Whether it is stored."""
    from tests.builders import NOW, TENANT, at_once

    from linestop.testing.memory import MemoryBroker

    return failure(lambda: at_once(MemoryBroker(lambda: NOW).blobs().put(TENANT, b"x" * 11)))


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


@case("DISK_FULL_BYTES", "10**11")
@case("DISK_TO_WARN_BYTES", "10**11")
@case("SPACE_TO_WARN", "0.1")
def a_disk_that_is_half_full() -> object:
    """Whether ``linestop doctor`` warns, and whether it counts as full."""
    from linestop.bus import disk_space
    from linestop.cli.doctor import stream_checks

    here, free = Path(), 10**10
    with (
        patch.object(stream_checks, "free_bytes", return_value=free),
        patch.object(stream_checks, "used_share", return_value=0.5),
        patch.object(disk_space, "free_bytes", return_value=free),
    ):
        return disk_space.is_full(here), failure(lambda: stream_checks.check_disk(here))


@case("SPACE_HYSTERESIS", "0.001")
def a_stream_about_its_mark() -> object:
    """How often a person is told."""
    from tests.runtime.test_space_alerts import Streams, make_watch

    async def main() -> int:
        streams = Streams()
        watch = make_watch(streams)
        for used in (0.76, 0.74, 0.76):
            streams.used = {"RUNS": used}
            await watch.check()
        return len(streams.alerts)

    return virtually(main)


@case("SPACE_TO_WATCH", "0.1")
def a_stream_with_space() -> object:
    """Whether it has so much that nothing is watched."""
    from tests.runtime.test_stream_space import LIMIT, SlowLog, stream_space

    return virtually(lambda: stream_space().has_ample_space(cast("Any", SlowLog(LIMIT // 3))))


@case("TOOL_THREADS_MAX", "1")
def two_calls_of_a_thread_tool() -> object:
    """Whether the second begins."""
    from linestop.sandbox.tools.threads import run_in_thread

    release = threading.Event()

    async def main() -> str:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_in_thread, release.wait)
            await anyio.lowlevel.checkpoint()
            try:
                await run_in_thread(lambda: None)
            except Exception as error:  # noqa: BLE001 - which one is what is seen
                return type(error).__name__
            finally:
                release.set()
        return "begun"

    return asyncio.run(main())


@case("TOOL_OUTPUT_BYTES_MAX", "5")
def the_output_of_a_tool_in_its_own_process() -> object:
    """What is shown of ten bytes."""
    from linestop.sandbox.tools import process_tool

    async def output() -> AsyncIterator[bytes]:
        yield b"0123456789"

    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("linestop.tools")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        asyncio.run(process_tool._drain(cast("Any", SimpleNamespace(stdout=output())), "t"))  # pyright: ignore[reportPrivateUsage]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return shown


@case("HTTP_TEXT_CHARS_MAX", "5")
def a_page_of_ten_characters() -> object:
    """What the model reads of it."""
    from linestop.sandbox.tools.builtin import http_get

    async def get(url: str) -> object:
        return SimpleNamespace(
            headers={}, content=b"0123456789", text="0123456789", status_code=200, request=SimpleNamespace(url=url)
        )

    async def main() -> str:
        context = cast("Any", SimpleNamespace(http=SimpleNamespace(get=get)))
        return (await http_get(context, "https://example.com")).text

    return asyncio.run(main())
