"""How long commands take, against a Python that does nothing; they alternate."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

import anyio
from bench.report import Report, median
from bench.system.linestop_processes import ONE, run_command
from bench.system.process_use import children_cpu_s
from bench.system.project_folder import TEN_TURNS
from bench.system.running_system import TENANT, RunningSystem, running_system

RUNS: Final = 100
ROUNDS: Final = 9
PYTHON: Final = "python -c pass"


async def measure(report: Report, *, full: bool) -> None:
    """The commands that people type most; nothing more with ``full``."""
    del full
    async with running_system([TEN_TURNS], ONE) as system:
        run, sealed = await system.submit(TEN_TURNS)
        await sealed.wait()
        await system.complete(TEN_TURNS, RUNS)
        commands = {
            "linestop --version": ["--version"],
            "linestop runs": ["runs", "--tenant", TENANT],
            "linestop show": ["show", run, "--tenant", TENANT],
        }
        times: dict[str, list[float]] = {name: [] for name in (PYTHON, *commands)}
        cpu: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(ROUNDS):
            for name, taken in times.items():
                used, began = children_cpu_s(), time.perf_counter()
                await run_once(system, commands.get(name))
                taken.append((time.perf_counter() - began) * 1e3)
                cpu[name].append((children_cpu_s() - used) * 1e3)
    for name, each in times.items():
        report.add("commands", name, "p50", median(each), "ms")
        report.add("commands", name, "CPU", median(cpu[name]), "ms")
        if name != PYTHON:
            report.add("commands", name, f"p50 to {PYTHON}", median(each) / median(times[PYTHON]))


async def run_once(system: RunningSystem, args: list[str] | None) -> None:
    """Run a command of linestop, or a Python that does nothing."""
    if args is None:
        await anyio.run_process([sys.executable, "-c", "pass"], stdin=subprocess.DEVNULL)
    else:
        await run_command(args, system.project, system.directory)
