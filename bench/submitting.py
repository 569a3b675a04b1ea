"""How long a client waits until its task is accepted, beside 100 and beside 5,000 runs that wait for a model."""

from __future__ import annotations

import time
from typing import Final

from bench.report import Report, median, percentile_99
from bench.system.linestop_processes import ONE
from bench.system.process_use import cpu_s
from bench.system.project_folder import NEVER
from bench.system.running_system import TENANT, RunningSystem, running_system

from linestop import Client

BUSY: Final = (100, 5_000)
SUBMISSIONS: Final = 200


async def measure(report: Report, *, full: bool) -> None:
    """One process; nothing more with ``full``."""
    del full
    async with running_system([NEVER], ONE, many_starts=True) as system:
        medians = [await measure_beside(report, system, busy) for busy in BUSY]
    report.add("submitting", ONE.name, "p50 beside 5,000 busy runs to beside 100", medians[1] / medians[0])


async def measure_beside(report: Report, system: RunningSystem, busy: int) -> float:
    """Submit one task after the other while that many runs are busy; return the median in ms."""
    await system.submit_many(NEVER, busy - len(system.starts))
    await system.wait_for_starts(busy)
    times: list[float] = []
    used, began = cpu_s(system.pids), time.perf_counter()
    async with Client.connect(system.directory, as_="operator") as client:
        for _ in range(SUBMISSIONS):
            sent = time.perf_counter()
            await client.submit(NEVER.name, "go", tenant=TENANT)
            times.append((time.perf_counter() - sent) * 1e3)
    took_s, used = time.perf_counter() - began, cpu_s(system.pids) - used
    configuration = f"{ONE.name}, {busy:,} busy runs"
    report.add("submitting", configuration, "p50 until accepted", median(times), "ms")
    report.add("submitting", configuration, "p99 until accepted", percentile_99(times), "ms")
    report.add("submitting", configuration, "CPU for each", used / SUBMISSIONS * 1e3, "ms")
    report.add("submitting", configuration, "CPU", used / took_s * 1e3, "ms a second")
    return median(times)
