"""Makes dead letters of wakes that the server gave up on.

If a wake was delivered as often as its consumer allows and never acknowledged, the server reports that once, as an
advisory, which a stream stores. The run itself is not lost: the sweep advances it.
"""

from __future__ import annotations

import contextlib

import msgspec

from linestop.bus.interfaces import Delivery, Log, Publisher
from linestop.bus.streams import stream_names
from linestop.errors import InputError
from linestop.schemas.subjects import ROLES, RoleName, parse_run_event
from linestop.schemas.tool_contracts import canonical


class MaxDeliveriesAdvisory(msgspec.Struct, frozen=True, kw_only=True):
    """The server's report about a message that it no longer delivers."""

    stream: str
    consumer: str
    stream_seq: int
    deliveries: int = 0


class MaxDeliveriesHandler:
    """Turns advisories into dead letters. Belongs to the recorder."""

    def __init__(self, log: Log, publisher: Publisher) -> None:
        self._log = log
        self._publisher = publisher

    async def handle(self, delivery: Delivery) -> None:
        """Store the message as a dead letter of the role that could not handle it."""
        try:
            advisory = msgspec.json.decode(delivery.payload, type=MaxDeliveriesAdvisory)
        except msgspec.DecodeError:
            await delivery.term("not an advisory")
            return
        role = role_of(advisory.consumer)
        message = await self._log.message_at(advisory.stream_seq) if advisory.stream == stream_names.RUNS else None
        tenant, run = "unknown", f"seq-{advisory.stream_seq}"
        if message is not None:
            # A message with an invalid subject belongs to no run, but its dead letter must be stored all the same.
            with contextlib.suppress(InputError):
                subject = parse_run_event(message.subject)
                tenant, run = subject.tenant, subject.run
        dead_letter = canonical({
            "role": role,
            "reason": f"'{advisory.consumer}' was handed message {advisory.stream_seq} {advisory.deliveries} times "
            "and never acknowledged it",
            "subject": message.subject if message else "",
            "stream": advisory.stream,
            "seq": advisory.stream_seq,
        })  # fmt: skip
        # The recorder may only write under its own name; the role that could not handle the message stands inside.
        await self._publisher.dead_letter("recorder", tenant, run, dead_letter)
        await delivery.ack()


def role_of(consumer: str) -> RoleName:
    """Return the role that a durable consumer belongs to; the recorder for those that belong to none."""
    for role in ROLES:
        if consumer == stream_names.role_consumer(role):
            return role
    return "recorder"
