"""How long ``linestop stop --all`` takes, with many open runs on a real broker, and what of it is whose.

The runs wait for models that never answer. *Stopped*: the command has ended, so every stop is stored; *sealed*: the
process that works on them has cancelled its calls and ended the runs. Prints one JSON line.
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
import stage as st

from linestop.bus import jetstream_api, stream_names
from linestop.schemas.subjects import ACTORS

SCOPES = (["--all"], ["--agent", "bench"], ["--tenant", st.TENANT], ["--user", "user-0"], ["--tool", "look"])
"""The last one is stopped with what it names alone: a fiftieth of the runs."""


async def outcomes(s: st.Stage) -> int:
    """How many runs are over."""
    info: Any = await s.operator.wire.connection.ask(jetstream_api.stream_info(stream_names.OUTCOMES))
    return int(info["state"]["messages"])


async def stop(s: st.Stage, scope: Sequence[str], runs: int) -> dict[str, Any]:
    """Open the runs, stop the scope as a person does, and wait until what it named is over."""
    s.moments.clear()
    over = await outcomes(s)
    for _ in range(runs):
        await s.submit()
    with anyio.fail_after(600):
        while len(s.moments) < runs:
            await anyio.sleep(0.05)
    command = [sys.executable, "-m", "linestop.cli.main", "stop", *scope, "--json"]
    began, cpu_s = time.perf_counter(), sum(os.times()[2:4])
    done = await anyio.run_process(command, env=os.environ | {"LINESTOP_DIR": str(s.directory)}, check=False)
    stopped_s = time.perf_counter() - began
    cpu_s = sum(os.times()[2:4]) - cpu_s
    stopped = len(msgspec.json.decode(done.stdout)["stopped"])
    with anyio.fail_after(600):
        while await outcomes(s) < over + stopped:
            await anyio.sleep(0.05)
    return {
        "scope": " ".join(scope), "open": runs, "stopped": stopped, "stopped_s": round(stopped_s, 2),
        "cpu_s": round(cpu_s, 2), "sealed_s": round(time.perf_counter() - began, 2),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


async def measure(runs: int) -> list[dict[str, Any]]:
    """Stop each scope once."""
    found: list[dict[str, Any]] = []
    for scope in SCOPES:
        async with st.stage("1s") as s, st.processes(s.directory, [list(ACTORS)], wait=True):
            found.append(await stop(s, scope, runs))
            print(json.dumps(found[-1]), flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1_000)
    anyio.run(measure, parser.parse_args().runs, backend_options={"use_uvloop": True})
