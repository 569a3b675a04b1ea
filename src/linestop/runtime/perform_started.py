"""One start being performed: what the log already knows of its results, and how they get there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio
import msgspec
import structlog

from linestop.errors import RetryableError
from linestop.schemas.events import (
    AnyEvent,
    Compacted,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
)
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.state import Run

LOG = structlog.get_logger("linestop.shell")
REPORT_AGAIN_S = 1.0
"""How soon a result is reported again that the broker did not take."""


class Execution:
    """One start being performed."""

    def __init__(
        self,
        started: ModelStarted | EffectStarted,
        view: Any,  # noqa: ANN401 - each performer's own
        scope: anyio.CancelScope,
        *,
        n: int,
        append_began_at: float,
    ) -> None:
        self.n = n
        self.started = started
        self.view = view
        self.scope = scope
        self.append_began_at = append_began_at
        self.begun_at = 0.0
        self.stored_at = asyncio.get_running_loop().time()

    @property
    def result_count(self) -> int:
        """How many results it will have."""
        return len(self.started.calls) if isinstance(self.started, EffectStarted) else 1

    @property
    def start_by(self) -> datetime:
        """Until when it may begin."""
        match self.started:
            case ModelStarted():
                return self.started.start_by
            case EffectStarted():
                return min(line.start_by for line in self.started.calls)

    def with_duration(self, event: AnyEvent) -> AnyEvent:
        """``event`` with how long it took, where its performer does not say it."""
        if (
            not isinstance(event, Finished | Proposed | ModelFailedEvent | Compacted)
            or event.duration_s
            or not self.begun_at
        ):
            return event
        took_s = asyncio.get_running_loop().time() - self.begun_at
        return msgspec.structs.replace(event, duration_s=round(took_s, 6))


def attempt_key(result: AnyEvent | LongResult) -> tuple[str, int]:
    """Which part of a start a result is about: (call, attempt), a model call having no call."""
    event = result.event if isinstance(result, LongResult) else result
    return getattr(event, "call", ""), getattr(event, "attempt", 0)


def is_recorded(run: Run, event: AnyEvent, n: int) -> bool:
    """Whether the log already has the fate of the attempt this result is about, or would learn nothing from it."""
    call, _ = attempt_key(event)
    for attempt in run.attempts.get(n, []):
        if attempt.call == call:
            adds_knowledge = attempt.outcome == "unknown" and getattr(event, "outcome", "") != "unknown"
            return bool(attempt.closed_n) and not adds_knowledge
    return False


def mark_late(run: Run, event: AnyEvent, n: int) -> AnyEvent:
    """The result, marked as late if somebody has spoken for its attempt already."""
    if isinstance(event, Finished) and not event.late:
        has_result = any(a.call == event.call and not a.open for a in run.attempts.get(n, []))
        return msgspec.structs.replace(event, late=True) if has_result else event
    return event


async def report_until_stored(report: Callable[[], Awaitable[None]], *, keep_trying: Callable[[], bool]) -> None:
    """Report for as long as the broker is away and this process goes on: a result is lost with it, and not before."""
    while True:
        try:
            return await report()
        except RetryableError as error:
            LOG.warning("report_delayed", error=str(error))
            if not keep_trying():
                raise
        await anyio.sleep(REPORT_AGAIN_S)
