"""Three replicas, one killed after the other under load: each holds every acknowledged message unchanged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Final

import anyio
import pytest

from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import MIB
from linestop.bus.interfaces import Append, Blobs, Log
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import StreamSizes
from linestop.cli.doctor.stream_checks import check_replicas
from linestop.errors import LinestopError, Unreachable
from linestop.schemas import subjects
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import NODES, Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.cluster]
# No larger than needed: each node reserves it.
SPACE = StreamSizes(runs=64 * MIB, forks=64 * MIB, blobs=64 * MIB, tasks=MIB, outcomes=MIB, small=MIB)
TENANT = TenantId("t")
WRITERS: Final = 2
"""For each of the three streams."""

BETWEEN: Final = 100
"""Messages of each stream that are acknowledged before and after each kill."""

LEAD_MAX: Final = 6
"""Limits the load, so that comparing is quick; the load still runs when a node is killed."""

FILTERS: Final = {stream_names.RUNS: "runs.>", stream_names.FORKS: "forks.>", stream_names.BLOBS: "blobs.>"}
WITHIN_S: Final = 60.0
POLL_S: Final = 0.2

Messages = Mapping[str, bytes]
"""The digest of each payload by its subject, which is written once."""


class Load:
    """Writers that run until they are cancelled; ``acked`` has every acknowledged message."""

    def __init__(self) -> None:
        self.acked: dict[str, dict[str, bytes]] = {stream: {} for stream in FILTERS}
        self._more = anyio.Event()
        self._counts_max = dict.fromkeys(FILTERS, 0)
        self._go_on = anyio.Event()

    async def more(self, count: int) -> None:
        """Wait for ``count`` more acknowledged messages of each stream; writers may be ``LEAD_MAX`` times further."""
        counts = {stream: len(acked) for stream, acked in self.acked.items()}
        self._counts_max = {stream: before + LEAD_MAX * count for stream, before in counts.items()}
        self._go_on.set()
        self._go_on = anyio.Event()
        with anyio.fail_after(WITHIN_S):
            while any(len(self.acked[stream]) < before + count for stream, before in counts.items()):
                self._more = anyio.Event()
                await self._more.wait()

    async def append_to_run(self, stream: str, log: Log, number: int) -> None:
        """Append to one run, and repeat each event until it is acknowledged."""
        head_seq, n = 0, 1
        while True:
            append = Append(
                tenant=TENANT,
                run=RunId(f"run-{number}"),
                role="planner",
                event="proposed",
                n=n,
                head_seq=head_seq,
                payload=text(),
            )
            while (stored := await _stored(log, append)) is None:
                pass
            head_seq, n = stored, n + 1
            subject = append.subject if stream == stream_names.RUNS else subjects.fork(append.subject)
            await self._count(stream, subject, append.payload)

    async def put_blobs(self, blobs: Blobs) -> None:
        """Store one blob after the other."""
        while True:
            data = text()
            try:
                sha256 = await blobs.put(TENANT, data)
            except Unreachable:
                continue
            await self._count(stream_names.BLOBS, subjects.blob(TENANT, sha256, part=0), data)

    async def _count(self, stream: str, subject: str, payload: bytes) -> None:
        self.acked[stream][subject] = digest(payload)
        self._more.set()
        while len(self.acked[stream]) >= self._counts_max[stream]:
            await self._go_on.wait()


async def _stored(log: Log, append: Append) -> int | None:
    try:
        return await log.append(append)
    except Unreachable:
        return None


def digest(payload: bytes) -> bytes:
    """The digest by which two copies of a message are compared."""
    return hashlib.sha256(payload).digest()


def text() -> bytes:
    """A text that compresses, as JSON does, with a random part."""
    return b'{"text":"%s%s"}' % (b"the same words again " * 200, os.urandom(512).hex().encode())


async def all_current(cluster: Cluster, bootstrap: Connection) -> None:
    """Start each dead node, and wait until ``doctor`` reports that every replica of every stream is current."""
    for node, pid in enumerate(cluster.pids):
        if not pid:
            await cluster.restart(node)
    failure = LinestopError("doctor says nothing")
    with anyio.move_on_after(WITHIN_S):
        while True:
            try:
                assert await check_replicas(bootstrap) == "3 copies of each stream, all current"
            except LinestopError as error:
                failure = error
                await anyio.sleep(POLL_S)
            else:
                return
    raise failure


async def leave_alone(cluster: Cluster, node: int) -> None:
    """Kill the other nodes, so that none replies in the place of this one."""
    for other in {*range(NODES)} - {node}:
        await cluster.kill(other)


async def held_by(cluster: Cluster, node: int) -> dict[str, Messages]:
    """The messages of one replica, which is alone."""
    async with await connect(cluster.credential("fork", node=node), name="compare") as connection:
        wire = JetStream(connection).wire
        return {
            stream: {item.subject: digest(item.payload) for item in await Reader(wire, stream).read_all(wanted)}
            for stream, wanted in FILTERS.items()
        }


def unlike(held: Mapping[str, Messages], acked: Mapping[str, Messages]) -> dict[str, int]:
    """For each stream with a difference, the number of acknowledged messages that are missing or changed."""
    counts = {s: sum(held[s].get(subject) != sent for subject, sent in acked[s].items()) for s in FILTERS}
    return {stream: count for stream, count in counts.items() if count}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the cluster and both tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def cluster(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster with all streams."""
    assert anyio_backend == "asyncio"
    async with Cluster(tmp_path_factory.mktemp("cluster"), space=SPACE) as made:
        async with await connect(made.credential("bootstrap"), name="init") as bootstrap:
            (await set_up(bootstrap, BusLayout(sizes=SPACE, replicas=NODES))).require_no_differences()
        yield made


