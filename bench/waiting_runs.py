"""What 1,000 runs that wait for a person's approval cost: turns of other runs beside them, and memory."""

from __future__ import annotations

from typing import Final

from bench.report import Report, median
from bench.system.linestop_processes import ONE, SEPARATIONS, Separation
from bench.system.process_use import memory_mb
from bench.system.project_folder import ASKS, TEN_TURNS
from bench.system.running_system import LoadSample, running_system

WAITING: Final = 1_000
IN_FLIGHT: Final = 16
SAMPLES: Final = 3
SECONDS: Final = 4.0


async def measure(report: Report, *, full: bool) -> None:
    """One process; ``full``: also three and six."""
    for separation in SEPARATIONS if full else (ONE,):
        try:
            await measure_separation(report, separation)
        except Exception as error:  # noqa: BLE001 - the others can be measured
            report.fail("waiting_runs", separation.name, error)


async def measure_separation(report: Report, separation: Separation) -> None:
    """Measure turns without and then with the waiting runs."""
    async with running_system([TEN_TURNS, ASKS], separation) as system:
        await system.complete(TEN_TURNS, 16)
        empty_mb = memory_mb(system.pids)
        alone = [await system.keep_busy(TEN_TURNS, IN_FLIGHT, SECONDS) for _ in range(SAMPLES)]
        before_mb = memory_mb(system.pids)
        await system.submit_many(ASKS, WAITING)
        await system.wait_until(lambda: system.asked >= WAITING)
        waiting_mb = memory_mb(system.pids)
        beside = [await system.keep_busy(TEN_TURNS, IN_FLIGHT, SECONDS) for _ in range(SAMPLES)]

    def add(name: str, value: float, unit: str, *, higher: bool = False) -> None:
        report.add("waiting_runs", separation.name, name, value, unit, better="higher" if higher else "lower")

    add("turns beside 1,000 waiting runs", _turns_s(beside), "/s", higher=True)
    add("turns beside 1,000 waiting runs to none", _turns_s(beside) / _turns_s(alone), "", higher=True)
    add("CPU beside 1,000 waiting runs", median([each.cpu_ms for each in beside]), "ms a turn")
    add("CPU without", median([each.cpu_ms for each in alone]), "ms a turn")
    add("memory at the beginning", empty_mb, "MB")
    add("memory of a waiting run", (waiting_mb - before_mb) / WAITING * 1e3, "KB")


def _turns_s(samples: list[LoadSample]) -> float:
    return median([each.turns_s for each in samples])
