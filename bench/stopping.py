"""How long ``linestop stop`` takes with many open runs on a real broker, and the CPU time of the command.

The runs wait for models that never reply. *Stored*: the command has ended, so every stop is stored; *over*: the
process that works on the runs has cancelled its calls and ended the runs.
"""

from __future__ import annotations

import time
from typing import Final

import anyio
import msgspec
from bench.report import Report
from bench.system.linestop_processes import ONE, run_command
from bench.system.process_use import children_cpu_s
from bench.system.project_folder import NEVER
from bench.system.running_system import TENANT, RunningSystem, running_system

from linestop.bus.streams import stream_names

SCOPES: Final = (
    ("--all",),
    ("--agent", NEVER.name),
    ("--tenant", TENANT),
    ("--user", "user-0"),
    ("--tool", "look"),
)
"""The scopes that are stopped; ``--user`` names only a fiftieth of the runs."""

RUNS: Final = 1_000
WITHIN_S: Final = 300.0


async def measure(report: Report, *, full: bool) -> None:
    """All runs; ``full``: also those of an agent, a tenant, a user and a tool."""
    for scope in SCOPES if full else SCOPES[:1]:
        async with running_system([NEVER], ONE, many_starts=True) as system:
            await measure_scope(report, system, scope)


async def measure_scope(report: Report, system: RunningSystem, scope: tuple[str, ...]) -> None:
    """Open the runs, stop the scope as a person does, and wait until the stopped runs are over."""
    await system.submit_many(NEVER, RUNS)
    await system.wait_for_starts(RUNS)
    used, began = children_cpu_s(), time.perf_counter()
    printed = await run_command(["stop", *scope, "--json"], system.project, system.directory)
    stored_s, used = time.perf_counter() - began, children_cpu_s() - used
    stopped = len(msgspec.json.decode(printed)["stopped"])
    with anyio.fail_after(WITHIN_S):
        while (await system.stream_state(stream_names.OUTCOMES))["messages"] < stopped:
            await anyio.sleep(0.05)
    configuration = f"stop {' '.join(scope)}, 1,000 open runs"
    report.add("stopping", configuration, "stopped runs", stopped, better="higher")
    report.add("stopping", configuration, "until stored", stored_s, "s")
    report.add("stopping", configuration, "until over", time.perf_counter() - began, "s")
    report.add("stopping", configuration, "CPU of the command", used, "s")
