"""The sweep: one recovery for everything that can stall.

Wakes are hints and timers live in processes that die, so the sweep goes through all open runs and advances them. At
its start every shell sweeps for its own roles; the recorder's shell keeps sweeping for all. A run that does not move
although some role should have moved it is advanced a bounded number of times, then stopped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import anyio
import structlog

from linestop.bus import run_outcomes_and_alerts
from linestop.bus.interfaces import Log, Publisher, RunKey
from linestop.bus.streams.stream_definitions import DUPLICATE_WINDOW_NS, SECOND_NS
from linestop.errors import LinestopError, RetryableError
from linestop.runtime.housekeeping.open_runs import OpenRuns
from linestop.runtime.run_loop import Shell
from linestop.schemas.defaults import SWEEP_EVERY_S, SWEEP_TRIES_MAX
from linestop.schemas.events import Cue
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.fold import Run
from linestop.schemas.run.next_role import whose_deadline, whose_turn
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import LATEST
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId

LOG = structlog.get_logger("linestop.sweep")
CONCURRENT_RUNS_MAX = 16
FAILURE_CHARS_MAX = 300
NO_WORKER_TRIES = 3
"""Passes over a run that does not move after which a person is alerted, if its next role lives elsewhere."""

REALERT_WINDOW = timedelta(seconds=DUPLICATE_WINDOW_NS / SECOND_NS / 2)
"""Age up to which an event's alert may be sent again: well within the time in which the stream drops duplicates."""

FOLD_FAILURE_RECHECK = timedelta(hours=1)
"""How often a run whose fold fails is advanced once a person was alerted: only a person's stop can still end it."""

OPEN_RUN_RECHECK = timedelta(seconds=30)
"""Longest time for which a run with an open start is left alone: its worker may have died after the result."""

IDLE_PHASES = frozenset({Phase.WAITING, Phase.SEALED})
"""Phases in which no role has a turn before a deadline passes."""


def _never(_role: RoleName) -> bool:
    return False


@dataclass(slots=True)
class _SweptRun:
    """What the sweep remembers of an open run between two rounds: its last event, and how often it was advanced.

    ``alerted_n`` is the event up to which alerts were sent again; ``fold_failure_alerted`` tells whether a person was
    alerted to its failing fold; ``missing_role`` is the role that the run waits for and that no worker has. ``failure``
    is why the last pass failed.
    """

    n: int = -1
    tries: int = 0
    next_at: datetime | None = None
    alerted_n: int = -1
    fold_failure_alerted: bool = False
    missing_role: RoleName | None = None
    failure: str = ""


