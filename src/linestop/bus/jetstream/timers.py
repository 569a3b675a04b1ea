"""Durable timers: message schedules, which the server keeps and fires while no process of ours is alive.

One schedule a subject: publishing there again moves it, and publishing a plain message there removes it. That
message expires by itself. Both must roll the subject up: a server that starts finds every schedule that is
still stored and brings it back to life, cancelled or not. (The server's own way to cancel, a purge order in
the headers, must be published on another subject, which no role may.)
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final

from linestop.bus.jetstream.retry import publish
from linestop.bus.jetstream.wire import Wire, header_block
from linestop.schemas import subjects
from linestop.schemas.subjects import RunId, TenantId

FIRED_TTL: Final = "24h"
"""How long a fired timer waits for somebody to take notice."""

CANCELLED_TTL: Final = "1m"


class JetStreamTimers:
    """Timers of runs; see ``ports.Timers``."""

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
        """Remove the run's timer ``name``; harmless if there is none. One that has fired has fired."""
        await self._publish(subjects.timer_set(tenant, run, name=name), {"Nats-TTL": CANCELLED_TTL})

    async def _publish(self, subject: str, headers: dict[str, str]) -> None:
        # With an id of its own, a copy that arrives late cannot undo what was set after it.
        block = header_block({**headers, "Nats-Rollup": "sub", "Nats-Msg-Id": uuid.uuid4().hex})
        await publish(self._wire, subject, b"", headers=block)
