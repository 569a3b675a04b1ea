"""Dead letters: what a role could not handle, kept in DEAD; to be read and sent again by an operator."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from linestop.bus import jetstream_api, stream_names
from linestop.bus.jetstream.reads import Found, Reader
from linestop.bus.jetstream.retry import patiently, publish
from linestop.bus.jetstream.wire import Wire, header_block
from linestop.client.result_types import Letter
from linestop.errors import InputError, NotFound
from linestop.schemas.subjects import parse_dead, wake

ALL: Final = "dead.>"
RESENT: Final = ("tasks.", "control.")
"""Messages that can be sent again as they were; of a run, its role is woken instead."""


class Letters:
    """Dead letters as the operator sees them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reader = Reader(wire, stream_names.DEAD)

    async def all(self) -> list[Letter]:
        """All letters, oldest first."""
        return [_letter(found) for found in await self._reader.walk(ALL)]

    async def one(self, seq: int) -> Letter:
        """The letter with this number.

        Raises:
            NotFound: there is none.
        """
        if seq > 0:
            body = msgspec.json.encode({"seq": seq})
            msg = await patiently(self._wire, lambda: self._wire.ask(jetstream_api.direct_get(stream_names.DEAD), body))
            headers = msg.headers or {}
            if "Nats-Subject" in headers:
                return _letter(Found(subject=headers["Nats-Subject"], seq=seq, payload=msg.data, headers=dict(headers)))
        raise NotFound(f"There is no dead letter {seq}; `linestop dead ls` lists them.")

    async def requeue(self, seq: int) -> Letter:
        """Send the message of a letter again, or wake the role that gave up on a run. The letter stays.

        Raises:
            NotFound: there is no such letter.
            InputError: it holds nothing that could be sent again.
        """
        letter = await self.one(seq)
        if letter.subject.startswith(RESENT):
            headers = {"Nats-Msg-Id": f"requeue:{seq}", "Content-Type": "application/json"}
            await publish(self._wire, letter.subject, letter.payload.encode(), headers=header_block(headers))
        elif letter.subject:
            raise InputError(f"Dead letter {seq} is of '{letter.subject}', which is not sent again: look into its run.")
        else:
            found = parse_dead(f"dead.{letter.role}.{letter.tenant}.{letter.run}")
            await self._wire.connection.publish_checked(wake(found.tenant, found.run, role=found.role))
        return letter


def _letter(found: Found) -> Letter:
    where = parse_dead(found.subject)
    try:
        body: Any = msgspec.json.decode(found.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    known = {"reason", "subject", "payload", "role", "run"}
    return Letter(
        seq=found.seq, role=where.role, tenant=where.tenant, run=where.run,
        reason=str(fields.get("reason", "It gives no reason.")), at=found.headers.get("Nats-Time-Stamp", ""),
        subject=str(fields.get("subject", "")), payload=str(fields.get("payload", "")),
        more={key: value for key, value in fields.items() if key not in known},
    )  # fmt: skip
