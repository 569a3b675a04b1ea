"""A durable consumer in memory: at-least-once delivery, ``ack_wait``, delayed nak."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final

import anyio

from linestop.bus.interfaces import PullCapacity
from linestop.bus.streams.stream_definitions import SECOND_NS, ConsumerSpec
from linestop.errors import Unreachable
from linestop.schemas.broker_defaults import DELIVERIES_IN_FLIGHT_MAX
from linestop.testing.memory.faults import Faults
from linestop.testing.memory.stream import MemoryStream, Stored, matches

CAPACITY_POLL_S: Final = 2.0
"""How often a loop checks again whether there is capacity, as the loop on the real server does."""


class MemoryConsumer:
    """The server's side of a durable consumer; any number of loops pull from it."""

    def __init__(self, stream: MemoryStream, spec: ConsumerSpec) -> None:
        self._filters: Sequence[str] = spec.config["filter_subjects"]
        self._ack_wait_s: float = spec.config["ack_wait"] / SECOND_NS
        self.changed = asyncio.Event()
        self._stream = stream
        self._ready: collections.deque[int] = collections.deque()
        self._attempts: dict[int, int] = {}
        self._unsettled: dict[int, asyncio.TimerHandle] = {}
        for stored in stream.matching(">"):
            self._offer(stored)
        stream.listeners.append(self._offer)

    def take(self) -> tuple[Stored, int] | None:
        """Return the next message and its attempt; it is delivered again unless it is settled in ``ack_wait``."""
        while self._ready:
            seq = self._ready.popleft()
            stored = self._stream.at(seq)
            if stored is None:
                continue
            attempt = self._attempts.get(seq, 0) + 1
            self._attempts[seq] = attempt
            self._schedule_redelivery(seq, self._ack_wait_s)
            return stored, attempt
        return None

    def is_unsettled(self, seq: int) -> bool:
        """Whether the message is delivered and neither settled nor due again."""
        return seq in self._unsettled

    def settle(self, seq: int) -> None:
        """Never deliver the message again."""
        timer = self._unsettled.pop(seq, None)
        if timer is not None:
            timer.cancel()
        # A late acknowledgement also settles a message that waits to be delivered again.
        if seq in self._ready:
            self._ready.remove(seq)
        if self._stream.is_work_queue:
            self._stream.remove(seq)
        self.notify()

    def redeliver_after(self, seq: int, delay_s: float) -> None:
        """Deliver the message again after this delay."""
        if seq in self._unsettled:
            self._schedule_redelivery(seq, delay_s)
            self.notify()

    def restart_ack_wait(self, seq: int, attempt: int) -> None:
        """Restart the time until the message is delivered again."""
        if seq in self._unsettled and self._attempts[seq] == attempt:
            self._schedule_redelivery(seq, self._ack_wait_s)

    def notify(self) -> None:
        """Wake every loop that waits for a change."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _schedule_redelivery(self, seq: int, delay_s: float) -> None:
        timer = self._unsettled.pop(seq, None)
        if timer is not None:
            timer.cancel()
        self._unsettled[seq] = asyncio.get_running_loop().call_later(delay_s, self._redeliver, seq)

    def _redeliver(self, seq: int) -> None:
        self._unsettled.pop(seq, None)
        self._ready.appendleft(seq)
        self.notify()

    def _offer(self, stored: Stored) -> None:
        if any(matches(pattern, stored.subject) for pattern in self._filters):
            self._ready.append(stored.seq)
            self.notify()


class MemoryDelivery:
    """A message of a consumer; see ``interfaces.Delivery``."""

    def __init__(self, stored: Stored, attempt: int, consumer: MemoryConsumer, faults: Faults) -> None:
        self._stored = stored
        self._consumer = consumer
        self._faults = faults
        self.attempt = attempt

    @property
    def subject(self) -> str:
        """The subject of the message."""
        return self._stored.subject

    @property
    def payload(self) -> bytes:
        """The body of the message."""
        return self._stored.payload

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the message, by name."""
        return self._stored.headers

    @property
    def seq(self) -> int:
        """The sequence of the message in its stream."""
        return self._stored.seq

    @property
    def stored_at(self) -> datetime:
        """When the stream stored the message."""
        return self._stored.stored_at

    async def ack(self) -> None:
        """Handled: do not deliver it again."""
        if await self._reaches_consumer("queue.ack"):
            self._consumer.settle(self.seq)

    async def in_progress(self) -> None:
        """Still being handled: restart the time until it is delivered again."""
        if await self._reaches_consumer("queue.in_progress"):
            self._consumer.restart_ack_wait(self.seq, self.attempt)

    async def nak(self, delay_s: float) -> None:
        """Not handled because of a failure here: deliver it again after this delay."""
        if await self._reaches_consumer("queue.nak"):
            self._consumer.redeliver_after(self.seq, delay_s)

    async def term(self, reason: str) -> None:  # noqa: ARG002 - the server only logs it
        """Never deliver it again."""
        if await self._reaches_consumer("queue.term"):
            self._consumer.settle(self.seq)

    async def _reaches_consumer(self, op: str) -> bool:
        """Whether the acknowledgement reaches the consumer: it is sent without waiting, so a loss is not noticed."""
        try:
            await self._faults.before(op)
        except Unreachable:
            return False
        return True


class MemoryQueue:
    """The client's side of a durable consumer; see ``interfaces.Queue``."""

    def __init__(self, consumer: MemoryConsumer, faults: Faults) -> None:
        self._consumer = consumer
        self._faults = faults

    async def deliveries(
        self, *, in_flight_max: int = DELIVERIES_IN_FLIGHT_MAX, capacity: PullCapacity | None = None
    ) -> AsyncGenerator[MemoryDelivery]:
        """Yield messages as they arrive, without end."""
        arrived: collections.deque[MemoryDelivery] = collections.deque()
        unsettled: set[int] = set()
        consumer = self._consumer
        stop_watching = capacity.watch(consumer.notify) if capacity is not None else None
        try:
            while True:
                changed = consumer.changed
                unsettled = {seq for seq in unsettled if consumer.is_unsettled(seq)}
                if arrived:
                    yield arrived.popleft()
                    continue
                unsettled_max = in_flight_max if capacity is None else min(in_flight_max, capacity.free())
                taken = consumer.take() if len(unsettled) < unsettled_max else None
                if taken is None:
                    with anyio.move_on_after(CAPACITY_POLL_S if capacity is not None else None):
                        await changed.wait()
                    continue
                unsettled.add(taken[0].seq)
                self._deliver_copies(taken, arrived)
        finally:
            if stop_watching is not None:
                stop_watching()

    def _deliver_copies(self, taken: tuple[Stored, int], arrived: collections.deque[MemoryDelivery]) -> None:
        """Deliver every copy of a delivery, at once or after its delay."""
        stored, attempt = taken
        for delay_s in self._faults.copies(stored.subject):
            delivery = MemoryDelivery(stored, attempt, self._consumer, self._faults)
            if delay_s <= 0:
                arrived.append(delivery)
            else:
                asyncio.get_running_loop().call_later(delay_s, self._arrive, delivery, arrived)

    def _arrive(self, delivery: MemoryDelivery, arrived: collections.deque[MemoryDelivery]) -> None:
        arrived.append(delivery)
        self._consumer.notify()
