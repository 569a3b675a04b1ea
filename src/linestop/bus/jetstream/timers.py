"""Durable timers: message schedules, which the server stores and fires even if no linestop process is alive.

Each subject has one schedule: publishing there again moves it, and publishing a plain message there removes it. That
message expires by itself. Both must roll the subject up, because a starting server activates every schedule that is
still stored, cancelled or not. (The server's own way to cancel, a purge request in the headers, must be published on
another subject, which no role may.)
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from linestop.bus.jetstream.retry import publish
from linestop.bus.wire import Wire, header_block
from linestop.schemas import subjects
from linestop.schemas.subjects import RunId, TenantId

FIRED_TTL: Final = "24h"
"""How long a fired timer is stored until a role handles it."""

CANCELLED_TTL: Final = "1m"


class JetStreamTimers:
    """Timers of runs; see ``interfaces.Timers``."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def set(self, tenant: TenantId, run: RunId, name: str, at: datetime) -> None:
        """(Re)set the run's timer ``name`` to ``at``; a time in the past fires at once."""
        when = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        await self._publish(
            subjects.timer_set(tenant, run, name=name),
            {
                "Nats-Schedule": f"@at {when}",
                "Nats-Schedule-Target": subjects.timer_fire(tenant, run, name=name),
                "Nats-Schedule-TTL": FIRED_TTL,
            },
        )

    async def cancel(self, tenant: TenantId, run: RunId, name: str) -> None:
        """Remove the run's timer ``name``; harmless if there is none. A timer that has already fired stays fired."""
        await self._publish(subjects.timer_set(tenant, run, name=name), {"Nats-TTL": CANCELLED_TTL})

    async def _publish(self, subject: str, headers: dict[str, str]) -> None:
        # With a unique id, a copy that arrives late cannot undo a later change.
        block = header_block({**headers, "Nats-Rollup": "sub", "Nats-Msg-Id": uuid.uuid4().hex})
        await publish(self._wire, subject, b"", headers=block)
