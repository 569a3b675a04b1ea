"""The publisher of everything except events, in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

from linestop.bus.cloud_events import dead_letter_headers
from linestop.errors import TooLarge, Unreachable
from linestop.schemas import subjects
from linestop.schemas.messages import OFFSET_HEADER
from linestop.schemas.subjects import AgentName, DeltaSubject, RoleName, RunId, TenantId
from linestop.testing.memory.faults import Faults, with_faults
from linestop.testing.memory.stream import StreamFull, SubjectTaken

Publish = Callable[[str, bytes, dict[str, str]], None]
"""Publish on a subject: the stream of the subject stores the message, and listeners receive it."""


class MemoryPublisher:
    """See ``interfaces.Publisher``."""

    def __init__(self, publish: Publish, faults: Faults, now: Callable[[], datetime]) -> None:
        self._publish = publish
        self._now = now
        self._faults = faults

    async def outcome(self, tenant: TenantId, agent: str, run: RunId, payload: bytes, headers: dict[str, str]) -> None:
        """Publish the run's outcome once; a second one for the same run changes nothing."""
        subject = subjects.outcome(tenant, AgentName(agent), run=run)
        async with with_faults(self._faults, "publisher.outcome"):
            with contextlib.suppress(SubjectTaken):
                try:
                    self._publish(subject, payload, headers)
                except StreamFull:
                    raise TooLarge(f"The outcome of run {run} was not stored: its stream is full.") from None

    async def alert(self, tenant: TenantId, kind: str, payload: bytes, headers: dict[str, str]) -> None:
        """Store an alert. Alerts with the same message id within the stream's window are stored once."""
        async with with_faults(self._faults, "publisher.alert"):
            self._publish(subjects.alert(tenant, kind), payload, headers)

    async def dead_letter(self, role: RoleName, tenant: str, run: str, payload: bytes) -> None:
        """Store a dead letter."""
        async with with_faults(self._faults, "publisher.dead"):
            headers = dead_letter_headers(role, tenant, run, payload, at=self._now())
            self._publish(subjects.dead_letter(TenantId(tenant), RunId(run), role=role), payload, headers)

    async def delta(self, place: DeltaSubject, text: str, *, offset: int) -> None:
        """Send the next piece of an attempt's text, ``offset`` characters into it; lossy, never fails."""
        subject = subjects.delta(place.tenant, place.run, turn=place.turn, attempt=place.attempt)
        await self._lossy("delta", subject, text.encode(errors="replace"), {OFFSET_HEADER: str(offset)})

    async def reply(self, inbox: str, payload: bytes) -> None:
        """Reply to the inbox that a message named; lossy, never fails."""
        await self._lossy("reply", inbox, payload)

    async def wake(self, role: RoleName, tenant: TenantId, run: RunId) -> None:
        """Send a hint to advance a run; lossy."""
        await self._lossy("wake", subjects.wake(tenant, run, role=role), b"")

    async def _lossy(self, method: str, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(Unreachable):
            async with with_faults(self._faults, f"publisher.{method}"):
                self._publish(subject, payload, headers or {})
