"""Performing a start: running it, comparing its results with the log, and reporting them until they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Generic, TypeVar

import anyio
import msgspec
import structlog

from linestop.bus.event_message import EventEncoder
from linestop.errors import RetryableError
from linestop.runtime.outbox import Outbox
from linestop.runtime.role_binding import RoleBinding
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.workers.capacity import Capacity
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
from linestop.schemas.run.fold import Run
from linestop.schemas.start_deadline import IS_STOPPED

LOG = structlog.get_logger("linestop.shell")
REPORT_AGAIN_S = 1.0
"""Seconds until a result that the broker did not accept is reported again."""


W_co = TypeVar("W_co", covariant=True)


class Execution(Generic[W_co]):
    """One start being performed. ``work`` is what its performer prepared."""

    def __init__(
        self,
        started: ModelStarted | EffectStarted,
        work: W_co,
        scope: anyio.CancelScope,
        *,
        n: int,
        append_began_at: float,
    ) -> None:
        self.n = n
        self.started = started
        self.work = work
        self.scope = scope
        self.append_began_at = append_began_at
        self.begun_at = 0.0
        self.stored_at = asyncio.get_running_loop().time()

    @property
    def result_count(self) -> int:
        """The number of results that it will have."""
        return len(self.started.calls) if isinstance(self.started, EffectStarted) else 1

    @property
    def start_by(self) -> datetime:
        """The moment until which it may begin."""
        match self.started:
            case ModelStarted():
                return self.started.start_by
            case EffectStarted():
                return min(line.start_by for line in self.started.calls)

    def with_duration(self, event: AnyEvent) -> AnyEvent:
        """Return ``event`` with the duration of the performance, unless its performer already set one."""
        if (
            not isinstance(event, Finished | Proposed | ModelFailedEvent | Compacted)
            or event.duration_s
            or not self.begun_at
        ):
            return event
        took_s = asyncio.get_running_loop().time() - self.begun_at
        return msgspec.structs.replace(event, duration_s=round(took_s, 6))


def attempt_key(result: AnyEvent | LongResult) -> tuple[str, int]:
    """Return the part of a start that a result belongs to: (call, attempt); a model request has an empty call."""
    event = result.event if isinstance(result, LongResult) else result
    return getattr(event, "call", ""), getattr(event, "attempt", 0)


class StartPerformer:
    """Performs what was started and hands each of its results to ``report``, which stores it in the log."""

    def __init__(
        self,
        capacity: Capacity,
        outbox: Outbox,
        encoder: EventEncoder,
        *,
        may_still_begin: Callable[[CachedRun, Execution[object]], Awaitable[bool]],
        report: Callable[[CachedRun, RoleBinding, AnyEvent, int], Awaitable[None]],
    ) -> None:
        self._capacity = capacity
        self._outbox = outbox
        self._encoder = encoder
        self._may_still_begin = may_still_begin
        self._report = report

    async def perform(self, entry: CachedRun, binding: RoleBinding, execution: Execution[object]) -> None:
        """Perform a start and report each result; then report the parts that were cancelled or never begun."""
        assert binding.performer is not None
        reported: set[tuple[str, int]] = set()
        begun = False
        self._capacity.record_lag(asyncio.get_running_loop().time() - execution.stored_at)
        try:
            with execution.scope:
                IS_STOPPED.set(entry.may_not_begin)
                begun = await self._may_still_begin(entry, execution)
                if begun:
                    await self._perform_safely(entry, binding, execution, reported)
            with anyio.CancelScope(shield=True):
                for event in binding.performer.report_cancelled(execution.work, frozenset(reported), begun=begun):
                    await self._report(entry, binding, execution.with_duration(event) if begun else event, execution.n)
        finally:
            # Only after the last result is reported: roles report a start as never begun if its process forgot it.
            entry.end(execution.n)
            self._capacity.end(entry.key, execution.n)

    async def _perform_safely(
        self, entry: CachedRun, binding: RoleBinding, execution: Execution[object], reported: set[tuple[str, int]]
    ) -> None:
        assert binding.performer is not None
        storing: list[asyncio.Task[None]] = []
        try:
            execution.begun_at = asyncio.get_running_loop().time()
            async for result in binding.performer.perform(execution.work, execution.started):
                reported.add(attempt_key(result))
                if len(reported) == execution.result_count:
                    self._capacity.end(entry.key, execution.n)
                if isinstance(result, LongResult):
                    # The call has ended, so a stop does not cancel the storing, and no other result waits for it.
                    storing.append(asyncio.create_task(self._store_and_report(entry, binding, result, execution.n)))
                    continue
                with anyio.CancelScope(shield=True):
                    await self._report(entry, binding, execution.with_duration(result), execution.n)
        except Exception as error:
            LOG.exception("perform_failed", run=entry.run.run, n=execution.n)
            self._outbox.dead_letter(
                binding, entry.run, f"performing event {execution.n}: {type(error).__name__}: {error}"
            )
        finally:
            with anyio.CancelScope(shield=True):
                for task in storing:
                    await task

    async def _store_and_report(self, entry: CachedRun, binding: RoleBinding, result: LongResult, n: int) -> None:
        event = await self._encoder.store_full_result(entry.run.tenant, result)
        await self._report(entry, binding, event, n)


def is_recorded(run: Run, event: AnyEvent, n: int) -> bool:
    """Whether the log already has the outcome of this result's attempt and would learn nothing new from it."""
    call, _ = attempt_key(event)
    for attempt in run.attempts.get(n, []):
        if attempt.call == call:
            adds_knowledge = attempt.outcome == "unknown" and getattr(event, "outcome", "") != "unknown"
            return bool(attempt.closed_n) and not adds_knowledge
    return False


def mark_late(run: Run, event: AnyEvent, n: int) -> AnyEvent:
    """Return the result, marked as late if another event already reported its attempt."""
    if isinstance(event, Finished) and not event.late:
        has_result = any(a.call == event.call and not a.open for a in run.attempts.get(n, []))
        return msgspec.structs.replace(event, late=True) if has_result else event
    return event


async def report_until_stored(report: Callable[[], Awaitable[None]], *, keep_trying: Callable[[], bool]) -> None:
    """Report again while the broker cannot be reached and ``keep_trying`` holds."""
    while True:
        try:
            return await report()
        except RetryableError as error:
            LOG.warning("report_delayed", error=str(error))
            if not keep_trying():
                raise
        await anyio.sleep(REPORT_AGAIN_S)
