"""A durable consumer, pulled by linestop's own loop.

``nats-py``'s fetch requests every batch separately and waits for its full timeout after a reconnect. Here a pull
request stays open on the server and is topped up when half of it is used. The server sends heartbeats into an idle
pull. After two missed ones, or a reconnect, the pull is requested again, on a new inbox.

A pull cannot be withdrawn. A single server notices that its inbox has no subscriber any more. In a cluster, where
requests cross accounts, the node that leads the consumer cannot know it: until the pull expires it continues to
deliver messages that no process receives, and each of them is delivered again only after ``ack_wait``. So a pull is
short. (Staying subscribed and refusing the messages would be worse: the same pull gets them again, attempt after
attempt.)

Cancelling loses nothing: unacknowledged messages are delivered again.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from linestop.bus import jetstream_api
from linestop.bus.interfaces import PullCapacity
from linestop.bus.streams.stream_definitions import ConsumerSpec
from linestop.bus.wire import Wire
from linestop.errors import PermissionDenied
from linestop.schemas.broker_defaults import DELIVERIES_IN_FLIGHT_MAX

EXPIRES_S: Final = 5.0
"""How long the server keeps a pull request open, and so how long a killed worker's pull can swallow messages."""

HEARTBEAT_S: Final = 2.0
"""How often the server shows that an idle pull is alive."""

IDLE_HEARTBEATS_MISSED_MAX: Final = 2
RETRY_S: Final = 0.25
"""Pause before a refused pull is requested again."""

_ACK_V1_TOKENS: Final = 9
_REASON_CHARS_MAX: Final = 200
_NANOSECONDS: Final = 1_000_000_000
_STILL_OPEN: Final = frozenset({"100"})
_EXPECTED_ENDS: Final = frozenset({"404", "408"})


class JetStreamDelivery:
    """A message of a consumer; see ``interfaces.Delivery``."""

    def __init__(self, msg: Msg, pull: _Pull) -> None:
        self._msg = msg
        self._pull = pull
        # $JS.ACK.<stream>.<consumer>.<attempt>.<seq>.<delivery>.<time>.<pending>; with a domain, three more
        # tokens are in it: domain and account after $JS.ACK, a random one at the end.
        tokens = msg.reply.split(".")
        at = 4 if len(tokens) == _ACK_V1_TOKENS else 6
        self.attempt = int(tokens[at])
        self.seq = int(tokens[at + 1])
        self._stored_ns = int(tokens[at + 3])

    @property
    def subject(self) -> str:
        """The subject it was published on."""
        return self._msg.subject

    @property
    def payload(self) -> bytes:
        """The payload as it was published."""
        return self._msg.data

    @property
    def headers(self) -> dict[str, str]:
        """The headers, by name."""
        return self._msg.headers or {}

    @property
    def stored_at(self) -> datetime:
        """The time at which the stream stored it."""
        return datetime.fromtimestamp(self._stored_ns / _NANOSECONDS, tz=UTC)

    async def ack(self) -> None:
        """Confirm that the message is handled; see ``interfaces.Delivery``."""
        self._settle(b"+ACK")

    async def in_progress(self) -> None:
        """Report progress; see ``interfaces.Delivery``."""
        self._pull.extend(self, self._msg.reply)

    async def nak(self, delay_s: float) -> None:
        """Have the message delivered again after ``delay_s``."""
        if delay_s <= 0:
            self._settle(b"-NAK")
            return
        self._settle(b"-NAK " + msgspec.json.encode({"delay": int(delay_s * _NANOSECONDS)}))

    async def term(self, reason: str) -> None:
        """Stop all further deliveries."""
        one_line = " ".join(reason.split())[:_REASON_CHARS_MAX]
        self._settle(f"+TERM {one_line}".encode())

    def _settle(self, ack_payload: bytes) -> None:
        self._pull.settle(self.seq, ack_payload, self._msg.reply)