@dataclass(slots=True)
class Sweep:
    """Sweeps open runs for one shell. With ``hints_other_processes`` it also hints to roles in other processes.

    ``is_role_missing`` tells whether certainly no worker has a role now: a run that waits for such a role is not stuck.
    """

    shell: Shell
    log: Log
    publisher: Publisher
    now: Callable[[], datetime]
    hints_other_processes: bool = False
    every_s: float = SWEEP_EVERY_S
    tries_max: int = SWEEP_TRIES_MAX
    is_role_missing: Callable[[RoleName], bool] = _never
    nonce: str = field(default_factory=partial(secrets.token_hex, 16))
    watched: dict[tuple[TenantId, RunId], _SweptRun] = field(default_factory=dict[tuple[TenantId, RunId], _SweptRun])
    _open_runs: OpenRuns = field(init=False)
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    def __post_init__(self) -> None:
        """Begin to follow the open runs."""
        self._open_runs = OpenRuns(self.log)

    async def run_for_ever(self) -> None:
        """Sweep now, then again and again."""
        while True:
            await self.once_with_retries()
            await anyio.sleep(self.every_s)

    async def once_with_retries(self, *, all_runs: bool = False) -> None:
        """Sweep until it has succeeded once; ``all_runs`` as in ``once``."""
        while True:
            try:
                await self.once(all_runs=all_runs)
            except RetryableError as error:
                LOG.warning("sweep_failed", error=str(error))
                await anyio.sleep(self.every_s)
            except Exception:
                LOG.exception("sweep_failed")
                await anyio.sleep(self.every_s)
            else:
                return

    async def once(self, *, all_runs: bool = False) -> int:
        """Go through the open runs and advance those that are due, or with ``all_runs`` all; return how many."""
        if not self.shell.config.may_decide():
            return 0
        async with self._lock:
            open_runs = await self._open_runs.read()
            self.watched = {key: self.watched.get(key, _SweptRun()) for key in open_runs}
            due = [key for key in open_runs if all_runs or self._is_due(key)]
            if self.hints_other_processes and not all_runs:
                known_due = frozenset(due)
                due += await self._moved_elsewhere([key for key in open_runs if key not in known_due])
            limiter = anyio.Semaphore(CONCURRENT_RUNS_MAX)
            async with anyio.create_task_group() as tasks:
                for tenant, run in due:
                    await limiter.acquire()
                    tasks.start_soon(self._advance_safely, tenant, run, limiter)
            return len(due)

    def _is_due(self, key: tuple[TenantId, RunId]) -> bool:
        """Whether a run must be advanced: it was never seen, has not moved for too long, or is past a deadline."""
        watched, entry = self.watched[key], self.shell.cache.peek(*key)
        fold_failed_since = entry is not None and entry.run.fold_failed_too_often and not watched.fold_failure_alerted
        moved = entry is not None and entry.run.n > watched.n
        if watched.next_at is not None and self.now() < watched.next_at and not (fold_failed_since or moved):
            return False
        return entry is None or not entry.performing

    async def _moved_elsewhere(self, resting: Sequence[RunKey]) -> list[RunKey]:
        """Return the resting runs that another process moved: the event that should have woken a role may be lost."""
        if not resting:
            return []
        moved = await self.log.moved([(*key, self.watched[key].n) for key in resting])
        return [key for key in resting if key in moved]

    async def _advance_safely(self, tenant: TenantId, run: RunId, limiter: anyio.Semaphore) -> None:
        watched = self.watched[tenant, run]
        try:
            await self._advance(tenant, run, watched)
        except RetryableError as error:
            LOG.warning("sweep_advance_failed", tenant=tenant, run=run, error=str(error))
        except Exception as error:  # noqa: BLE001 - counted
            # What fails here fails again at the next pass: it is counted, so that it ends.
            log = LOG.warning if isinstance(error, LinestopError) else LOG.exception
            log("sweep_advance_failed", tenant=tenant, run=run, error=str(error))
            watched.tries += 1
            watched.next_at = None
            watched.failure = f"{type(error).__name__}: {error}".rstrip(": ")[:FAILURE_CHARS_MAX]
        finally:
            limiter.release()

    async def _advance(self, tenant: TenantId, run: RunId, watched: _SweptRun) -> None:
        if watched.tries >= self.tries_max:
            failure = f"; the last time failed with {watched.failure.rstrip('.')}" if watched.failure else ""
            why = f"The run did not move although a worker tried {watched.tries} times to advance it{failure}."
            watched.n, watched.tries = await self.shell.stop_stuck(tenant, run, n=watched.n, why=why), 0
        state = (await self.shell.advance(tenant, run, Cue(kind="sweep"), fresh=True)).run
        watched.failure = ""
        if state.sealed is not None or not state.n:
            self._open_runs.remove((tenant, run))
        # A run that waits for a place in a busy process is not stuck: it moves as soon as it is its turn.
        moved = state.n != watched.n or self.shell.capacity.is_waiting((tenant, run))
        watched.n = state.n
        watched.next_at = self.now() + FOLD_FAILURE_RECHECK if state.fold_failed_too_often else self._idle_until(state)
        missing_before, watched.missing_role = watched.missing_role, self._missing_role(state)
        is_idle = watched.next_at is not None or watched.missing_role is not None
        watched.tries = 0 if moved or is_idle else watched.tries + 1
        if self.hints_other_processes and watched.tries and state.sealed is None:
            await self._hint(tenant, run)
        await self._alert_if_due(state, watched, missing_before=missing_before)

    def _missing_role(self, run: Run) -> RoleName | None:
        """Return the role whose turn it is, or that has to act on a passed deadline, if certainly no worker has it."""
        turn = whose_turn(run, self.now()) or whose_deadline(run, self.now())
        return turn if turn and turn not in self.shell.role_names and self.is_role_missing(turn) else None

    async def _alert_if_due(self, run: Run, watched: _SweptRun, *, missing_before: RoleName | None) -> None:
        """Alert a person where that is due. An alert that fails does not affect the run."""
        try:
            if run.n != watched.alerted_n:
                await self._repeat_alerts(run, watched.alerted_n)
                watched.alerted_n = run.n
            if run.fold_failed_too_often and not watched.fold_failure_alerted:
                await self._alert_fold_failure(run)
                watched.fold_failure_alerted = True
            turn = watched.missing_role or whose_turn(run, self.now())
            # Workers of an older linestop send no heartbeats: only a run that stands still shows that one is missing.
            is_worker_missing = watched.tries == NO_WORKER_TRIES or (
                watched.missing_role is not None and watched.missing_role != missing_before
            )
            if self.hints_other_processes and is_worker_missing and turn and turn not in self.shell.role_names:
                await self.shell.outbox.publish_alerts(
                    run, [run_outcomes_and_alerts.no_worker_alert(run, turn, nonce=self.nonce)]
                )
        except LinestopError as error:
            LOG.warning("alert_failed", tenant=run.tenant, run=run.run, error=str(error))
            watched.next_at = None

    async def _repeat_alerts(self, run: Run, alerted_n: int) -> None:
        """Send alerts again for a run that was never seen (``alerted_n`` is -1) or has new events.

        The process that appended an event may have died before it sent the alert. The alert of an open question is
        repeated whatever its age, since its run waits for nothing else; only the recorder does that, so that the start
        of a worker alerts no person.
        """
        since = self.now() - REALERT_WINDOW if alerted_n < 0 else LATEST
        asked_after = alerted_n if "recorder" in self.shell.role_names else None
        await self.shell.outbox.publish_alerts(
            run, run_outcomes_and_alerts.event_alerts(run, since=since, asked_after=asked_after)
        )

    async def _alert_fold_failure(self, run: Run) -> None:
        """Alert a person to a run whose fold failed too often, and publish why: no role appends to it any more."""
        if "recorder" in self.shell.role_names:
            last = run.fold_failures[-1]
            why = f"{len(run.fold_failures)} of its events cannot be folded, the last one with {last.kind}: {last.text}"
            self.shell.outbox.dead_letter(self.shell.bindings[0], run, f"its fold failed too often: {why}")
            await self.shell.outbox.publish_alerts(run, [run_outcomes_and_alerts.fold_failure_alert(run)])

    def _idle_until(self, run: Run) -> datetime | None:
        """Return until when a run may be left alone: the next deadline if it waits, is paused or has open starts.

        None if a deadline has passed: its role did not act on it.
        """
        now = self.now()
        coming = deadlines(run, now)
        if any(deadline.at <= now for deadline in coming):
            return None
        waits = any(d.name in {"retry", "money"} for d in coming)
        is_idle = run.phase in IDLE_PHASES or run.paused or run.open_attempts or waits
        until = min(deadline.at for deadline in coming) if is_idle and coming else None
        return min(until, now + OPEN_RUN_RECHECK) if until and run.open_attempts else until

    async def _hint(self, tenant: TenantId, run: RunId) -> None:
        ours = {binding.role.name for binding in self.shell.bindings}
        for role in ACTORS:
            if role not in ours:
                await self.publisher.wake(role, tenant, run)
