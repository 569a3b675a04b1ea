"""The messages that a process publishes about its runs besides their events: outcomes, alerts, dead letters.

None of them is the truth: that is the log of the run. So no run waits for an alert or a dead letter, and a message that
cannot be sent fails no run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio.abc
import structlog

from linestop.bus import run_outcomes_and_alerts
from linestop.bus.interfaces import Publisher
from linestop.errors import TooLarge
from linestop.runtime import dead_letters
from linestop.runtime.role_binding import RoleBinding
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subjects import RoleName

if TYPE_CHECKING:
    from linestop.bus.stores.signed_checkpoints import CheckpointSigner

LOG = structlog.get_logger("linestop.outbox")


class Outbox:
    """Publishes for the roles of one process. ``tasks`` runs the sending in the background; set while it serves."""

    def __init__(self, bindings: Sequence[RoleBinding], signer: CheckpointSigner | None) -> None:
        self.tasks: anyio.abc.TaskGroup | None = None
        self._bindings = bindings
        self._signer = signer

    async def publish_outcome(self, run: Run) -> None:
        """Publish a sealed run's outcome; publishing it again changes nothing."""
        assert run.sealed is not None
        checkpoint = self._signer.checkpoint(run) if self._signer is not None else None
        payload, headers = (
            run_outcomes_and_alerts.encode_outcome(run, run.sealed, checkpoint),
            run_outcomes_and_alerts.outcome_headers(run, run.sealed),
        )
        await self._publisher_of("recorder").outcome(
            run.tenant, run_outcomes_and_alerts.agent_of(run), run.run, payload, headers
        )

    async def outcome_if_room(self, run: Run) -> None:
        """Publish the outcome, or leave that to the consumer of seals: a full stream must not fail the sealing pass."""
        try:
            await self.publish_outcome(run)
        except TooLarge as error:
            LOG.warning("outcome_waits", run=run.run, error=str(error))

    async def publish_alerts(self, run: Run, alerts: Iterable[run_outcomes_and_alerts.AlertMessage]) -> None:
        """Publish alerts of a run; publishing one again within the stream's window changes nothing."""
        for alert in alerts:
            await self._publisher_of("recorder").alert(run.tenant, alert.kind, alert.payload, alert.headers)

    def alert(self, binding: RoleBinding, run: Run, entry: Entry) -> None:
        """Alert a person in the background, if this event of the run calls for it."""
        if (alert := run_outcomes_and_alerts.alert_for_event(run, entry)) is not None:
            self._send(partial(binding.publisher.alert, run.tenant, alert.kind, alert.payload, alert.headers))

    def dead_letter(self, binding: RoleBinding, run: Run, reason: str) -> None:
        """Publish in the background a dead letter about something that could not be handled in a run."""
        payload = dead_letters.about_run(binding.role.name, run, reason)
        self._send(partial(binding.publisher.dead_letter, binding.role.name, run.tenant, run.run, payload))

    def _publisher_of(self, role: RoleName) -> Publisher:
        return next((s.publisher for s in self._bindings if s.role.name == role), self._bindings[0].publisher)

    def _send(self, send: Callable[[], Awaitable[None]]) -> None:
        assert self.tasks is not None
        self.tasks.start_soon(_send_safely, send)


async def _send_safely(send: Callable[[], Awaitable[None]]) -> None:
    try:
        await send()
    except Exception:
        LOG.exception("message_not_sent")
