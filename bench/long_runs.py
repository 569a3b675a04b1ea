"""Whether a turn costs the same in a long run: its length at event 20 and at event 1,500 of a run.

Short and long runs alternate, one at a time, so that both meet the same moments of a shared machine.
"""

from __future__ import annotations

from typing import Final

from bench.report import Report, median
from bench.system.linestop_processes import ONE, SEPARATIONS, Separation
from bench.system.project_folder import TEN_TURNS, working_agent
from bench.system.running_system import TurnStart, running_system, turn_lengths

LONG: Final = working_agent(315)
"""Its runs have 1,500 events also if a turn has five, and less than the 2,000 that a run may have if it has six."""

EARLY: Final = range(10, 40)
LATE: Final = range(1_400, 1_560)
ROUNDS: Final = 4
SHORT_RUNS_A_ROUND: Final = 8


async def measure(report: Report, *, full: bool) -> None:
    """One process; ``full``: also three and six."""
    for separation in SEPARATIONS if full else (ONE,):
        try:
            await measure_separation(report, separation)
        except Exception as error:  # noqa: BLE001 - the others can be measured
            report.fail("long_runs", separation.name, error)


async def measure_separation(report: Report, separation: Separation) -> None:
    """Compare the turns at the beginning of short runs with those late in long ones."""
    starts: list[TurnStart] = []
    async with running_system([TEN_TURNS, LONG], separation) as system:
        await system.complete(TEN_TURNS, 3)
        for _ in range(ROUNDS):
            starts += await system.complete(TEN_TURNS, SHORT_RUNS_A_ROUND, in_flight=1)
            starts += await system.complete(LONG, 1, in_flight=1)
    early, late = (
        median([length for n, length in turn_lengths(starts) if n in events]) * 1e3 for events in (EARLY, LATE)
    )
    report.add("long_runs", separation.name, "p50 of a turn at event 20", early, "ms")
    report.add("long_runs", separation.name, "p50 of a turn at event 1,500", late, "ms")
    report.add("long_runs", separation.name, "event 1,500 to event 20", late / early)
