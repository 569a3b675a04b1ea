"""How long ``linestop stop --all`` takes with many open runs on a real broker, and the CPU time of the command.

The runs wait for models that never reply. *Stopped*: the command has ended, so every stop is stored; *sealed*: the
process that works on the runs has cancelled its calls and ended the runs. Prints one JSON line a scope.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import stage

from linestop.bus import jetstream_api
from linestop.bus.streams import stream_names
from linestop.schemas.subjects import ACTORS

SCOPES = (["--all"], ["--agent", "bench"], ["--tenant", stage.TENANT], ["--user", "user-0"], ["--tool", "look"])
"""The scopes that are stopped; ``--user`` names only a fiftieth of the runs."""


async def outcomes(system: stage.BenchSystem) -> int:
    """How many runs are over."""
    info: Any = await system.operator.wire.connection.api_request(jetstream_api.stream_info(stream_names.OUTCOMES))
    return int(info["state"]["messages"])


async def stop(system: stage.BenchSystem, scope: Sequence[str], runs: int) -> dict[str, Any]:
    """Open the runs, stop the scope as a person does, and wait until the stopped runs are over."""
    system.moments.clear()
    over = await outcomes(system)
    for _ in range(runs):
        await system.submit()
    with anyio.fail_after(600):
        while len(system.moments) < runs:
            await anyio.sleep(0.05)
    command = [sys.executable, "-m", "linestop.cli.main", "stop", *scope, "--json"]
    began, cpu_s = time.perf_counter(), sum(os.times()[2:4])
    done = await anyio.run_process(command, env=os.environ | {"LINESTOP_DIR": str(system.directory)}, check=False)
    stopped_s = time.perf_counter() - began
    cpu_s = sum(os.times()[2:4]) - cpu_s
    stopped = len(msgspec.json.decode(done.stdout)["stopped"])
    with anyio.fail_after(600):
        while await outcomes(system) < over + stopped:
            await anyio.sleep(0.05)
    return {
        "scope": " ".join(scope), "open": runs, "stopped": stopped, "stopped_s": round(stopped_s, 2),
        "cpu_s": round(cpu_s, 2), "sealed_s": round(time.perf_counter() - began, 2),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


async def measure(runs: int) -> list[dict[str, Any]]:
    """Stop each scope once."""
    results: list[dict[str, Any]] = []
    for scope in SCOPES:
        async with (
            stage.bench_system("1s") as system,
            stage.processes(system.directory, [list(ACTORS)], wait=True),
        ):
            results.append(await stop(system, scope, runs))
            print(json.dumps(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1_000)
    anyio.run(measure, parser.parse_args().runs, backend_options={"use_uvloop": True})
