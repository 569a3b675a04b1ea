"""One bus for tests in three forms: in memory, on one server, on a cluster of three.

A fixture returns each interface with the credential that needs it, so a test names the interface and not the
connection. The real ones can be killed; the conformance suite runs on all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import msgspec

from linestop.bus import jetstream_api
from linestop.bus.access.rights import CredentialName
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import Connection, connect
from linestop.bus.interfaces import Append, Blobs, Bucket, LiveMessage, Log, Publisher, Queue, Timers
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.jetstream.retry import publish
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import ConsumerSpec, streams
from linestop.bus.wire import Wire, header_block
from linestop.errors import Unreachable
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.cluster import Cluster
from linestop.testing.memory import MemoryBroker

READY_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.01

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T]], *, within_s: float = 10.0, every_s: float = _POLL_S) -> T:
    """Call ``condition`` until its result is true, and return it; for conditions without a signal.

    Raises:
        TimeoutError: the result was not true in time.
    """
    with anyio.fail_after(within_s):
        while True:
            value = await condition()
            if value:
                return value
            await anyio.sleep(every_s)


def planner_append(tenant: TenantId, run: RunId, *, event: str, n: int, head_seq: int, payload: bytes) -> Append:
    """The append of the planner's event ``n``, which nobody folds."""
    return Append(tenant=tenant, run=run, role="planner", event=event, n=n, head_seq=head_seq, payload=payload)


