"""The time that the runtime adds to a turn with one tool call: model and tool return at once, the log is real.

Everything is compared with a floor from the same run: as many bare compare-and-append requests as a turn has
appends, of the same payload sizes, over the same thin publishing path. Shared machines change their speed from
minute to minute, so only the ratios mean anything; floor and system alternate, and medians are compared.

Prints a table on stderr and one JSON line on stdout. ``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import stage

from linestop.bus.server.nats_config import SyncInterval
from linestop.schemas.subjects import ACTORS, RunId, parse_run_event

WAITING = 1_000


def cpu_s(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@asynccontextmanager
async def workers(system: stage.BenchSystem, split: bool) -> AsyncIterator[Sequence[int]]:
    """All roles in this process, where the floor is measured too, or each role in its own process."""
    if split:
        async with stage.processes(system.directory, [[role] for role in ACTORS]) as pids:
            yield pids
    else:
        async with stage.actor_process(system.directory, list(ACTORS), "bench#1"):
            yield [os.getpid()]


async def turn_sizes(system: stage.BenchSystem) -> list[int]:
    """Payload sizes of the events of a turn in the middle of a run."""
    run, sealed = await system.submit()
    await sealed.wait()
    messages = await system.operator.log().load(stage.TENANT, RunId(run))
    names = [parse_run_event(m.subject) for m in messages]
    starts = [i for i, name in enumerate(names) if (name.role, name.event) == ("planner", "started")]
    return [len(m.payload) for m in messages[starts[4] : starts[5]]]


async def speed(sync: SyncInterval, split: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Alternate floor and system; return medians and ratios."""
    async with stage.bench_system(sync, sweeping=False) as system, workers(system, split) as pids:
        sizes = await turn_sizes(system)
        await system.measure_turns(1, 3)
        rounds: list[dict[str, float]] = []
        for _ in range(args.rounds):
            floor_one, alone = [], []
            for _ in range(args.alone):
                # Alternating, so that both meet the same moments of a shared machine.
                floor_one += (await system.measure_floor(1, 1, sizes))[0]
                alone += (await system.measure_turns(1, 1))[0]
            _, floor_many = await system.measure_floor(16, args.many, sizes)
            before = [cpu_s(pid) for pid in (*pids, system.server.pid)]
            stored = await stored_bytes(system)
            _, many = await system.measure_turns(16, args.many)
            spent = [cpu_s(pid) - b for pid, b in zip((*pids, system.server.pid), before, strict=True)]
            turns = args.many * stage.TURNS
            rounds.append({
                "floor_ms": statistics.median(floor_one) * 1e3, "turn_ms": statistics.median(alone) * 1e3,
                "floor_turns_s": floor_many, "turns_s": many, "ours_cpu_ms": sum(spent[:-1]) / turns * 1e3,
                "server_cpu_ms": spent[-1] / turns * 1e3, "stored_bytes": (await stored_bytes(system) - stored) / turns,
            })  # fmt: skip
        medians = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        return {
            "sync": sync, "processes": len(pids), "appends": len(sizes), **{k: round(v, 2) for k, v in medians.items()},
            "ratio_alone": round(medians["turn_ms"] / medians["floor_ms"], 2),
            "ratio_16": round(medians["turns_s"] / medians["floor_turns_s"], 2),
            "cpu_ms": round(medians["ours_cpu_ms"] + medians["server_cpu_ms"], 2),
        }  # fmt: skip


async def stored_bytes(system: stage.BenchSystem) -> float:
    """Bytes in the run log's stream."""
    info = await system.operator.log()._reader.info()  # noqa: SLF001 - only the benchmark needs bytes
    return float(info.state.bytes if info.state else 0)


async def memory() -> dict[str, Any]:
    """Memory of one process with 1,000 runs that wait for a model."""
    async with (
        stage.bench_system("1s") as system,
        stage.processes(system.directory, [list(ACTORS)], wait=True) as pids,
    ):
        empty = sum(rss_mb(pid) for pid in pids)
        for _ in range(WAITING):
            await system.submit()
        with anyio.fail_after(120):
            while len(system.moments) < WAITING:
                await anyio.sleep(0.05)
        return {"waiting_runs": WAITING, "empty_mb": round(empty, 1), "waiting_mb": round(sum(map(rss_mb, pids)), 1)}


async def recovery() -> dict[str, Any]:
    """Seconds from kill -9 of the worker with 16 runs in flight to the first event of its successor."""
    times: list[float] = []
    async with stage.bench_system("1s") as system:
        for _ in range(3):
            async with stage.processes(system.directory, [list(ACTORS)], wait=True) as pids:
                system.moments.clear()
                for _ in range(16):
                    await system.submit()
                while len(system.moments) < 16:
                    await anyio.sleep(0.01)
                os.kill(pids[0], 9)
            killed = time.perf_counter()
            system.moments.clear()
            command = [sys.executable, stage.__file__, str(system.directory), ",".join(ACTORS), "w0#2", "go"]
            async with await anyio.open_process(command, stdin=-1, stdout=-1, stderr=None) as child:
                while not system.moments:
                    await anyio.sleep(0.002)
                times.append(min(t for moments in system.moments.values() for t in moments) - killed)
                child.kill()
    return {"first_work_s": round(statistics.median(times), 2)}


COLUMNS = {
    "sync": "sync", "processes": "processes", "ratio_alone": "turn to floor, alone",
    "ratio_16": "of the floor's turns, at 16",
    "turn_ms": "turn, ms", "floor_ms": "floor, ms", "turns_s": "turns/s at 16", "floor_turns_s": "floor's",
    "cpu_ms": "CPU ms a turn", "stored_bytes": "bytes a turn",
}  # fmt: skip
"""The columns of the table: the key of each row, and the heading."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as an aligned table."""
    lines = [list(COLUMNS.values()), *([str(row[key]) for key in COLUMNS] for row in rows)]
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in lines)


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that the options name."""
    result: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "speed": []}
    for sync in args.sync:
        for split in (False,) if args.quick else (False, True):
            result["speed"].append(await speed(sync, split, args))
    print(table(result["speed"]), file=sys.stderr)
    if not args.quick:
        result["memory"] = await memory()
        result["recovery"] = await recovery()
        print("{waiting_mb} MB with {waiting_runs:,} runs waiting".format(**result["memory"]), file=sys.stderr)
        print("{first_work_s} s from kill -9 to the first work".format(**result["recovery"]), file=sys.stderr)
    return result


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=10, help="runs measured one at a time, a round")
    parser.add_argument("--many", type=int, default=64, help="runs measured 16 at a time, a round")
    parser.add_argument("--sync", nargs="+", default=["1s", "always"], choices=["1s", "always"])
    parser.add_argument("--quick", action="store_true", help="one process only, neither memory nor recovery")
    print(json.dumps(anyio.run(measure, parser.parse_args(), backend_options={"use_uvloop": True})))


if __name__ == "__main__":
    main()
