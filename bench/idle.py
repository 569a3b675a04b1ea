"""What an idle process costs, with no run in the log and with 5,000 finished ones."""

from __future__ import annotations

import time
from typing import Final

import anyio
from bench.report import Report
from bench.system.linestop_processes import ONE, SEPARATIONS, Separation
from bench.system.process_use import cpu_s, memory_mb
from bench.system.project_folder import ONE_TURN
from bench.system.running_system import RunningSystem, running_system

FINISHED: Final = 5_000
SETTLE_S: Final = 5.0
SECONDS: Final = 20.0
TICK_S: Final = 0.01


async def measure(report: Report, *, full: bool) -> None:
    """One process; ``full``: also three and six."""
    for separation in SEPARATIONS if full else (ONE,):
        try:
            await measure_separation(report, separation)
        except Exception as error:  # noqa: BLE001 - the others can be measured
            report.fail("idle", separation.name, error)


async def measure_separation(report: Report, separation: Separation) -> None:
    """Measure before and after the runs."""
    async with running_system([ONE_TURN], separation) as system:
        first = await measure_idle(report, system, f"{separation.name}, no run")
        await system.complete(ONE_TURN, FINISHED)
        last = await measure_idle(report, system, f"{separation.name}, 5,000 finished runs")
        report.add("idle", separation.name, "CPU with 5,000 finished runs to none", last / first)
        report.add("idle", separation.name, "memory with 5,000 finished runs", memory_mb(system.pids), "MB")


async def measure_idle(report: Report, system: RunningSystem, configuration: str) -> float:
    """Report the CPU time while nothing happens; return that of linestop, at least a tick's."""
    await anyio.sleep(SETTLE_S)
    used, broker_used, began = cpu_s(system.pids), cpu_s(system.broker.pids()), time.perf_counter()
    await anyio.sleep(SECONDS)
    took_s = time.perf_counter() - began
    used, broker_used = cpu_s(system.pids) - used, cpu_s(system.broker.pids()) - broker_used
    report.add("idle", configuration, "CPU", used / took_s * 1e3, "ms a second")
    report.add("idle", configuration, "CPU of the broker", broker_used / took_s * 1e3, "ms a second")
    return max(used, TICK_S) / took_s
