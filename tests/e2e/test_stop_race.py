"""P1 on the real server: after a stop was acknowledged nothing of that run starts.

A worker process drives runs whose tools send HTTP requests; a third process stops each run around the moment a call is
judged or cleared, and prints when the stop was acknowledged. The log and the requests at the tools' server are then
compared with that. Both sides must win often enough, or the test proves nothing and fails.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.bus_fixtures import until
from tests.e2e.race.judging import ARRIVAL_AFTER_ACK_MAX_NS, Race, Request, Stop, assert_no_start_after_stop, race_of
from tests.e2e.race.worker import agent

from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
HERE = Path(__file__).parent / "race"
TENANT = TenantId("race")
AT_ONCE = 10
RACES = 500


class ToolServer:
    """The tool's server: records every request by run, call and attempt, with its arrival."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            arrived = time.monotonic_ns()
            fields = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n"))}
            request = Request(fields["x-run"], fields["x-call"], int(fields["x-attempt"]), arrived)
            self.requests.append(request)
            await reader.readexactly(int(fields.get("content-length", "0")))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ToolServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


@asynccontextmanager
async def process(*command: str) -> AsyncGenerator[anyio.abc.Process]:
    """A child process, ended by its id when the block ends."""
    child = await anyio.open_process([sys.executable, *command], stdin=-1, stdout=-1, stderr=None)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.aclose()


async def lines(child: anyio.abc.Process) -> AsyncIterator[str]:
    """The lines that a child prints."""
    assert child.stdout is not None
    rest = b""
    async for chunk in child.stdout:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


async def race(directory: Path, operator: JetStream, races: int, seed: int) -> None:
    """Run ``races`` races and judge them."""
    await AgentStore(operator.bucket(stream_names.AGENTS_BUCKET)).deploy(agent())
    async with ToolServer().open() as world:
        address = f"127.0.0.1:{world.port}"
        worker_args = (str(HERE / "worker.py"), str(directory), address)
        stopper_args = (str(HERE / "stopper.py"), str(directory), str(seed), str(races))
        async with process(*worker_args) as worker, process(*stopper_args) as stopper:
            assert await anext(lines(worker)) == "ready"
            stops: list[Stop] = []
            stop_lines = lines(stopper)
            assert json.loads(await anext(stop_lines)) == {"ready": True}
            submitted = 0
            while len(stops) < races:
                while submitted < races and submitted - len(stops) < AT_ONCE:
                    submitted += 1
                    body = msgspec.json.encode({"text": f"http://{address}/", "run": f"race-{submitted}"})
                    await operator.wire.request(f"tasks.{TENANT}.race", body)
                stops.append(msgspec.json.decode(await anext(stop_lines), type=Stop))
            await all_sealed(operator, {stop.run for stop in stops})
        # No process is left that could start or send anything, so what is read now is complete.
        log = operator.log()
        logs = [(stop, await log.load(TENANT, RunId(stop.run))) for stop in stops]
        assert len({stop.run for stop in stops}) == races
        assert_no_start_after_stop(
            [race_of(TENANT, stop, [(m.subject, m.payload, m.seq) for m in log]) for stop, log in logs], world.requests
        )


async def all_sealed(operator: JetStream, runs: set[str]) -> None:
    """Wait until every run is sealed; all must be, without help."""
    log = operator.log()

    async def sealed() -> bool:
        return not runs & {run for _, run in await log.open_runs()}

    await until(sealed, within_s=60)


def raced(number: int, *, start_first: bool, after: tuple[str, ...] = ()) -> Race:
    """A race whose stop is event 10, acknowledged at 0, with the raced call started before it or not at all."""
    stop = Stop(run=f"r{number}", n=10, acked_ns=0, call="raced")
    return Race(stop, {("other", 1): 5} | ({("raced", 1): 9} if start_first else {}), after)


SOUND = [raced(number, start_first=number < 5) for number in range(10)]
IN_TIME = [Request("r0", "other", 1, -ARRIVAL_AFTER_ACK_MAX_NS), Request("r0", "raced", 1, ARRIVAL_AFTER_ACK_MAX_NS)]


def test_the_race_check_accepts_what_the_contract_allows() -> None:
    """A call that was started before the stop may arrive up to the bound after it."""
    assert_no_start_after_stop(SOUND, IN_TIME)


@pytest.mark.parametrize(
    ("races", "requests", "sentence"),
    [
        (SOUND, [*IN_TIME, Request("r1", "raced", 1, ARRIVAL_AFTER_ACK_MAX_NS + 1)], "1 requests .* too long after"),
        (SOUND, [*IN_TIME, Request("r9", "raced", 1, -1)], "1 requests .* without a start"),
        (SOUND, [*IN_TIME, Request("r0", "raced", 2, -1)], "1 requests .* without a start"),
        ([*SOUND, raced(10, start_first=True, after=("started.11",))], IN_TIME, "1 starts in the log behind"),
        ([raced(number, start_first=True) for number in range(10)], IN_TIME, "the stop won only 0 of 10"),
        ([raced(number, start_first=number < 1) for number in range(10)], IN_TIME, "the start won only 1 of 10"),
        (SOUND, IN_TIME[:1], "no raced call reached"),
    ],
)
def test_the_race_check_reports_what_the_contract_forbids(
    races: list[Race], requests: list[Request], sentence: str
) -> None:
    """A late request, a request without a start, a start after the stop, and one-sided races are each reported."""
    with pytest.raises(AssertionError, match=sentence):
        assert_no_start_after_stop(races, requests)


@pytest.mark.broker
async def test_nothing_starts_after_an_acknowledged_stop_on_one_server(tmp_path: Path) -> None:
    """500 races on one server: no start after the stop in the log or at the tool's server."""
    async with EmbeddedServer(tmp_path) as server:
        async with await connect(server.credential("bootstrap"), name="race") as bootstrap:
            await set_up(bootstrap)
        async with await connect(server.credential("operator"), name="race") as connection:
            await race(tmp_path, JetStream(connection), RACES, random.Random().randrange(10**6))


@pytest.mark.cluster
async def test_nothing_starts_after_an_acknowledged_stop_on_three_nodes(tmp_path: Path) -> None:
    """500 races on three nodes, where an acknowledgement does not prove the head and the performer reads it again."""
    async with Cluster(tmp_path) as cluster:
        async with await connect(cluster.credential("bootstrap"), name="race") as bootstrap:
            await set_up(bootstrap, BusLayout(replicas=3))
        async with await connect(cluster.credential("operator"), name="race") as connection:
            await race(tmp_path, JetStream(connection), RACES, random.Random().randrange(10**6))