@pytest.fixture(scope="module")
async def load(cluster: Cluster) -> Load:
    """The messages acknowledged while one node after the other was killed, each after all replicas were current."""
    load = Load()
    async with (
        await connect(cluster.credential("bootstrap"), name="doctor") as bootstrap,
        await connect(cluster.credential("planner"), name="planner") as planner,
        await connect(cluster.credential("fork"), name="fork") as fork,
        anyio.create_task_group() as writers,
    ):
        runs, forks = JetStream(planner), JetStream(fork)
        for number in range(WRITERS):
            writers.start_soon(load.append_to_run, stream_names.RUNS, runs.log(), number)
            writers.start_soon(load.append_to_run, stream_names.FORKS, forks.log(forks=True), number)
            writers.start_soon(load.put_blobs, runs.blobs())
        for node in range(NODES):
            await all_current(cluster, bootstrap)
            await load.more(BETWEEN)
            await cluster.kill(node)
            await load.more(BETWEEN)
        writers.cancel_scope.cancel()
    return load


async def test_every_replica_holds_all_acknowledged_messages(cluster: Cluster, load: Load) -> None:
    """Once all replicas are current, they are equal, message by message."""
    copies: list[dict[str, Messages]] = []
    async with await connect(cluster.credential("bootstrap"), name="doctor") as bootstrap:
        for node in range(NODES):
            await all_current(cluster, bootstrap)
            await leave_alone(cluster, node)
            copies.append(await held_by(cluster, node))
    assert [unlike(copy, load.acked) for copy in copies] == [{}, {}, {}]
    # Not in the assertion: it would print every message.
    equal = all(copy == copies[0] for copy in copies)
    assert equal


async def test_the_comparison_shows_messages_that_a_replica_lost(cluster: Cluster, load: Load) -> None:
    """The comparison reads the replica's own disk: if a file there is cut in half, messages are missing."""
    node = NODES - 1
    async with await connect(cluster.credential("bootstrap"), name="doctor") as bootstrap:
        await all_current(cluster, bootstrap)
    await leave_alone(cluster, node)
    blocks = sorted((cluster.directory / f"node-{node}").rglob(f"streams/{stream_names.RUNS}/msgs/*.blk"))
    os.truncate(blocks[0], blocks[0].stat().st_size // 2)
    assert unlike(await held_by(cluster, node), load.acked).keys() == {stream_names.RUNS}