class BusFixture(Protocol):
    """A bus with all its streams. ``log`` returns a new writer each time, on a separate connection."""

    def now(self) -> datetime:
        """The clock of the timers."""
        ...

    async def log(self, role: RoleName = "planner") -> Log:
        """The run log as ``role`` sees it."""
        ...

    async def queue(self, spec: ConsumerSpec) -> Queue:
        """A durable consumer, as the credential that may pull from it."""
        ...

    async def blobs(self) -> Blobs:
        """The blobs."""
        ...

    async def bucket(self, bucket: str = stream_names.SHARED_BUCKET) -> Bucket:
        """A bucket, as a credential that may write to it: ``budget``, or ``operator`` or ``validator``."""
        ...

    async def timers(self) -> Timers:
        """The timers."""
        ...

    async def publisher(self) -> Publisher:
        """The recorder's publisher."""
        ...

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """The messages that pass by, as ``role`` sees them, on a connection of its own."""
        ...

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish a task or a control message as a person would, and wait until it is stored."""
        ...

    async def stored(self, stream: str, subject: str) -> bytes | None:
        """The last message on a subject of OUTCOMES, ALERTS or DEAD."""
        ...


class MemoryBusFixture:
    """The bus in memory, under the running loop's time."""

    def __init__(self, broker: MemoryBroker, now: Callable[[], datetime]) -> None:
        self.broker = broker
        self._now = now

    def now(self) -> datetime:
        """The clock of the timers."""
        return self._now()

    async def log(self, role: RoleName = "planner") -> Log:
        """The run log as ``role`` sees it."""
        return self.broker.log([role])

    async def queue(self, spec: ConsumerSpec) -> Queue:
        """A durable consumer."""
        return self.broker.queue(spec)

    async def blobs(self) -> Blobs:
        """The blobs."""
        return self.broker.blobs()

    async def bucket(self, bucket: str = stream_names.SHARED_BUCKET) -> Bucket:
        """A bucket."""
        return self.broker.bucket(bucket)

    async def timers(self) -> Timers:
        """The timers."""
        return self.broker.timers()

    async def publisher(self) -> Publisher:
        """The recorder's publisher."""
        return self.broker.publisher()

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """The messages that pass by."""
        del role
        return self.broker.listen(*filters, group=group)

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish a task or a control message."""
        await self.broker.publish(subject, payload, dict(headers or {}))

    async def stored(self, stream: str, subject: str) -> bytes | None:
        """The last message on a subject."""
        found = self.broker.stream(stream).last(subject)
        return found.payload if found else None


class ServerBusFixture:
    """The bus on real servers. ``close`` closes its connections, not the servers."""

    def __init__(self, server: EmbeddedServer | Cluster) -> None:
        self.server = server
        self._shared_connections: dict[CredentialName, JetStream] = {}
        self._connections: list[Connection] = []

    async def set_up(self) -> None:
        """Create all streams and consumers."""
        replicas = 3 if isinstance(self.server, Cluster) else 1
        async with await connect(self.server.credential("bootstrap"), name="tests") as connection:
            done = await set_up(connection, BusLayout(replicas=replicas))
        done.require_no_differences()

    async def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            await connection.close()

    async def open(self, name: CredentialName, *, url: str = "") -> JetStream:
        """Open a new connection, to ``url`` if given; in a cluster, to any node."""
        credential = self.server.credential(name)
        if url:
            credential = msgspec.structs.replace(credential, url=url)
        connection = await connect(credential, name=f"tests {name}", timeout_s=READY_TIMEOUT_S)
        self._connections.append(connection)
        return JetStream(connection)

    @property
    def nodes(self) -> set[str]:
        """The addresses of the servers that its connections use."""
        urls = [connection.nc.connected_url for connection in self._connections if connection.connected]
        return {url.netloc for url in urls if url is not None}

    def now(self) -> datetime:
        """The clock of the timers."""
        return datetime.now(UTC)

    async def log(self, role: RoleName = "planner") -> Log:
        """The run log as ``role`` sees it, on a new connection."""
        return (await self.open(role)).log()

    async def queue(self, spec: ConsumerSpec) -> Queue:
        """A durable consumer, as the credential that may pull from it."""
        return (await self._shared_connection(_credential_to_pull(spec))).queue(spec)

    async def blobs(self) -> Blobs:
        """The blobs."""
        return (await self._shared_connection("planner")).blobs()

    async def bucket(self, bucket: str = stream_names.SHARED_BUCKET) -> Bucket:
        """A bucket, as a credential that may write to it."""
        writers: dict[str, CredentialName] = {
            stream_names.AGENTS_BUCKET: "operator",
            stream_names.IDS_BUCKET: "validator",
        }
        return (await self._shared_connection(writers.get(bucket, "budget"))).bucket(bucket)

    async def timers(self) -> Timers:
        """The timers."""
        return (await self._shared_connection("planner")).timers()

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """The messages that pass by, as ``role`` sees them, on a connection of its own."""
        return JetStreamBackend({role: await self.open(role)}, {}).live(role, *filters, group=group)

    async def publisher(self) -> Publisher:
        """The recorder's publisher."""
        return (await self._shared_connection("recorder")).publisher()

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Publish a task or a control message, and wait until it is stored."""
        await publish(
            (await self._shared_connection("operator")).wire,
            subject,
            payload,
            headers=header_block(dict(headers or {})),
        )

    async def stored(self, stream: str, subject: str) -> bytes | None:
        """The last message on a subject."""
        found = await Reader((await self._shared_connection("operator")).wire, stream).direct_last(subject)
        return found.payload if found else None

    async def kill(self) -> None:
        """Kill the server, or the node that leads the run log, with SIGKILL; ``restart`` starts it again."""
        if isinstance(self.server, Cluster):
            self._killed = await self.server.leader_of(stream_names.RUNS)
            await self.server.kill(self._killed)
        else:
            os.kill(self.server.pid, signal.SIGKILL)

    async def restart(self) -> None:
        """Start the killed node again and wait until it has caught up; a single server restarts by itself."""
        if not isinstance(self.server, Cluster):
            return
        await self.server.restart(self._killed)
        bootstrap = await self._shared_connection("bootstrap")
        for spec in streams():
            await until(partial(_is_replicated, bootstrap.wire, spec.name), within_s=READY_TIMEOUT_S)

    async def _shared_connection(self, name: CredentialName) -> JetStream:
        if name not in self._shared_connections:
            self._shared_connections[name] = await self.open(name)
        return self._shared_connections[name]


async def make_server_fixture(server: EmbeddedServer | Cluster) -> ServerBusFixture:
    """Set up running servers and return their fixture."""
    fixture = ServerBusFixture(server)
    with anyio.fail_after(READY_TIMEOUT_S):
        while True:
            try:
                await fixture.set_up()
            except Unreachable:
                await anyio.sleep(_POLL_S)
            else:
                return fixture


async def _is_replicated(wire: Wire, stream: str) -> bool:
    """Whether a stream has a leader and every replica is up to date."""
    try:
        reply = msgspec.json.decode((await wire.request(jetstream_api.stream_info(stream))).data)
    except Unreachable:
        return False
    cluster = reply.get("cluster", {})
    replicas = cluster.get("replicas", [])
    return bool(cluster.get("leader")) and len(replicas) == 2 and all(r.get("current") for r in replicas)


def _credential_to_pull(spec: ConsumerSpec) -> CredentialName:
    """Return the credential that may pull from a consumer."""
    if spec.stream in {stream_names.CONTROL, stream_names.CLIENTS}:
        return "approver"
    return "validator" if spec.name == stream_names.TASKS_CONSUMER else "recorder"
