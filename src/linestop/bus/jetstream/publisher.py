"""Publishes everything besides events: outcomes, alerts, dead letters, and the lossy hints."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from linestop.bus.cloud_events import dead_letter_headers
from linestop.bus.jetstream.retry import publish
from linestop.bus.wire import Wire, header_block
from linestop.schemas import subjects
from linestop.schemas.messages import OFFSET_HEADER
from linestop.schemas.subjects import AgentName, DeltaSubject, RoleName, RunId, TenantId

_INBOX: Final = re.compile(r"[!-~]{1,200}")


class JetStreamPublisher:
    """The publisher on JetStream; see ``interfaces.Publisher``."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def outcome(self, tenant: TenantId, agent: str, run: RunId, payload: bytes, headers: dict[str, str]) -> None:
        """Publish the run's outcome once; a second one for the same run changes nothing."""
        subject = subjects.outcome(tenant, AgentName(agent), run=run)
        # The stream stores one message a subject; a refusal for that reason is as good as an acknowledgement.
        await publish(self._wire, subject, payload, headers=header_block({**headers, "Nats-Msg-Id": subject}))

    async def alert(self, tenant: TenantId, kind: str, payload: bytes, headers: dict[str, str]) -> None:
        """Store an alert. Alerts with the same message id within the stream's window are stored once."""
        await publish(self._wire, subjects.alert(tenant, kind), payload, headers=header_block(headers))

    async def dead_letter(self, role: RoleName, tenant: str, run: str, payload: bytes) -> None:
        """Store a dead letter. The same dead letter is stored once within the stream's window."""
        subject = subjects.dead_letter(TenantId(tenant), RunId(run), role=role)
        headers = dead_letter_headers(role, tenant, run, payload, at=datetime.now(UTC))
        await publish(self._wire, subject, payload, headers=header_block(headers))

    async def delta(self, place: DeltaSubject, text: str, *, offset: int) -> None:
        """Send the next piece of an attempt's text, ``offset`` characters into it; lossy, never fails."""
        subject = subjects.delta(place.tenant, place.run, turn=place.turn, attempt=place.attempt)
        self._wire.send(subject, text.encode(errors="replace"), headers=header_block({OFFSET_HEADER: str(offset)}))

    async def reply(self, inbox: str, payload: bytes) -> None:
        """Reply to the inbox that a message named; lossy, never fails."""
        # The inbox is untrusted text: a space or line break in it would be a command on the wire.
        if _INBOX.fullmatch(inbox):
            self._wire.send(inbox, payload)

    async def wake(self, role: RoleName, tenant: TenantId, run: RunId) -> None:
        """Send the hint that a run may need ``role``; lossy."""
        self._wire.send(subjects.wake(tenant, run, role=role), b"")
