"""The interfaces to the broker that a process uses, with one credential for each role; on JetStream or in memory."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from linestop.bus.access.credentials import Credential
from linestop.bus.connection import Connection, connect
from linestop.bus.interfaces import Blobs, Bucket, LiveMessage, Log, Publisher, Queue, Timers
from linestop.bus.jetstream import JetStream
from linestop.bus.streams.stream_definitions import ConsumerSpec
from linestop.errors import Unreachable
from linestop.schemas.subjects import RoleName

if TYPE_CHECKING:
    from nats.aio.msg import Msg

LIVE_WAITING_MAX: Final = 4_096
"""Live messages that wait for a busy process; more are dropped, and the sweep finds their runs."""


class Backend(Protocol):
    """The interfaces of every role in this process."""

    def log(self, role: RoleName) -> Log:
        """The run log as ``role`` sees it."""
        ...

    def publisher(self, role: RoleName) -> Publisher:
        """The publisher of ``role``."""
        ...

    def queue(self, role: RoleName, spec: ConsumerSpec) -> Queue:
        """A durable consumer, pulled as ``role``."""
        ...

    def blobs(self, role: RoleName) -> Blobs:
        """Blobs as ``role``."""
        ...

    def bucket(self, role: RoleName, bucket: str) -> Bucket:
        """A bucket as ``role``."""
        ...

    def timers(self, role: RoleName) -> Timers:
        """Durable timers as ``role``."""
        ...

    def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """The messages that match one of ``filters``, from now on; lossy.

        Of all listeners with the same ``group``, one receives each message; without a group, every listener does.

        Raises:
            Unreachable: the connection was lost, and with it perhaps messages.
        """
        ...


class JetStreamBackend:
    """One connection for each role with that role's credential, also if all roles run in one process."""

    def __init__(self, streams: Mapping[RoleName, JetStream], connections: Mapping[RoleName, Connection]) -> None:
        self._streams = dict(streams)
        self._connections = dict(connections)

    @classmethod
    async def open(cls, credentials: Mapping[RoleName, Credential], *, name: str) -> JetStreamBackend:
        """Connect every role.

        Raises:
            ConfigError: the broker refuses messages as large as a role may have to send.
            Unreachable: the broker does not answer.
        """
        connections: dict[RoleName, Connection] = {}
        streams: dict[RoleName, JetStream] = {}
        for role, credential in credentials.items():
            connections[role] = await connect(credential, name=f"{name}-{role}")
            connections[role].require_payload()
            streams[role] = JetStream(connections[role])
        return cls(streams, connections)

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            await connection.close()

    def log(self, role: RoleName) -> Log:
        """The run log as ``role`` sees it."""
        return self._streams[role].log()

    def publisher(self, role: RoleName) -> Publisher:
        """The publisher of ``role``."""
        return self._streams[role].publisher()

    def queue(self, role: RoleName, spec: ConsumerSpec) -> Queue:
        """A durable consumer, pulled as ``role``."""
        return self._streams[role].queue(spec)

    def blobs(self, role: RoleName) -> Blobs:
        """Blobs as ``role``."""
        return self._streams[role].blobs()

    def bucket(self, role: RoleName, bucket: str) -> Bucket:
        """A bucket as ``role``, read from the leader because the role decides by it."""
        return self._streams[role].bucket(bucket, leader=True)

    def timers(self, role: RoleName) -> Timers:
        """Durable timers as ``role``."""
        return self._streams[role].timers()

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """The messages that match one of ``filters``, from now on; see ``Backend``."""
        wire = self._streams[role].wire
        waiting: collections.deque[LiveMessage] = collections.deque(maxlen=LIVE_WAITING_MAX)
        changed = asyncio.Event()
        was_lost = False

        def receive(msg: Msg) -> None:
            nonlocal was_lost
            was_lost = was_lost or len(waiting) == LIVE_WAITING_MAX
            seq = (msg.headers or {}).get("Nats-Sequence", "0")
            waiting.append(LiveMessage(subject=msg.subject, payload=msg.data, seq=int(seq)))
            changed.set()

        def note_loss() -> None:
            nonlocal was_lost
            was_lost = True
            changed.set()

        stop_watching = wire.watch(restored=note_loss)
        subscriptions = [await wire.subscribe(each, receive, group=group) for each in filters]
        try:
            while not was_lost:
                while waiting:
                    yield waiting.popleft()
                changed.clear()
                await changed.wait()
        finally:
            stop_watching()
            for subscription in subscriptions:
                await wire.unsubscribe(subscription)
        raise Unreachable("The connection to the broker was lost for a while; live messages may be missing.")
