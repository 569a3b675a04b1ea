"""What a run leaves behind, by the number of its turns: bytes in each stream and in the archive.

The figures of ``linestop bus plan`` (``linestop.bus.stream_sizes``) come from here. Prints one JSON line a length.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import anyio
import stage as st

from linestop.archive.writer import Archive
from linestop.bus import jetstream_api
from linestop.bus.stream_definitions import streams
from linestop.schemas.subjects import ACTORS


async def stored(s: st.Stage) -> dict[str, int]:
    """Bytes in each stream."""
    found: dict[str, int] = {}
    for spec in streams():
        info: Any = await s.operator.wire.connection.ask(jetstream_api.stream_info(spec.name))
        found[spec.name] = int(info["state"]["bytes"])
    return found


async def measure(turns: int, runs: int, *, text: int) -> dict[str, Any]:
    """Do that many runs of that many turns with texts of that many bytes; say what each has left."""
    st.TURNS, st.TEXT = turns, "x" * text
    async with st.stage("1s", sweeping=False) as s, st.host(s.directory, list(ACTORS), "bench#1"):
        await s.system(1, 1)
        before = await stored(s)
        await s.system(16, runs)
        await anyio.sleep(1)
        after = await stored(s)
        archive = Archive(s.directory / "archive.duckdb")
        size = (await archive.rebuild(s.operator.log())).bytes
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
