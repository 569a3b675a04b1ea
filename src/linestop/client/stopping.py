"""Stopping a run without anybody's help: the operator appends ``stopped`` to the run's log itself.

A stop does not wait its turn. When the head has moved it tries again at once from the head that the refusal
names: it reads that one message, and only if that does not follow what it knows, the run.
"""

from __future__ import annotations

import random
import secrets
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from linestop.bus.jetstream import JetStream
from linestop.bus.ports import HeadMoved, Log
from linestop.bus.stamp import Stamper
from linestop.errors import Refused, Unreachable
from linestop.schemas.events import Cue, decode_envelope
from linestop.schemas.run import Run
from linestop.schemas.stops import stopped
from linestop.schemas.subjects import ACTORS, RunId, TenantId, run_event, wake

STOP_TRIES_MAX: Final = 200
"""Heads a stop may lose to, one after the other; every model call of the run is a pause in which it wins."""

StopMode = Literal["fence", "kill", "drain"]


class DirectStop:
    """Appends ``operator.stopped``; ``stream`` must be the operator's."""

    def __init__(self, stream: JetStream) -> None:
        self._log: Log = stream.log()
        self._stream = stream
        self._stamper = Stamper(
            build="client", blobs=stream.blobs(), chance=random.SystemRandom(), now=lambda: datetime.now(UTC)
        )

    async def stop(self, tenant: TenantId, run: RunId, *, by: str, why: str, mode: StopMode) -> tuple[Run, bool]:
        """Return the run with its stop, and whether somebody else had stopped it before.

        Raises:
            Refused: the run is over by other means.
            Unreachable: the broker does not answer; whether the stop is stored is not known.
        """
        state = Run(tenant, run)
        await self._read(state)
        cue = Cue(kind="control", id=f"operator:{secrets.token_hex(8)}")
        for _ in range(STOP_TRIES_MAX):
            if state.stopped is not None:
                return state, True
            if state.sealed is not None:
                raise Refused(f"Run '{run}' is over ({state.sealed.status}); there is nothing to stop.")
            event = msgspec.structs.replace(stopped(state, by=by, why=why), mode=mode)
            append = await self._stamper.stamp(state, "operator", event, cue)
            try:
                seq = await self._log.append(append)
            except HeadMoved as moved:
                await self._catch_up(state, moved.head_seq)
                continue
            subject = run_event(tenant, run, role="operator", event=append.event, n=append.n)
            state.apply(subject, append.payload, seq)
            self._hint(tenant, run)
            return state, False
        raise Unreachable(f"Run '{run}' moved {STOP_TRIES_MAX} times while it was being stopped; try again.")

    async def _read(self, state: Run) -> None:
        # Nothing here is proof: a replica's old answer only costs a refusal that names the real head.
        for message in await self._log.load(state.tenant, state.run, after_seq=state.head_seq):
            state.apply(message.subject, message.payload, message.seq)

    async def _catch_up(self, state: Run, head_seq: int) -> None:
        """Fold the head that a refusal named, if it follows what is known; else read the run at the leader."""
        message = await self._log.message_at(head_seq) if head_seq > state.head_seq else None
        if message is not None and message.subject.endswith(f".{state.n + 1}"):
            try:
                follows = decode_envelope(message.payload).prev == state.head
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                follows = False
            if follows:
                state.apply(message.subject, message.payload, message.seq)
                return
        for newer in await self._log.load(state.tenant, state.run, after_seq=state.head_seq, leader=True):
            state.apply(newer.subject, newer.payload, newer.seq)

    def _hint(self, tenant: TenantId, run: RunId) -> None:
        """Let the actors settle and seal it now and not at the next sweep."""
        for role in ACTORS:
            self._stream.wire.send(wake(tenant, run, role=role), b"")