class _Pull:
    """The open pull requests of one loop, the messages that arrived, and those not settled yet."""

    def __init__(
        self, wire: Wire, subject: str, *, in_flight_max: int, capacity: PullCapacity | None, ack_wait_s: float
    ) -> None:
        self._wire = wire
        self._capacity = capacity
        self._subject = subject
        self._in_flight_max = in_flight_max
        self._ack_wait_s = ack_wait_s
        self._arrived: collections.deque[Msg] = collections.deque()
        self._unsettled: dict[int, float] = {}
        self._requested = 0
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._changed = asyncio.Event()
        self._last_message_at = 0.0
        self._must_restart = False
        self._pause_s = 0.0
        self._denied: PermissionDenied | None = None

    async def next(self) -> Msg:
        """Return the next message, and keep the pull open until then."""
        while True:
            self._changed.clear()
            if self._denied is not None:
                raise self._denied
            if self._arrived and len(self._unsettled) < self._in_flight_max:
                return self._arrived.popleft()
            await self._keep_open()
            with anyio.move_on_after(HEARTBEAT_S):
                await self._changed.wait()

    def hand_out(self, delivery: JetStreamDelivery) -> None:
        """Count a delivery as handed out."""
        self._unsettled[delivery.seq] = _now()

    def extend(self, delivery: JetStreamDelivery, reply: str) -> None:
        """Tell the server that a delivery is being handled, if it still counts as handed out."""
        if delivery.seq in self._unsettled:
            self.hand_out(delivery)
            self._wire.send(reply, b"+WPI")

    def settle(self, seq: int, ack_payload: bytes, reply: str) -> None:
        """Send the server the result of a delivery. If that is lost, the message is delivered again."""
        self._unsettled.pop(seq, None)
        self._changed.set()
        self._wire.send(reply, ack_payload)

    def capacity_freed(self) -> None:
        """Note that more messages may be requested."""
        self._changed.set()

    def restart(self) -> None:
        """Request again on a new inbox: after a reconnect the server may not know the pull."""
        self._must_restart = True
        self._changed.set()

    def deny(self, subject: str) -> None:
        """End with an error if the broker refuses this pull."""
        if subject == self._subject.lower():
            self._denied = self._wire.denied("pull from", self._subject)
            self._changed.set()

    async def close(self) -> None:
        """End the pull, and return the messages that arrived but were not handed out."""
        for msg in self._arrived:
            self._wire.send(msg.reply, b"-NAK")
        self._arrived.clear()
        await self._abandon()

    async def _keep_open(self) -> None:
        now = _now()
        silent = self._requested > 0 and now - self._last_message_at > HEARTBEAT_S * IDLE_HEARTBEATS_MISSED_MAX
        if silent or self._must_restart:
            await self._abandon()
        if self._pause_s:
            await anyio.sleep(self._pause_s)
            self._pause_s = 0.0
        if not await self._wire.wait_connected(within_s=HEARTBEAT_S):
            return
        if self._subscription is None:
            await self._open_inbox()
        # A dead handler's message is delivered again after ack_wait, so from then it no longer counts here.
        for seq in [s for s, since in self._unsettled.items() if now - since > self._ack_wait_s]:
            del self._unsettled[seq]
        in_flight_max = (
            self._in_flight_max if self._capacity is None else min(self._in_flight_max, self._capacity.free())
        )
        free = in_flight_max - len(self._unsettled) - len(self._arrived) - self._requested
        if free > 0 and (self._requested == 0 or free * 2 >= self._in_flight_max):
            self._request(free)

    def _request(self, batch: int) -> None:
        body = {
            "batch": batch,
            "expires": int(EXPIRES_S * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * _NANOSECONDS),
        }
        self._requested += batch
        self._last_message_at = _now()
        self._wire.send(self._subject, msgspec.json.encode(body), reply_to=self._inbox)

    async def _open_inbox(self) -> None:
        self._inbox = self._wire.new_inbox()
        self._subscription = await self._wire.subscribe(self._inbox, self._receive)

    async def _abandon(self) -> None:
        self._requested = 0
        self._must_restart = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._wire.unsubscribe(subscription)

    def _receive(self, msg: Msg) -> None:
        self._last_message_at = _now()
        if msg.reply.startswith("$JS.ACK."):
            self._requested = max(0, self._requested - 1)
            self._arrived.append(msg)
        elif (status := (msg.headers or {}).get("Status", "")) in _STILL_OPEN:
            return
        else:
            self._on_end(msg, status)
        self._changed.set()

    def _on_end(self, msg: Msg, status: str) -> None:
        """Handle the end of a pull: its undelivered rest no longer counts; unless it expired, pause before the next."""
        unused = int((msg.headers or {}).get("Nats-Pending-Messages", self._requested))
        self._requested = max(0, self._requested - unused)
        if status not in _EXPECTED_ENDS:
            self._pause_s = RETRY_S


class JetStreamQueue:
    """One durable consumer, by its definition; see ``interfaces.Queue``."""

    def __init__(self, wire: Wire, spec: ConsumerSpec) -> None:
        self._wire = wire
        self._subject = jetstream_api.consumer_next(spec.stream, spec.name)
        self._ack_wait_s: float = spec.config["ack_wait"] / _NANOSECONDS

    async def deliveries(
        self, *, in_flight_max: int = DELIVERIES_IN_FLIGHT_MAX, capacity: PullCapacity | None = None
    ) -> AsyncGenerator[JetStreamDelivery]:
        """Yield messages as they arrive, without end; see ``interfaces.Queue``."""
        pull = _Pull(
            self._wire, self._subject, in_flight_max=in_flight_max, capacity=capacity, ack_wait_s=self._ack_wait_s
        )
        stop_watching = self._wire.watch(restored=pull.restart, denied=pull.deny)
        stop_watching_capacity = capacity.watch(pull.capacity_freed) if capacity is not None else _do_nothing
        try:
            while True:
                delivery = JetStreamDelivery(await pull.next(), pull)
                pull.hand_out(delivery)
                yield delivery
        finally:
            stop_watching()
            stop_watching_capacity()
            with anyio.CancelScope(shield=True):
                await pull.close()


def _do_nothing() -> None:
    """Do nothing: there is no capacity to watch."""


def _now() -> float:
    return asyncio.get_running_loop().time()
