"""Three replicas: decisions do not depend on one that lags, and compressed streams are reported."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Generator
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import msgspec
import pytest

from linestop.bus import jetstream_api
from linestop.bus.connection import connect
from linestop.bus.interfaces import Append, HeadMoved, StoredMessage
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.key_value import JetStreamBucket
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, compare, set_up
from linestop.bus.streams.stream_definitions import MIB, StreamSizes, streams
from linestop.schemas.kill_switches import KEY
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import NODES, Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.cluster]
SPACE = StreamSizes(runs=16 * MIB, forks=MIB, blobs=MIB, tasks=MIB, outcomes=MIB, small=MIB)
LAYOUT = BusLayout(sizes=SPACE, replicas=NODES)
TENANT = TenantId("t")
COMPRESSED: Final = (stream_names.RUNS, stream_names.FORKS, stream_names.BLOBS)
ROUNDS_MAX: Final = 10
"""How often a replica is made to lag, until a read shows it."""

READERS: Final = 5
EVENTS: Final = 200


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the cluster and both tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def cluster(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster whose log comes from an older linestop."""
    assert anyio_backend == "asyncio"
    async with Cluster(tmp_path_factory.mktemp("cluster"), space=SPACE) as made:
        async with await connect(made.credential("bootstrap"), name="older") as bootstrap:
            for spec in streams(SPACE, replicas=NODES):
                if spec.name in COMPRESSED:
                    config = {**spec.config, "compression": "s2"}
                    await bootstrap.api_request(jetstream_api.stream_create(spec.name), config, timeout_s=10.0)
        yield made


@contextlib.contextmanager
def _frozen(cluster: Cluster, node: int) -> Generator[None]:
    """Freeze a node, which neither replies nor stores anything until the block ends."""
    pid = cluster.pids[node]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _event(run: RunId, n: int, head_seq: int) -> Append:
    return Append(
        tenant=TENANT,
        run=run,
        role="planner",
        event="proposed",
        n=n,
        head_seq=head_seq,
        payload=b'{"text":"%s"}' % (b"the same words again " * 100),
    )


async def test_streams_that_an_older_linestop_compressed_are_reported(cluster: Cluster) -> None:
    """Each with the command that repairs it: no credential may change a stream, and no other work waits for it."""
    async with await connect(cluster.credential("bootstrap"), name="init") as bootstrap:
        made = await set_up(bootstrap, LAYOUT)
        sentences = await compare(bootstrap, LAYOUT)
    assert made.differences == ()
    assert made.outdated == sentences
    commands = [f"`nats stream edit {name} -f --compression=none`" for name in COMPRESSED]
    assert [command in line for command, line in zip(commands, sentences, strict=True)] == [True] * len(commands)


async def test_a_lagging_replica_hides_nothing_from_a_decision(cluster: Cluster) -> None:
    """A shell reads complete runs although its own node lags, and an append to an old head is refused."""
    leader = await cluster.leader_of(stream_names.RUNS)
    behind, writing = (node for node in range(NODES) if node != leader)
    async with (
        await connect(cluster.credential("planner", node=behind), name="behind") as reader,
        await connect(cluster.credential("planner", node=writing), name="writing") as writer,
    ):
        writer_log, reader_log = JetStream(writer).log(), JetStream(reader).log()
        assert await reader_log.replicated()
        for number in range(ROUNDS_MAX):
            run, near, whole = RunId(f"lag-{number}"), list[list[StoredMessage]](), list[list[StoredMessage]]()

            async def read(found: list[list[StoredMessage]], run: RunId = run, *, leader: bool) -> None:
                found.append(await reader_log.load(TENANT, run, leader=leader))

            head_seq = await writer_log.append(_event(run, 1, 0))
            async with anyio.create_task_group() as readers:
                with _frozen(cluster, behind):
                    # Sent while the node is frozen; a random replica replies, the frozen one when it continues.
                    for _ in range(READERS):
                        readers.start_soon(partial(read, near, leader=False))
                        readers.start_soon(partial(read, whole, leader=True))
                    for n in range(2, EVENTS + 1):
                        head_seq = await writer_log.append(_event(run, n, head_seq))
            assert [len(found) for found in whole] == [EVENTS] * READERS
            if len(seen := min(near, key=len)) < EVENTS:
                break
        else:
            pytest.fail("no replica was seen to lag")
        old_head = seen[-1].seq if seen else 0
        rival = msgspec.structs.replace(_event(run, len(seen) + 1, old_head), payload=b"{}")
        with pytest.raises(HeadMoved):
            await reader_log.append(rival)


async def test_a_lagging_replica_hides_no_kill_switch_from_a_decision(cluster: Cluster) -> None:
    """Roles read kill switches, agents and accounts from the leader; other readers may get an older value."""
    stream = stream_names.bucket_stream(stream_names.SWITCHES_BUCKET)
    async with await connect(cluster.credential("bootstrap"), name="init") as bootstrap:
        await set_up(bootstrap, LAYOUT)
    leader = await cluster.leader_of(stream)
    behind, writing = (node for node in range(NODES) if node != leader)
    async with (
        await connect(cluster.credential("planner", node=behind), name="behind") as reader,
        await connect(cluster.credential("operator", node=writing), name="writing") as writer,
    ):
        reader_bus = JetStream(reader)
        any_replica, from_leader = (
            reader_bus.bucket(stream_names.SWITCHES_BUCKET, leader=at_leader) for at_leader in (False, True)
        )
        store = JetStream(writer).bucket(stream_names.SWITCHES_BUCKET)
        revision = await store.create(KEY, b"0")
        for _ in range(ROUNDS_MAX):
            near, whole = list[int](), list[int]()

            async def read(found: list[int], bucket: JetStreamBucket) -> None:
                value = await bucket.get(KEY)
                found.append(value.revision if value is not None else 0)

            async with anyio.create_task_group() as readers:
                with _frozen(cluster, behind):
                    for n in range(EVENTS):
                        revision = await store.update(KEY, b"%d" % n, revision=revision)
                    # Sent when the last value is stored; the frozen node replies when it continues.
                    for _ in range(READERS):
                        readers.start_soon(read, near, any_replica)
                        readers.start_soon(read, whole, from_leader)
                    await anyio.lowlevel.checkpoint()
            assert whole == [revision] * READERS
            if min(near) < revision:
                break
        else:
            pytest.fail("no replica was seen to lag")


async def test_a_broker_of_an_older_linestop_is_read_from_any_replica(cluster: Cluster) -> None:
    """Its credentials may not read from the leader: the value of any replica is better than none."""
    async with await connect(cluster.credential("client"), name="older") as connection:
        bucket = JetStream(connection).bucket(stream_names.SWITCHES_BUCKET, leader=True)
        with anyio.fail_after(5):
            assert await bucket.get(KEY) is not None
