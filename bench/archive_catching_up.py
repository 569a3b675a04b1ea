"""What runs notice of an archive that catches up with a log of 40,000 events, and how fast it catches up meanwhile."""

from __future__ import annotations

import time
from typing import Final

import anyio
from bench.report import Report, median
from bench.system.linestop_processes import ONE, run_command
from bench.system.process_use import children_cpu_s
from bench.system.project_folder import TEN_TURNS
from bench.system.running_system import LoadSample, RunningSystem, running_system

from linestop.archive.query_socket import QueryRequest, ask_recorder
from linestop.archive.requests import ARCHIVE_FILE
from linestop.bus.streams import stream_names

EVENTS: Final = 40_000
IN_FLIGHT: Final = 16
SECONDS: Final = 3.0
SECONDS_BEHIND: Final = 1.5
"""Shorter than the archive needs at 20,000 events a second."""

POLL_S: Final = 0.1
CAUGHT_UP_WITHIN_S: Final = 120.0
BENCH: Final = "archive_catching_up"


async def measure(report: Report, *, full: bool) -> None:
    """One process; nothing more with ``full``."""
    del full
    async with running_system([TEN_TURNS], ONE) as system:
        while await last_event(system) < EVENTS:
            await system.complete(TEN_TURNS, 100)
        await system.end_processes()
        await measure_rebuild(report, system)
        await remove_archive(system)
        log_events = await last_event(system)
        await system.start(ONE)
        behind: list[LoadSample] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_catching_up, report, system, log_events)
            behind.append(await system.keep_busy(TEN_TURNS, IN_FLIGHT, SECONDS_BEHIND, warm_s=0.2))
        level = [await system.keep_busy(TEN_TURNS, IN_FLIGHT, SECONDS) for _ in range(3)]
    turns_s = median([each.turns_s for each in level])
    report.add(BENCH, ONE.name, "turns beside it to turns after it", behind[0].turns_s / turns_s, better="higher")


async def report_catching_up(report: Report, system: RunningSystem, events: int) -> None:
    """Report how fast the archive reads the events that were in the log when its process started."""
    began = time.perf_counter()
    with anyio.fail_after(CAUGHT_UP_WITHIN_S):
        while await archived(system) < events:
            await anyio.sleep(POLL_S)
    rate = events / (time.perf_counter() - began)
    report.add(BENCH, ONE.name, "events archived beside turns", rate, "/s", better="higher")


async def measure_rebuild(report: Report, system: RunningSystem) -> None:
    """Read the whole log into an empty archive, with nothing else running; the command's own start is subtracted."""
    events = await last_event(system)
    status = await timed(system, ["recorder", "status", "--json"])
    rebuild = await timed(system, ["recorder", "rebuild", "--json"])
    report.add(BENCH, "nothing else", "events archived", events / (rebuild[0] - status[0]), "/s", better="higher")
    report.add(BENCH, "nothing else", "CPU", (rebuild[1] - status[1]) / events * 1e3, "ms an event")


async def timed(system: RunningSystem, command: list[str]) -> tuple[float, float]:
    """Run a command; return the seconds and the CPU seconds that it took."""
    used, began = children_cpu_s(), time.perf_counter()
    await run_command(command, system.project, system.directory)
    return time.perf_counter() - began, children_cpu_s() - used


async def last_event(system: RunningSystem) -> int:
    """The number of events in the log."""
    return int((await system.stream_state(stream_names.RUNS))["last_seq"])


async def archived(system: RunningSystem) -> int:
    """How many events are in the archive."""
    status = await ask_recorder(system.directory / ARCHIVE_FILE, QueryRequest(want="status"))
    return status.watermark if status else 0


async def remove_archive(system: RunningSystem) -> None:
    """Delete the archive's files; no process may have them open."""
    async for path in anyio.Path(system.directory).glob(f"{ARCHIVE_FILE}*"):
        await path.unlink()
