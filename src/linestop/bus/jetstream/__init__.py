"""The interfaces of ``linestop.bus.interfaces`` on a real JetStream server; begin with ``JetStream``."""

from __future__ import annotations

from linestop.bus.connection import Connection
from linestop.bus.jetstream.blobs import JetStreamBlobs
from linestop.bus.jetstream.key_value import JetStreamBucket
from linestop.bus.jetstream.log import JetStreamLog
from linestop.bus.jetstream.publisher import JetStreamPublisher
from linestop.bus.jetstream.pull_queue import JetStreamQueue
from linestop.bus.jetstream.timers import JetStreamTimers
from linestop.bus.stores.kill_switch_store import KillSwitchStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import ConsumerSpec


class JetStream:
    """Every interface, over one connection, with the rights of its credential."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.wire = connection.wire

    def log(self, *, forks: bool = False) -> JetStreamLog:
        """The run log, or that of forks."""
        return JetStreamLog(self.wire, forks=forks)

    def queue(self, spec: ConsumerSpec) -> JetStreamQueue:
        """An existing durable consumer (see ``bus.streams.stream_definitions``)."""
        return JetStreamQueue(self.wire, spec)

    def blobs(self) -> JetStreamBlobs:
        """Write-once payloads."""
        return JetStreamBlobs(self.wire)

    def bucket(self, name: str = stream_names.SHARED_BUCKET, *, leader: bool = False) -> JetStreamBucket:
        """A key-value bucket; ``leader`` reads from the leader, for callers that decide by its values."""
        return JetStreamBucket(self.wire, name, leader=leader)

    def kill_switches(self) -> KillSwitchStore:
        """The kill switches."""
        return KillSwitchStore(self.bucket(stream_names.SWITCHES_BUCKET), self.bucket(stream_names.SHARED_BUCKET))

    def timers(self) -> JetStreamTimers:
        """Durable timers."""
        return JetStreamTimers(self.wire)

    def publisher(self) -> JetStreamPublisher:
        """The publisher of all other messages."""
        return JetStreamPublisher(self.wire)


__all__ = ["JetStream"]
