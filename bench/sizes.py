"""The bytes that a run leaves in each stream and in the archive, by the number of its turns.

The figures of ``linestop bus plan`` (``linestop.bus.streams.stream_sizes``) come from here.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import anyio
import msgspec
from bench.report import Report
from bench.system.linestop_processes import ONE, run_command
from bench.system.project_folder import working_agent
from bench.system.running_system import running_system

from linestop.bus.streams.stream_definitions import streams

TEXTS: Final = (100, 900)
TURNS: Final = (1, 3, 10, 20)
RUNS: Final = 50
RUNS_FULL: Final = 150


async def measure(report: Report, *, full: bool) -> None:
    """50 runs of each length; ``full``: 150."""
    for text, turns in product(TEXTS, TURNS):
        await measure_length(report, turns, text, RUNS_FULL if full else RUNS)


async def measure_length(report: Report, turns: int, text: int, runs: int) -> None:
    """Measure runs of ``turns`` turns with texts of ``text`` bytes."""
    agent = working_agent(turns, text)
    async with running_system([agent], ONE) as system:
        names = [spec.name for spec in streams()]
        await system.complete(agent, 1)
        await anyio.sleep(1)
        before = {name: await system.stored_bytes(name) for name in names}
        await system.complete(agent, runs, in_flight=16)
        await anyio.sleep(1)
        after = {name: await system.stored_bytes(name) for name in names}
        await system.end_processes()
        rebuilt = await run_command(["recorder", "rebuild", "--json"], system.project, system.directory)
    configuration = f"{turns} turns, texts of {text} bytes"
    for name in names:
        if after[name] > before[name]:
            report.add("sizes", configuration, name, (after[name] - before[name]) / runs, "bytes a run")
    report.add("sizes", configuration, "archive", msgspec.json.decode(rebuilt)["bytes"] / (runs + 1), "bytes a run")
