"""A broker in memory, with the streams of ``bus.streams.stream_definitions``; simulations run on it.

It uses the running event loop and its clock, so under a ``VirtualLoop`` all its waiting is virtual. It plays the
server: it outlives the shells that a simulation crashes, and the interfaces it returns store nothing.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable, Collection
from datetime import datetime
from typing import Final

from linestop.bus.interfaces import LiveMessage
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import SECOND_NS, ConsumerSpec, StreamSpec, streams
from linestop.errors import NotFound
from linestop.schemas.subjects import ROLES, RoleName
from linestop.testing.memory.blobs import MemoryBlobs
from linestop.testing.memory.buckets import MemoryBucket
from linestop.testing.memory.faults import Faults, NoFaults, with_faults
from linestop.testing.memory.log import MemoryLog
from linestop.testing.memory.publisher import MemoryPublisher
from linestop.testing.memory.queue import MemoryConsumer, MemoryQueue
from linestop.testing.memory.stream import MemoryStream, Retention, Stored, matches
from linestop.testing.memory.timers import MemoryTimers, Schedules

LIVE_WAITING_MAX: Final = 65_536
"""Live messages buffered for a listener that does not read; older ones are dropped."""


class _Listener:
    def __init__(self, filters: tuple[str, ...], group: str) -> None:
        self.filters = filters
        self.group = group
        self.received: collections.deque[LiveMessage] = collections.deque(maxlen=LIVE_WAITING_MAX)
        self.changed = asyncio.Event()

    def receive(self, message: LiveMessage) -> None:
        self.received.append(message)
        self.changed.set()


class MemoryBroker:
    """All streams and interfaces. ``now`` is the broker's clock; ``faults`` has hooks around every operation."""

    def __init__(self, now: Callable[[], datetime], *, faults: Faults | None = None) -> None:
        self.faults = faults or NoFaults()
        self._now = now
        self._streams: dict[str, MemoryStream] = {}
        self._subjects: list[tuple[str, MemoryStream]] = []
        self._consumers: dict[tuple[str, str], MemoryConsumer] = {}
        self._listeners: list[_Listener] = []
        self._passed_to_group: collections.Counter[str] = collections.Counter()
        self._blobs: dict[str, bytes] = {}
        for spec in streams():
            self._add_stream(spec)
        self.schedules = Schedules(self._streams[stream_names.TIMERS], now)

    def log(self, roles: Collection[RoleName] = ROLES, *, forks: bool = False) -> MemoryLog:
        """The run log, or the log of forks, for a credential that may append as ``roles``."""
        stream = self._streams[stream_names.FORKS if forks else stream_names.RUNS]
        outcomes = self._streams[stream_names.OUTCOMES]
        return MemoryLog(stream, self.faults, outcomes=outcomes, roles=roles, forks=forks)

    def queue(self, spec: ConsumerSpec) -> MemoryQueue:
        """A durable consumer; it is created on first use and remains."""
        key = spec.stream, spec.name
        if key not in self._consumers:
            self._consumers[key] = MemoryConsumer(self._streams[spec.stream], spec)
        return MemoryQueue(self._consumers[key], self.faults)

    def blobs(self) -> MemoryBlobs:
        """Write-once payloads."""
        return MemoryBlobs(self._blobs, self.faults)

    def bucket(self, bucket: str = stream_names.SHARED_BUCKET) -> MemoryBucket:
        """A key-value bucket."""
        return MemoryBucket(self._streams[stream_names.bucket_stream(bucket)], bucket, self.faults)

    def timers(self) -> MemoryTimers:
        """Durable timers."""
        return MemoryTimers(self.schedules, self.faults)

    def publisher(self) -> MemoryPublisher:
        """The publisher of everything that is not an event."""
        return MemoryPublisher(self._publish, self.faults, self._now)

    def stream(self, name: str) -> MemoryStream:
        """The stream itself, for inspecting its messages and setting its space."""
        if name not in self._streams:
            raise NotFound(f"There is no stream {name}; there are {', '.join(self._streams)}.")
        return self._streams[name]

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish as any client would: a task, a control message."""
        async with with_faults(self.faults, "client.publish"):
            self._publish(subject, payload, headers or {})

    async def listen(self, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """Yield the messages on these subjects from now on, including republished events; lossy.

        Of all listeners with the same ``group``, one receives each message.
        """
        listener = _Listener(filters, group)
        self._listeners.append(listener)
        try:
            while True:
                listener.changed.clear()
                while listener.received:
                    yield listener.received.popleft()
                await listener.changed.wait()
        finally:
            self._listeners.remove(listener)

    def _add_stream(self, spec: StreamSpec) -> None:
        config = spec.config
        stream = MemoryStream(
            spec.name, self._now, retention=_retention(spec), window_s=config["duplicate_window"] / SECOND_NS
        )
        self._streams[spec.name] = stream
        self._subjects += [(subject, stream) for subject in config["subjects"]]
        republish = config.get("republish")
        if republish:
            source, target = republish["src"].removesuffix(">"), republish["dest"].removesuffix(">")

            def republished(stored: Stored) -> None:
                live_subject = f"{target}{stored.subject.removeprefix(source)}"
                self._pass_to_listeners(LiveMessage(subject=live_subject, payload=stored.payload, seq=stored.seq))

            stream.listeners.append(republished)

    def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        for pattern, stream in self._subjects:
            if matches(pattern, subject):
                stream.publish(subject, payload, headers=headers, message_id=headers.get("Nats-Msg-Id", ""))
        self._pass_to_listeners(LiveMessage(subject=subject, payload=payload))

    def _pass_to_listeners(self, message: LiveMessage) -> None:
        groups: dict[str, list[_Listener]] = {}
        for listener in self._listeners:
            if any(matches(pattern, message.subject) for pattern in listener.filters):
                groups.setdefault(listener.group, []).append(listener)
        receivers = groups.pop("", [])
        for name, members in groups.items():
            # In turn, so that a simulation is the same every time; the server chooses by chance.
            self._passed_to_group[name] += 1
            receivers.append(members[self._passed_to_group[name] % len(members)])
        for receiver in receivers:
            for delay_s in self.faults.copies(message.subject):
                asyncio.get_running_loop().call_later(delay_s, receiver.receive, message)


def _retention(spec: StreamSpec) -> Retention:
    if spec.config["retention"] == "workqueue":
        return "work"
    if spec.config.get("discard_new_per_subject"):
        return "first"
    return "last" if spec.config.get("max_msgs_per_subject", 0) > 0 else "all"
