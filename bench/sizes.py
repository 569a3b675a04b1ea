"""The bytes that a run leaves in each stream and in the archive, by the number of its turns.

The figures of ``linestop bus plan`` (``linestop.bus.streams.stream_sizes``) come from here. It prints one JSON line
a length.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import anyio
import stage

from linestop.archive.writer import Archive
from linestop.bus import jetstream_api
from linestop.bus.streams.stream_definitions import streams
from linestop.schemas.subjects import ACTORS


async def stored_bytes(system: stage.BenchSystem) -> dict[str, int]:
    """Bytes in each stream."""
    sizes: dict[str, int] = {}
    for spec in streams():
        info: Any = await system.operator.wire.connection.api_request(jetstream_api.stream_info(spec.name))
        sizes[spec.name] = int(info["state"]["bytes"])
    return sizes


async def measure(turns: int, runs: int, *, text: int) -> dict[str, Any]:
    """Measure the bytes that each run leaves: ``runs`` runs of ``turns`` turns with texts of ``text`` bytes."""
    stage.TURNS, stage.TEXT = turns, "x" * text
    async with (
        stage.bench_system("1s", sweeping=False) as system,
        stage.actor_process(system.directory, list(ACTORS), "bench#1"),
    ):
        await system.measure_turns(1, 1)
        before = await stored_bytes(system)
        await system.measure_turns(16, runs)
        await anyio.sleep(1)
        after = await stored_bytes(system)
        archive = Archive(system.directory / "archive.duckdb")
        size = (await archive.rebuild(system.operator.log())).bytes
        each = {name: round((after[name] - before[name]) / runs) for name in after if after[name] > before[name]}
        return {"turns": turns, "text": text, "bytes_a_run": each, "archive_bytes_a_run": round(size / (runs + 1))}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=200)
    args = options.parse_args()
    for text_bytes in (100, 900):
        for length in (1, 3, 10, 20):
            line = anyio.run(lambda t=text_bytes, n=length: measure(n, args.runs, text=t))
            print(json.dumps(line), flush=True)
