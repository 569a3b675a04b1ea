"""Stopping a run without the help of a role: the operator's client appends ``stopped`` to the run's log itself.

A stop does not wait for its turn (see ``linestop.bus.stop_run``). If it needs help, it publishes a control message
as any other client does.
"""

from __future__ import annotations

import random
import secrets
from datetime import UTC, datetime

import msgspec

from linestop.actors.facts import Space
from linestop.actors.judging.task_acceptance import no_space_message
from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Log
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.retry import publish
from linestop.bus.stop_run import catch_up, stop_run
from linestop.bus.wire import header_block
from linestop.errors import NotFound, Refused
from linestop.schemas import subjects
from linestop.schemas.events import Stopped
from linestop.schemas.messages import Control
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import ACTORS, RunId, TenantId


class DirectStop:
    """Appends ``operator.stopped``; ``bus`` must have the operator's credential."""

    def __init__(self, bus: JetStream) -> None:
        self._log: Log = bus.log()
        self._bus = bus
        self._encoder = EventEncoder(
            build="client", blobs=bus.blobs(), random_source=random.SystemRandom(), now=lambda: datetime.now(UTC)
        )

    async def stop(
        self, tenant: TenantId, run: RunId, control: Control, *, beforehand: bool = True
    ) -> tuple[Run, bool]:
        """Stop the run as ``control`` says; return it with its stop, and whether another stop was in the log before.

        Without ``beforehand`` a run that does not exist is not stopped.

        Raises:
            NotFound: there is no such run, and ``beforehand`` is false.
            Refused: the run ended in another way, or does not exist and there is no space for new runs.
            TimedOut: other appends won every time, and no worker of the run appended the stop either.
            Unreachable: the broker does not answer; whether the stop is stored is not known.
        """
        state = Run(tenant, run)
        # Nothing read here is proof: an outdated replica only costs one refused append, which names the real head.
        await catch_up(self._log, state)
        if state.n == 0 and (left := await self._log.removed_run(tenant, run)) is not None:
            raise Refused(
                f"Run '{run}' is over ({left.status or 'sealed'}) and its log was removed from RUNS; there is nothing "
                "to stop."
            )
        if state.n == 0 and await self._log.head(tenant, run) is None:
            if not beforehand:
                raise no_such_run(tenant, run)
            await self._require_space(run)
        return state, await self.stop_from(state, control)

    async def stop_from(self, state: Run, control: Control) -> bool:
        """Stop a run that was read already, however long ago; return whether another stop was in the log before.

        Raises:
            Refused, TimedOut, Unreachable: as ``stop``.
        """
        tenant, run = state.tenant, state.run
        was_stopped = state.stopped is not None

        def make_stop(at: Run) -> Stopped:
            return msgspec.structs.replace(stop_event(at, by=control.by, why=control.why), mode=control.mode)

        async def request_help() -> None:
            headers = header_block({"Nats-Msg-Id": secrets.token_hex(16), "Content-Type": "application/json"})
            subject = subjects.control(tenant, run, verb="stop")
            await publish(self._bus.wire, subject, msgspec.json.encode(control), headers=headers)

        if not await stop_run(self._log, self._encoder, state, make_stop, request_help=request_help):
            status = state.sealed.status if state.sealed else "unknown"
            raise Refused(f"Run '{run}' is over ({status}); there is nothing to stop.")
        self._hint(tenant, run)
        return was_stopped or not is_stop_of(state, control)

    async def _require_space(self, run: RunId) -> None:
        """Refuse to stop a run that does not exist if the remaining space is reserved for existing runs."""
        fill = await self._log.fullest()
        if no_space := no_space_message(Space(used=fill.used, stream=fill.stream)):
            raise Refused(f"There is no run '{run}', so there is nothing to stop. {no_space}")

    def _hint(self, tenant: TenantId, run: RunId) -> None:
        """Wake the roles, so that they settle and seal the run now and not at the next sweep."""
        for role in ACTORS:
            self._bus.wire.send(subjects.wake(tenant, run, role=role), b"")


def no_such_run(tenant: TenantId, run: RunId) -> NotFound:
    """The error for a run that has no event. Its task may be stored: no client may read which tasks are."""
    return NotFound(
        f"There is no run '{run}' of tenant '{tenant}'; `linestop runs` lists them. A task of that id may still be "
        "queued: `linestop stop` with the whole id and `--beforehand` stops it."
    )


def is_stop_of(run: Run, control: Control) -> bool:
    """Whether the run's stop has the same ``by`` and ``why`` as ``control``; then it is that stop."""
    return run.stopped is not None and (run.stopped.by, run.stopped.why) == (control.by, control.why)
