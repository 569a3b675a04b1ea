"""Three replicas: decisions do not depend on one that lags, and compressed streams are reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import msgspec
import pytest
from tests.bus_fixtures import planner_append
from tests.conformance.route_relays import RouteRelays, route_relays

from linestop.bus import jetstream_api
from linestop.bus.connection import connect
from linestop.bus.disk_space import MIB
from linestop.bus.interfaces import Append, BucketValue, HeadMoved, StoredMessage
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, compare, set_up
from linestop.bus.streams.stream_definitions import StreamSizes, streams
from linestop.schemas.kill_switches import KEY
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import NODES, Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.cluster]
SPACE = StreamSizes(runs=16 * MIB, forks=MIB, blobs=MIB, tasks=MIB, outcomes=MIB, small=MIB)
LAYOUT = BusLayout(sizes=SPACE, replicas=NODES)
T = TypeVar("T")
TENANT = TenantId("t")
COMPRESSED: Final = (stream_names.RUNS, stream_names.FORKS, stream_names.BLOBS)
EVENTS: Final = 20
READERS: Final = 8
READS_MAX: Final = 50
"""A read from any replica goes to the one that lags with a chance of one in three."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the cluster and both tests."""
    return "asyncio"


@pytest.fixture(scope="module")
async def relays(anyio_backend: str) -> AsyncIterator[RouteRelays]:
    """The relays between the nodes, with which a test makes one of them lag."""
    assert anyio_backend == "asyncio"
    async with route_relays() as made:
        yield made


@pytest.fixture(scope="module")
async def cluster(relays: RouteRelays, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster whose log comes from an older linestop."""
    async with Cluster(tmp_path_factory.mktemp("cluster"), space=SPACE, relay=relays.relay) as made:
        async with await connect(made.credential("bootstrap"), name="older") as bootstrap:
            for spec in streams(SPACE, replicas=NODES):
                if spec.name in COMPRESSED:
                    config = {**spec.config, "compression": "s2"}
                    await bootstrap.api_request(jetstream_api.stream_create(spec.name), config, timeout_s=10.0)
        yield made


async def _first_result(read: Callable[[], Awaitable[T]]) -> T:
    """Repeat a read until one is answered: those that went to another node are not, as their replies are held back."""
    results = list[T]()
    async with anyio.create_task_group() as group:

        async def keep() -> None:
            results.append(await read())
            group.cancel_scope.cancel()

        for _ in range(READS_MAX):
            group.start_soon(keep)
    return results[0]


def _event(run: RunId, n: int, head_seq: int) -> Append:
    return planner_append(
        TENANT,
        run,
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


async def test_a_lagging_replica_hides_nothing_from_a_decision(cluster: Cluster, relays: RouteRelays) -> None:
    """A shell reads complete runs although its own node lags, and an append to an old head is refused."""
    leader = await cluster.leader_of(stream_names.RUNS)
    behind, writing = (node for node in range(NODES) if node != leader)
    run, seen, whole = RunId("lag"), list[StoredMessage](), list[list[StoredMessage]]()
    async with (
        await connect(cluster.credential("planner", node=behind), name="behind") as reader,
        await connect(cluster.credential("planner", node=writing), name="writing") as writer,
    ):
        writer_log, reader_log = JetStream(writer).log(), JetStream(reader).log()
        assert await reader_log.replicated()
        head_seq = await writer_log.append(_event(run, 1, 0))

        async def read_whole() -> None:
            whole.append(await reader_log.load(TENANT, run, leader=True))

        async with anyio.create_task_group() as group:
            with relays.held(behind):
                for n in range(2, EVENTS + 1):
                    head_seq = await writer_log.append(_event(run, n, head_seq))
                for _ in range(READERS):
                    group.start_soon(read_whole)
                seen = await _first_result(partial(reader_log.load, TENANT, run, leader=False))
        assert len(seen) <= 1
        assert [len(found) for found in whole] == [EVENTS] * READERS
        rival = msgspec.structs.replace(_event(run, len(seen) + 1, seen[-1].seq if seen else 0), payload=b"{}")
        with pytest.raises(HeadMoved):
            await reader_log.append(rival)


async def test_a_lagging_replica_hides_no_kill_switch_from_a_decision(cluster: Cluster, relays: RouteRelays) -> None:
    """Roles read kill switches, agents and accounts from the leader; other readers may get an older value."""
    stream = stream_names.bucket_stream(stream_names.SWITCHES_BUCKET)
    async with await connect(cluster.credential("bootstrap"), name="init") as bootstrap:
        await set_up(bootstrap, LAYOUT)
    leader = await cluster.leader_of(stream)
    behind, writing = (node for node in range(NODES) if node != leader)
    seen: BucketValue | None = None
    whole = list[BucketValue | None]()
    async with (
        await connect(cluster.credential("planner", node=behind), name="behind") as reader,
        await connect(cluster.credential("operator", node=writing), name="writing") as writer,
    ):
        reader_bus = JetStream(reader)
        any_replica, from_leader = (
            reader_bus.bucket(stream_names.SWITCHES_BUCKET, leader=at_leader) for at_leader in (False, True)
        )
        store = JetStream(writer).bucket(stream_names.SWITCHES_BUCKET)
        first = revision = await store.create(KEY, b"0")

        async def read_whole() -> None:
            whole.append(await from_leader.get(KEY))

        async with anyio.create_task_group() as group:
            with relays.held(behind):
                for n in range(EVENTS):
                    revision = await store.update(KEY, b"%d" % n, revision=revision)
                for _ in range(READERS):
                    group.start_soon(read_whole)
                seen = await _first_result(partial(any_replica.get, KEY))
        assert seen is None or seen.revision == first
        assert [value and value.revision for value in whole] == [revision] * READERS


async def test_a_broker_of_an_older_linestop_is_read_from_any_replica(cluster: Cluster) -> None:
    """Its credentials may not read from the leader: the value of any replica is better than none."""
    async with await connect(cluster.credential("client"), name="older") as connection:
        bucket = JetStream(connection).bucket(stream_names.SWITCHES_BUCKET, leader=True)
        with anyio.fail_after(5):
            assert await bucket.get(KEY) is not None
