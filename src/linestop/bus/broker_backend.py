"""The interfaces to the broker that a process uses, with one credential for each role; on JetStream or in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import anyio

from linestop.bus.access.credentials import Credential
from linestop.bus.connection import Connection, connect
from linestop.bus.interfaces import Blobs, Bucket, Log, Publisher, Queue, Timers
from linestop.bus.jetstream import JetStream
from linestop.bus.streams.stream_definitions import ConsumerSpec
from linestop.schemas.subjects import RoleName

HINTS_MAX = 4_096


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

    def hints(self, role: RoleName, subject: str) -> AsyncIterator[str]:
        """The subjects of messages on core NATS that match ``subject``; lossy."""
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
            streams[role] = await JetStream.open(connections[role])
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

    async def hints(self, role: RoleName, subject: str) -> AsyncIterator[str]:
        """The subjects of core messages. A full buffer drops them; the sweep makes up for lost hints."""
        send, receive = anyio.create_memory_object_stream[str](HINTS_MAX)

        async def on_message(message: object) -> None:
            try:
                send.send_nowait(getattr(message, "subject", ""))
            except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

        nc = self._connections[role].nc
        subscription = await nc.subscribe(subject, cb=on_message)  # pyright: ignore[reportUnknownMemberType] - nats-py
        try:
            async with receive:
                async for hinted_subject in receive:
                    yield hinted_subject
        finally:
            send.close()
            if not self._connections[role].closed:
                await subscription.unsubscribe()
