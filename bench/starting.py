"""How long until linestop works: ``linestop dev`` until it is ready, and a successor after kill -9 of a worker."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
from bench.report import Report, median
from bench.system.linestop_processes import start_process
from bench.system.project_folder import NEVER
from bench.system.running_system import running_system

ROUNDS: Final = 5
IN_FLIGHT: Final = 16
SETTLE_S: Final = 1.0
WORKER: Final = ["up", "--name", "bench"]


async def measure(report: Report, *, full: bool) -> None:
    """Both; nothing more with ``full``."""
    del full
    await measure_dev(report)
    await measure_kill(report)


async def measure_dev(report: Report) -> None:
    """Start ``linestop dev`` in an empty folder, and again in the same one."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="linestop-bench-") as folder:
            for times in (first, again):
                began = time.perf_counter()
                process = await start_process(
                    ["dev", "--port", "0"], Path(folder), Path(folder) / ".linestop", instant=False
                )
                times.append(time.perf_counter() - began)
                await process.end(kill=False)
    report.add("starting", "linestop dev in an empty folder", "until ready", median(first), "s")
    report.add("starting", "linestop dev again", "until ready", median(again), "s")


async def measure_kill(report: Report) -> None:
    """Kill the worker with 16 runs in flight and start its successor at once, until the successor's first event."""
    times: list[float] = []
    async with running_system([NEVER], None, many_starts=True) as system:
        system.processes = [await start_process(WORKER, system.project, system.directory)]
        for _ in range(ROUNDS):
            before = len(system.starts)
            await system.submit_many(NEVER, IN_FLIGHT)
            await system.wait_for_starts(before + IN_FLIGHT)
            before, killed = len(system.starts), time.perf_counter()
            await system.end_processes()
            system.processes = [await start_process(WORKER, system.project, system.directory)]
            await system.wait_for_starts(before + 1)
            times.append(system.starts[before].at - killed)
            # Every run that was interrupted is under way again before the next kill.
            await anyio.sleep(SETTLE_S)
    report.add("starting", "kill -9 with 16 runs in flight", "until the successor's first work", median(times), "s")
