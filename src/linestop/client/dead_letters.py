"""Dead letters: messages and runs that a role could not handle, stored in DEAD; an operator reads and resends them."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.jetstream.retry import publish, with_retries
from linestop.bus.streams import stream_names
from linestop.bus.wire import header_block
from linestop.client.result_types import DeadLetter
from linestop.errors import InputError, NotFound
from linestop.schemas.json_values import JsonObject
from linestop.schemas.subjects import parse_dead_letter, wake

ALL_SUBJECTS: Final = "dead.>"
RESENDABLE: Final = ("tasks.", "control.")
"""Messages that can be sent again unchanged; for a run, the role is woken instead."""


class DeadLetters:
    """Dead letters as the operator sees them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reader = Reader(connection.wire, stream_names.DEAD)

    async def all(self) -> list[DeadLetter]:
        """All dead letters, oldest first."""
        return [_read_dead_letter(message) for message in await self._reader.read_all(ALL_SUBJECTS)]

    async def one(self, seq: int) -> DeadLetter:
        """The dead letter with this number.

        Raises:
            NotFound: there is no such dead letter.
        """
        if seq > 0:
            wire, body = self._connection.wire, msgspec.json.encode({"seq": seq})
            msg = await with_retries(wire, lambda: wire.request(jetstream_api.direct_get(stream_names.DEAD), body))
            headers = msg.headers or {}
            if "Nats-Subject" in headers:
                return _read_dead_letter(
                    StreamMessage(subject=headers["Nats-Subject"], seq=seq, payload=msg.data, headers=dict(headers))
                )
        raise NotFound(f"There is no dead letter {seq}; `linestop dead ls` lists them.")

    async def requeue(self, seq: int) -> DeadLetter:
        """Send the message of a dead letter again, or wake the role that gave up on a run. The dead letter stays.

        Raises:
            NotFound: there is no such dead letter.
            InputError: the dead letter contains nothing that can be sent again.
        """
        dead_letter = await self.one(seq)
        if dead_letter.subject.startswith(RESENDABLE):
            headers = {"Nats-Msg-Id": f"requeue:{seq}", "Content-Type": "application/json"}
            await publish(
                self._connection.wire, dead_letter.subject, dead_letter.payload.encode(), headers=header_block(headers)
            )
        elif dead_letter.subject:
            raise InputError(
                f"Dead letter {seq} came from '{dead_letter.subject}' and cannot be sent again: inspect its run."
            )
        else:
            role_and_run = parse_dead_letter(f"dead.{dead_letter.role}.{dead_letter.tenant}.{dead_letter.run}")
            await self._connection.publish_checked(wake(role_and_run.tenant, role_and_run.run, role=role_and_run.role))
        return dead_letter


def _read_dead_letter(message: StreamMessage) -> DeadLetter:
    subject = parse_dead_letter(message.subject)
    try:
        body: Any = msgspec.json.decode(message.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    fields = cast("JsonObject", body) if isinstance(body, dict) else {}
    known = {"reason", "subject", "payload", "role", "run"}
    return DeadLetter(
        seq=message.seq,
        role=subject.role,
        tenant=subject.tenant,
        run=subject.run,
        reason=str(fields.get("reason", "It gives no reason.")),
        at=message.headers.get("Nats-Time-Stamp", ""),
        subject=str(fields.get("subject", "")),
        payload=str(fields.get("payload", "")),
        more={key: value for key, value in fields.items() if key not in known},
    )
