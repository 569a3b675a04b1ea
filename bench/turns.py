"""What a turn with one tool call costs: speed, CPU time and bytes, against the floor of the same minutes.

Model and tool return at once; everything else is real, the archive too. Floor and system alternate in rounds, and
medians of the rounds are compared, because a shared machine changes its speed from minute to minute.
"""

from __future__ import annotations

from itertools import product

from bench.report import Report, median, percentile_99
from bench.system.brokers import BROKERS, SYNC_1S, BrokerKind
from bench.system.floor import Floor, FloorSample, running_floor
from bench.system.linestop_processes import SEPARATIONS, Separation
from bench.system.project_folder import TEN_TURNS
from bench.system.running_system import LoadSample, RunningSystem, running_system

IN_FLIGHT = (1, 16)
IN_FLIGHT_FULL = (1, 16, 64, 256)
ROUNDS = 3
FLOOR_S = 2.0
TURNS_S = 4.0


async def measure(report: Report, *, full: bool) -> None:
    """One, three and six processes with 1 and 16 runs in flight; ``full``: each broker, up to 256 in flight."""
    for broker, separation in product(BROKERS if full else (SYNC_1S,), SEPARATIONS):
        try:
            await measure_separation(report, broker, separation, IN_FLIGHT_FULL if full else IN_FLIGHT)
        except Exception as error:  # noqa: BLE001 - the other configurations can be measured
            report.fail("turns", f"{separation.name}, {broker.name}", error)


async def measure_separation(
    report: Report, broker: BrokerKind, separation: Separation, in_flights: tuple[int, ...], *, seconds: float = TURNS_S
) -> None:
    """Measure with each number of runs in flight."""
    async with running_system([TEN_TURNS], separation, broker=broker) as system:
        sizes = await system.event_sizes(TEN_TURNS)
        async with running_floor(broker, sizes) as floor:
            await system.complete(TEN_TURNS, 3)
            report.add("turns", f"{separation.name}, {broker.name}", "appends of a turn", len(sizes))
            for in_flight in in_flights:
                configuration = f"{separation.name}, {broker.name}, {in_flight} in flight"
                await measure_rounds(report, configuration, system, floor, in_flight, seconds=seconds)


async def measure_rounds(  # noqa: PLR0913 - what is measured, and how long
    report: Report, configuration: str, system: RunningSystem, floor: Floor, in_flight: int, *, seconds: float
) -> None:
    """Alternate floor and system; report the medians."""
    floors: list[FloorSample] = []
    loads: list[LoadSample] = []
    for _ in range(ROUNDS):
        floors.append(await floor.measure(in_flight, min(seconds, FLOOR_S)))
        loads.append(await system.keep_busy(TEN_TURNS, in_flight, seconds))

    def add(name: str, value: float, unit: str, *, higher: bool = False) -> None:
        report.add("turns", configuration, name, value, unit, better="higher" if higher else "lower")

    turns_s, floor_turns_s = (median([each.turns_s for each in some]) for some in (loads, floors))
    add("turns of the floor's", turns_s / floor_turns_s, "", higher=True)
    add("turns", turns_s, "/s", higher=True)
    add("turns for 1,000 appends of the floor", 1e3 * turns_s / median([f.appends_s for f in floors]), "", higher=True)
    add("CPU", median([each.cpu_ms for each in loads]), "ms a turn")
    add("CPU of the broker", median([each.broker_cpu_ms for each in loads]), "ms a turn")
    add("CPU of the floor", median([each.cpu_ms for each in floors]), "ms a turn")
    add("CPU of the floor's broker", median([each.broker_cpu_ms for each in floors]), "ms a turn")
    add("stored in RUNS", median([each.stored_bytes for each in loads]), "bytes a turn")
    if in_flight == 1:
        times = [length for each in loads for length in each.times_s]
        floor_times = [length for each in floors for length in each.times_s]
        for name, of in (("p50", median), ("p99", percentile_99)):
            add(f"{name} of a turn", of(times) * 1e3, "ms")
            add(f"{name} of a turn to the floor's", of(times) / of(floor_times), "")
