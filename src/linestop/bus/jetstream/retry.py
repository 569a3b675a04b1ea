"""Retries while the broker is away: with growing pauses, for a limited time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from linestop.bus.jetstream.replies import PubAck, meaning, read_ack
from linestop.bus.wire import NoReply, Wire
from linestop.errors import TooLarge, Unreachable
from linestop.schemas.broker_defaults import APPEND_TRIES_MAX, BROKER_RETRY_FOR_S

T = TypeVar("T")

PAUSE_MIN_S: Final = 0.02
PAUSE_MAX_S: Final = 0.5
IN_FLIGHT_PAUSE_MIN_S: Final = 0.002
IN_FLIGHT_PAUSE_MAX_S: Final = 0.020
"""How long to wait while replicas store a rival's append of the same run."""


class NotStored(Unreachable):
    """Raised when the broker replies, but a stream does not acknowledge: usually its disk is full."""


class RetryPolicy:
    """A deadline and growing, jittered pauses; one for each request."""

    def __init__(self, *, within_s: float = BROKER_RETRY_FOR_S) -> None:
        self._deadline = asyncio.get_running_loop().time() + within_s
        self._pause_s = PAUSE_MIN_S

    @property
    def left_s(self) -> float:
        """The remaining time in seconds, 0 or less after the deadline."""
        return self._deadline - asyncio.get_running_loop().time()

    async def pause(self, wire: Wire) -> bool:
        """Pause and wait for the connection; return whether there is time to try again."""
        pause_s = self._pause_s * _random_between(0.5, 1.5)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        if pause_s > self.left_s:
            return False
        await anyio.sleep(pause_s)
        return await wire.wait_connected(within_s=self.left_s)


async def with_retries(wire: Wire, request: Callable[[], Awaitable[T]], *, within_s: float = BROKER_RETRY_FOR_S) -> T:
    """Repeat a request that is safe to repeat until it gets a reply, or raise the last ``Unreachable``."""
    policy: RetryPolicy | None = None
    while True:
        try:
            return await request()
        except Unreachable:
            policy = policy or RetryPolicy(within_s=within_s)
            if not await policy.pause(wire):
                raise


async def publish(
    wire: Wire, subject: str, payload: bytes, *, headers: bytes, on_sent: Callable[[], None] | None = None
) -> PubAck:
    """Publish to a stream until it replies: stored, duplicate, superseded, taken, or still in flight at the end.

    The bytes are the same each time, with their message id or expected head, so they are stored only once, however
    often they arrive. A repetition gets one of the other replies, and the caller then reads the subject. ``on_sent``
    is called each time the message has been sent, before the reply arrives.

    Raises:
        Unreachable: no reply arrived, so it is unknown whether the message is stored. ``NotStored`` if the broker
            itself replies.
        TooLarge: over the stream's largest message, or the stream is full.
        PermissionDenied: this credential may not publish there.
    """
    policy: RetryPolicy | None = None
    in_flight = 0
    while True:
        try:
            ack = read_ack((await wire.request(subject, payload, headers=headers, on_sent=on_sent)).data)
        except Unreachable as error:
            failure = error
        else:
            match meaning(ack):
                case "in_flight" if in_flight < APPEND_TRIES_MAX:
                    in_flight += 1
                    await anyio.sleep(_random_between(IN_FLIGHT_PAUSE_MIN_S, IN_FLIGHT_PAUSE_MAX_S))
                    continue
                case "not_ready":
                    failure = Unreachable(f"The stream of {subject} is not ready ({_reason(ack)}); try again.")
                case "too_large":
                    raise TooLarge(
                        f"The message for {subject} is over the limit of its stream ({_reason(ack)}): "
                        "store long texts as blobs and keep headers short."
                    )
                case "full":
                    raise TooLarge(_full_message(subject, _reason(ack)))
                case _:
                    return ack
        policy = policy or RetryPolicy()
        if not await policy.pause(wire):
            raise await _with_cause(wire, subject, failure)


def _full_message(subject: str, reason: str) -> str:
    # Tasks and control messages are removed when they are handled; all others stay for their retention time.
    is_queue = subject.startswith(("tasks.", "control."))
    remedy = "wait until some are handled" if is_queue else "export and remove old messages"
    return f"The stream of {subject} has no space left ({reason}): raise its max_bytes, or {remedy}."


async def _with_cause(wire: Wire, subject: str, failure: Unreachable) -> Unreachable:
    """Name the cause: a stream that cannot write does not reply at all, although the broker does."""
    if isinstance(failure, NoReply) and await wire.is_responding():
        return NotStored(
            f"The broker can be reached, but its stream does not store {subject}: usually the disk with its data is "
            "full, or was when the stream last wrote. Free space there; `linestop dev` then continues by itself, "
            "another broker must be started again. It is unknown whether this message was stored; `linestop doctor` "
            "says more."
        )
    return failure


def _reason(ack: PubAck) -> str:
    return ack.error.description if ack.error else "no reason given"


def _random_between(low: float, high: float) -> float:
    # Jitter is for spreading out rivals, not for secrecy.
    return random.uniform(low, high)  # noqa: S311
