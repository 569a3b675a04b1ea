"""P1 on the real server: after a stop was acknowledged nothing of that run starts, whoever looks.

A worker process drives runs whose tool does HTTP; a second process stops each run around the moment a call is
cleared. The log and the tool's own server are then compared. Both sides must win often enough, or the test
shows nothing and fails.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.e2e.race.worker import agent

from linestop.bus import layout
from linestop.bus.agents import AgentStore
from linestop.bus.connection import connect
from linestop.bus.init import BusLayout, set_up
from linestop.bus.jetstream import JetStream
from linestop.bus.server import EmbeddedServer
from linestop.schemas.events import EffectStarted, ModelStarted
from linestop.schemas.run import Entry, Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
HERE = Path(__file__).parent / "race"
TENANT = TenantId("race")
AT_ONCE = 10
RACES = 500
SIDE_LEAST = 0.2


class World:
    """The tool's own server: notes every request it gets, by run, call and attempt, with its arrival."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int, int]] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            arrived = time.monotonic_ns()
            fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n"))}
            self.requests.append((fields["x-run"], fields["x-call"], int(fields["x-attempt"]), arrived))
            await reader.readexactly(int(fields.get("content-length", "0")))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[World]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


@asynccontextmanager
async def process(*command: str) -> AsyncGenerator[anyio.abc.Process]:
    """A child in its own right, ended by its id when the block ends."""
    child = await anyio.open_process([sys.executable, *command], stdin=-1, stdout=-1, stderr=None)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.aclose()


async def lines(child: anyio.abc.Process) -> AsyncIterator[str]:
    """What a child prints, line by line."""
    assert child.stdout is not None
    rest = b""
    async for chunk in child.stdout:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


async def race(directory: Path, operator: JetStream, races: int, seed: int) -> None:
    """Run ``races`` races and judge them."""
    await AgentStore(operator.shared(layout.AGENTS_BUCKET)).deploy(agent())
    async with World().open() as world:
        address = f"127.0.0.1:{world.port}"
        worker_args = (str(HERE / "worker.py"), str(directory), address)
        stopper_args = (str(HERE / "stopper.py"), str(directory), str(seed), str(races))
        async with process(*worker_args) as worker, process(*stopper_args) as stopper:
            assert await anext(lines(worker)) == "ready"
            stops: dict[str, dict[str, Any]] = {}
            heard = lines(stopper)
            assert json.loads(await anext(heard)) == {"ready": True}
            submitted = 0
            while len(stops) < races:
                while submitted < races and submitted - len(stops) < AT_ONCE:
                    submitted += 1
                    body = msgspec.json.encode({"text": f"http://{address}/", "run": f"race-{submitted}"})
                    await operator.wire.ask(f"tasks.{TENANT}.race", body)
                told = json.loads(await anext(heard))
                stops[told["run"]] = told
            runs = await sealed_runs(operator, list(stops))
        judge(runs, stops, world)


async def sealed_runs(operator: JetStream, names: list[str]) -> dict[str, tuple[Run, list[str]]]:
    """Fold every run once it is sealed; all must be, without help."""
    found: dict[str, tuple[Run, list[str]]] = {}
    log = operator.log()
    with anyio.fail_after(60):
        for name in names:
            while True:
                messages = await log.load(TENANT, RunId(name))
                run = fold_messages(TENANT, RunId(name), [(m.subject, m.payload, m.seq) for m in messages])
                if run.sealed is not None:
                    found[name] = run, [m.subject for m in messages]
                    break
                await anyio.sleep(0.05)
    return found


def judge(runs: dict[str, tuple[Run, list[str]]], stops: dict[str, dict[str, Any]], world: World) -> None:
    """Nothing started after an acknowledged stop: not in the log, not at the tool's server; both sides won."""
    requests: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for whose, call, attempt, arrived in world.requests:
        requests[whose].append((call, attempt, arrived))
    stop_first = start_first = 0
    for name, (run, subjects) in runs.items():
        n: int = stops[name]["n"]
        after = [s for s in subjects if ".started." in s and int(s.rsplit(".", 1)[1]) > n]
        assert not after, f"{name}: started after the stop {n}: {after}"
        begun = {
            (line.call, line.attempt): entry.n
            for entry in run.entries
            if isinstance(entry.event, EffectStarted)
            for line in entry.event.calls
        }
        for call, attempt, _ in requests[name]:
            assert begun.get((call, attempt), n + 1) < n, f"{name}: {call} was not started before {n}"
        last: Entry = run.entries[n - 2]
        if isinstance(last.event, EffectStarted | ModelStarted) or last.name == "finished":
            start_first += 1
        else:
            stop_first += 1
    least = SIDE_LEAST * len(runs)
    assert stop_first >= least, f"the stop won only {stop_first} of {len(runs)} races"
    assert start_first >= least, f"the start won only {start_first} of {len(runs)} races"


@pytest.mark.broker
async def test_nothing_starts_after_an_acknowledged_stop_on_one_server(tmp_path: Path) -> None:
    """500 races on one server: no start after the stop in the log or at the tool's server."""
    async with EmbeddedServer(tmp_path) as server:
        async with await connect(server.credential("bootstrap"), name="race") as bootstrap:
            await set_up(bootstrap)
        async with await connect(server.credential("operator"), name="race") as connection:
            await race(tmp_path, await JetStream.open(connection), RACES, random.Random().randrange(10**6))


@pytest.mark.cluster
async def test_nothing_starts_after_an_acknowledged_stop_on_three_nodes(tmp_path: Path) -> None:
    """500 races on three nodes, where an acknowledgement does not prove the head and the performer reads it again."""
    async with Cluster(tmp_path) as cluster:
        async with await connect(cluster.credential("bootstrap"), name="race") as bootstrap:
            await set_up(bootstrap, BusLayout(replicas=3))
        async with await connect(cluster.credential("operator"), name="race") as connection:
            await race(tmp_path, await JetStream.open(connection), RACES, random.Random().randrange(10**6))
