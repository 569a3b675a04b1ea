"""The third process: stops runs at random moments around a judgement or a clearing, and prints each acknowledgement.

Arguments: state directory, seed, number of stops. Prints one JSON line a stop: run, n, monotonic nanoseconds of the
acknowledgement (one clock for the whole machine), and the call whose start it raced.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import anyio

from linestop.bus.access.credentials import credential_path, load_credential
from linestop.bus.connection import connect
from linestop.bus.event_message import EventEncoder
from linestop.bus.jetstream import JetStream
from linestop.bus.stop_run import stop_run
from linestop.runtime.process_settings import utc_now
from linestop.schemas.events import Cleared, EffectStarted, Judged
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import parse_run_event, stored_subject

TRIGGERS = ("judged", "cleared")


def start_won(run: Run, call: str, n: int) -> bool:
    """Whether the call was started before event ``n``."""
    return any(
        line.call == call
        for entry in run.entries
        if 0 < entry.n < n and isinstance(entry.event, EffectStarted)
        for line in entry.event.calls
    )


async def main(directory: Path, seed: int, count: int) -> None:
    """Watch all runs; stop each one once."""
    random_source = random.Random(seed)
    connection = await connect(load_credential(credential_path(directory, "operator")), name="stopper")
    bus = JetStream(connection)
    encoder = EventEncoder(build="race", blobs=bus.blobs(), random_source=random_source, now=utc_now)
    runs: dict[str, Run] = {}
    plans: dict[str, tuple[str, int]] = {}
    done = anyio.Event()
    stops_left = count
    window_s: dict[str, float] = dict.fromkeys(TRIGGERS, 0.002)

    async def stop(run: Run, trigger: str, call: str) -> None:
        nonlocal stops_left
        await anyio.sleep(random_source.uniform(0, window_s[trigger]))
        n = await stop_run(bus.log(), encoder, run, lambda state: stop_event(state, by="race", why="the race"))
        acked = time.monotonic_ns()
        print(json.dumps({"run": run.run, "n": n, "acked_ns": acked, "call": call}), flush=True)
        # Both sides must win often: each win of a side makes its next win less likely.
        width_s = window_s[trigger]
        window_s[trigger] = max(width_s / 1.2, 1e-4) if start_won(run, call, n) else min(width_s * 1.2, 0.05)
        stops_left -= 1
        if stops_left == 0:
            done.set()

    async with anyio.create_task_group() as tasks:

        async def on_message(message: object) -> None:
            subject = stored_subject(getattr(message, "subject", ""))
            event = parse_run_event(subject)
            if event.run not in runs:
                runs[event.run] = Run(event.tenant, event.run)
                plans[event.run] = (random_source.choice(TRIGGERS), random_source.randint(1, 4))
            run = runs[event.run]
            headers: dict[str, str] = getattr(message, "headers", None) or {}
            applied = run.apply(subject, getattr(message, "data", b""), int(headers["Nats-Sequence"])).event
            trigger, ordinal = plans[event.run]
            count_so_far = sum(1 for entry in run.entries if entry.name == trigger)
            if event.event == trigger and count_so_far == ordinal:
                assert isinstance(applied, Judged | Cleared)
                tasks.start_soon(stop, run, trigger, applied.calls[0].call)

        await connection.nc.subscribe("live.runs.>", cb=on_message)  # pyright: ignore[reportUnknownMemberType] - nats-py
        await connection.nc.flush()
        print(json.dumps({"ready": True}), flush=True)
        await done.wait()
        tasks.cancel_scope.cancel()
    await connection.close()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
