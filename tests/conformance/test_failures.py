"""The broker dies, hangs, or its replies are lost: nothing acknowledged is lost and nothing is stored twice."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from functools import partial

import anyio
import anyio.abc
import msgspec
import pytest
from tests.bus_fixtures import ServerBusFixture, planner_append, until

from linestop.bus.interfaces import Append, Log
from linestop.bus.jetstream.pull_queue import HEARTBEAT_S, IDLE_HEARTBEATS_MISSED_MAX
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.errors import Unreachable
from linestop.schemas import subjects
from linestop.schemas.subjects import AgentName, RunId, TenantId, parse_run_event
from linestop.testing.cluster import Cluster

pytestmark = pytest.mark.anyio

WRITERS = 6
BEFORE_KILL = 30
AFTER_KILL = 20
QUIET_S = 1.0
RESUMED_WITHIN_S = HEARTBEAT_S * IDLE_HEARTBEATS_MISSED_MAX * 0.75
WITHIN_S = 45.0
TASKS = next(spec for spec in consumers() if spec.name == stream_names.TASKS_CONSUMER)


class Proxy:
    """A TCP relay in front of the broker that can drop the broker's replies."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: list[anyio.abc.SocketStream] = []
        self.swallowing = False
        self.url = ""

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        address = listener.extra(anyio.abc.SocketAttribute.local_address)
        self.url = f"nats://127.0.0.1:{address[1]}"
        task_status.started()
        async with listener:
            await listener.serve(self._relay)

    async def cut(self) -> None:
        """Close every connection, and relay replies again from the next one on."""
        self.swallowing = False
        streams, self._streams = self._streams, []
        for stream in streams:
            await anyio.aclose_forcefully(stream)

    async def _relay(self, client: anyio.abc.SocketStream) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", self._port) as server:
            self._streams += [client, server]
            async with anyio.create_task_group() as group:
                group.start_soon(partial(self._pump, client, server, are_replies=False))
                group.start_soon(partial(self._pump, server, client, are_replies=True))

    async def _pump(self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, *, are_replies: bool) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                chunk = await source.receive()
                if not (are_replies and self.swallowing):
                    await sink.send(chunk)
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await anyio.aclose_forcefully(sink)


def event(tenant: TenantId, run: RunId, *, n: int, head_seq: int, by: str = "") -> Append:
    """An event that names its writer and its predecessor."""
    return planner_append(
        tenant,
        run,
        event="stopped",
        n=n,
        head_seq=head_seq,
        payload=msgspec.json.encode({"n": n, "after": head_seq, "by": by}),
    )


@contextlib.asynccontextmanager
async def proxied(server_bus: ServerBusFixture) -> AsyncGenerator[tuple[Proxy, Log]]:
    """A planner's log behind a proxy; in a cluster it is before one node, and a cut connection goes to another."""
    first, *_ = server_bus.server.credential("planner").servers
    proxy = Proxy(int(first.rpartition(":")[2]))
    async with anyio.create_task_group() as group:
        await group.start(proxy.serve)
        planner_bus = await server_bus.open("planner", url=proxy.url)
        yield proxy, planner_bus.log()
        await planner_bus.connection.close()
        group.cancel_scope.cancel()


async def test_a_lost_reply_causes_neither_a_duplicate_nor_a_loss(
    server_bus: ServerBusFixture, tenant: TenantId, run: RunId
) -> None:
    """The event is stored, its reply is lost, the connection breaks: the append returns its sequence."""
    watcher = await server_bus.log()
    async with proxied(server_bus) as (proxy, log):
        first = await log.append(event(tenant, run, n=1, head_seq=0))
        done: list[int] = []

        async def append() -> None:
            done.append(await log.append(event(tenant, run, n=2, head_seq=first)))

        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as group:
                proxy.swallowing = True
                group.start_soon(append)
                await until(lambda: watcher.load(tenant, run, after_seq=first))
                assert done == []
                await proxy.cut()
    assert len(done) == 1
    assert [m.seq for m in await watcher.load(tenant, run)] == [first, *done]


async def test_an_append_whose_reply_was_lost_is_still_recognised_after_a_rival(
    server_bus: ServerBusFixture, tenant: TenantId, run: RunId
) -> None:
    """Our append was stored and another one follows: the repetition is refused, but counts as done."""
    rival = await server_bus.log("operator")
    async with proxied(server_bus) as (proxy, log):
        done: list[int] = []

        async def append() -> None:
            done.append(await log.append(event(tenant, run, n=1, head_seq=0)))

        with anyio.fail_after(WITHIN_S):
            async with anyio.create_task_group() as group:
                proxy.swallowing = True
                group.start_soon(append)
                [stored] = await until(lambda: rival.load(tenant, run))
                after = event(tenant, run, n=2, head_seq=stored.seq, by="rival")
                await rival.append(msgspec.structs.replace(after, role="operator"))
                await proxy.cut()
    loaded = await rival.load(tenant, run)
    assert len(loaded) == 2
    assert done == [loaded[0].seq]


async def test_an_append_survives_a_broker_that_hangs(
    server_bus: ServerBusFixture, tenant: TenantId, run: RunId
) -> None:
    """If the broker is frozen between publish and reply for longer than a request waits, the event is stored once."""
    log = await server_bus.log()
    first = await log.append(event(tenant, run, n=1, head_seq=0))
    server = server_bus.server
    pids: Sequence[int] = server.pids if isinstance(server, Cluster) else (server.pid,)
    seqs: list[int] = []

    async def append() -> None:
        seqs.append(await log.append(event(tenant, run, n=2, head_seq=first)))

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as group:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                group.start_soon(append)
                await anyio.sleep(2.5)
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
    assert [m.seq for m in await log.load(tenant, run, leader=True)] == [first, *seqs]


async def test_every_acknowledged_append_survives_a_kill(
    server_bus: ServerBusFixture, tenant: TenantId, run: RunId
) -> None:
    """After SIGKILL under writers and a restart, acknowledged events are there, once, and each run is one chain."""
    acked: dict[RunId, list[int]] = {RunId(f"{run}-{number}"): [] for number in range(WRITERS)}
    killed = anyio.Event()
    busy = anyio.Event()

    async def writer(log: Log, mine: RunId) -> None:
        after_kill = 0
        while after_kill < AFTER_KILL:
            seqs = acked[mine]
            append = event(tenant, mine, n=len(seqs) + 1, head_seq=seqs[-1] if seqs else 0)
            try:
                seqs.append(await log.append(append))
            except Unreachable:
                continue
            after_kill += killed.is_set()
            if min(len(done) for done in acked.values()) >= BEFORE_KILL:
                busy.set()

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as group:
            for mine in acked:
                group.start_soon(partial(writer, await server_bus.log(), mine))
            await busy.wait()
            await server_bus.kill()
            killed.set()
        await server_bus.restart()
        log = await server_bus.log()
        for mine, seqs in acked.items():
            loaded = await log.load(tenant, mine, leader=True)
            assert [m.seq for m in loaded] == seqs
            assert [parse_run_event(m.subject).n for m in loaded] == list(range(1, len(seqs) + 1))


async def test_queues_continue_after_a_kill(server_bus: ServerBusFixture, tenant: TenantId) -> None:
    """A pull that was open when the broker died receives messages from before and after."""
    task = subjects.task(tenant, AgentName("a"))
    deliveries = (await server_bus.queue(TASKS)).deliveries()
    shared = await server_bus.bucket()
    revision = await shared.create(f"account.{tenant}.a", b"1")
    seen: set[bytes] = set()
    killed_at: list[datetime] = []

    async def pull() -> None:
        async for delivery in deliveries:
            if delivery.subject == task:
                seen.add(delivery.payload)
            await delivery.ack()
            if seen == {b"before", b"after"}:
                return

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as group:
            group.start_soon(pull)
            await server_bus.publish(task, b"before")
            await server_bus.kill()
            killed_at.append(server_bus.now())
            await shared.update(f"account.{tenant}.a", b"2", revision=revision)
            await server_bus.publish(task, b"after")
        # After a reconnect the pull is requested again at once, without waiting for missed heartbeats.
        took = server_bus.now() - killed_at[0]
        assert isinstance(server_bus.server, Cluster) or took < timedelta(seconds=RESUMED_WITHIN_S)
        await server_bus.restart()
    assert isinstance(deliveries, AsyncGenerator)
    await deliveries.aclose()


async def test_timers_survive_a_kill_as_they_were_left(
    server_bus: ServerBusFixture, tenant: TenantId, run: RunId
) -> None:
    """After a restart the moved timer fires at its new time, and the cancelled and the old one do not."""
    timers = await server_bus.timers()
    start = server_bus.now()
    await timers.set(tenant, run, "cancelled", start + timedelta(seconds=3))
    await timers.set(tenant, run, "moved", start + timedelta(seconds=3))
    await timers.set(tenant, run, "moved", start + timedelta(seconds=5))
    await timers.cancel(tenant, run, "cancelled")
    await server_bus.kill()
    spec = next(spec for spec in consumers() if spec.name == stream_names.TIMERS_CONSUMER)
    deliveries = (await server_bus.queue(spec)).deliveries()
    fired: list[tuple[str, bool]] = []

    async def collect() -> None:
        async for delivery in deliveries:
            timer = subjects.parse_timer(delivery.subject)
            if timer.tenant == tenant:
                fired.append((timer.name, server_bus.now() >= start + timedelta(seconds=5)))
                came.set()
            await delivery.ack()

    came = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(collect)
        with anyio.fail_after(WITHIN_S):
            await came.wait()
        await anyio.sleep(QUIET_S)
        group.cancel_scope.cancel()
    await server_bus.restart()
    assert fired == [("moved", True)]
    assert isinstance(deliveries, AsyncGenerator)
    await deliveries.aclose()
