"""The sweep: one recovery for everything that can go silent.

Wakes are hints and timers live in processes that die, so somebody must go through the open runs and look. At
its start every shell sweeps for its own roles; the recorder's shell goes on sweeping for all. A run that does
not move although somebody should have moved it is looked at a bounded number of times, then stopped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import anyio
import structlog

from linestop.bus import run_outcomes_and_alerts
from linestop.bus.interfaces import Log, Publisher
from linestop.bus.stream_definitions import DUPLICATE_WINDOW_NS, SECOND_NS
from linestop.errors import LinestopError, RetryableError
from linestop.runtime.run_loop import Shell
from linestop.schemas.defaults import SWEEP_EVERY_S, SWEEP_TRIES_MAX
from linestop.schemas.events import Cue
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import LATEST, Run
from linestop.schemas.run.whose_turn import whose_turn
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId

LOG = structlog.get_logger("linestop.sweep")
CONCURRENT_RUNS_MAX = 16
FAILURE_CHARS_MAX = 300
NO_WORKER_TRIES = 3
"""Looks at a run that nobody moves after which a person is called, if its next role lives elsewhere."""

REALERT_WINDOW = timedelta(seconds=DUPLICATE_WINDOW_NS / SECOND_NS / 2)
"""How young an event is whose alert may be sent again: well within the time in which the stream keeps only one."""

FOLD_FAILURE_RECHECK = timedelta(hours=1)
"""How often a lost run is looked at once a person was called: only a stop that a person says may still end it."""

OPEN_RUN_RECHECK = timedelta(seconds=30)
"""How long a run with something open is left alone at most: its result may be in the log although its worker died."""

IDLE_PHASES = frozenset({Phase.WAITING, Phase.SEALED})
"""Phases in which it is nobody's turn before a deadline passes."""


def _never(_role: RoleName) -> bool:
    return False


@dataclass(slots=True)
class _SweptRun:
    """What the sweep remembers of an open run between two rounds: where it stood, and how often it was looked at.

    ``told`` is the event up to which its alerts were said again; ``lost`` whether a person was called for that;
    ``lacks`` the role that it waits for and that no worker does. ``failure`` is why the last look at it failed.
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
    """Sweeps open runs for one shell. ``everyone`` also hints to roles that live in other processes.

    ``is_missing`` says of a role that surely no worker does it now: a run that waits for one is not stuck.
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
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def run_for_ever(self) -> None:
        """Sweep now, then again and again."""
        while True:
            await self.once_with_retries()
            await anyio.sleep(self.every_s)

    async def once_with_retries(self) -> None:
        """Sweep until it has succeeded once."""
        while True:
            try:
                await self.once()
            except RetryableError as error:
                LOG.warning("sweep_failed", error=str(error))
                await anyio.sleep(self.every_s)
            except Exception:
                LOG.exception("sweep_failed")
                await anyio.sleep(self.every_s)
            else:
                return

    async def once(self, *, all_runs: bool = False) -> int:
        """Go through all open runs; return how many were looked at: those that are due, or ``every`` one."""
        if not self.shell.config.may_decide():
            return 0
        async with self._lock:
            open_runs = await self.log.open_runs()
            self.watched = {key: self.watched.get(key, _SweptRun()) for key in open_runs}
            due = [key for key in open_runs if all_runs or self._is_due(key)]
            limiter = anyio.Semaphore(CONCURRENT_RUNS_MAX)
            async with anyio.create_task_group() as tasks:
                for tenant, run in due:
                    await limiter.acquire()
                    tasks.start_soon(self._advance_safely, tenant, run, limiter)
            return len(due)

    def _is_due(self, key: tuple[TenantId, RunId]) -> bool:
        """Whether a run must be looked at: never seen, moved by its own means too long ago, or past a deadline."""
        watched, entry = self.watched[key], self.shell.cache.peek(*key)
        fold_failed_since = entry is not None and entry.run.fold_failed_too_often and not watched.fold_failure_alerted
        moved = entry is not None and entry.run.n > watched.n
        if watched.next_at is not None and self.now() < watched.next_at and not (fold_failed_since or moved):
            return False
        return entry is None or not entry.performing

    async def _advance_safely(self, tenant: TenantId, run: RunId, limiter: anyio.Semaphore) -> None:
        watched = self.watched[tenant, run]
        try:
            await self._advance(tenant, run, watched)
        except RetryableError as error:
            LOG.warning("sweep_look_failed", tenant=tenant, run=run, error=str(error))
        except Exception as error:
            # Whatever breaks there breaks again at the next look: it is counted, so that it ends.
            LOG.exception("sweep_look_failed", tenant=tenant, run=run)
            watched.tries += 1
            watched.next_at = None
            watched.failure = f"{type(error).__name__}: {error}".rstrip(": ")[:FAILURE_CHARS_MAX]
        finally:
            limiter.release()

    async def _advance(self, tenant: TenantId, run: RunId, watched: _SweptRun) -> None:
        if watched.tries >= self.tries_max:
            failure = f"; the last look failed with {watched.failure.rstrip('.')}" if watched.failure else ""
            why = f"The run did not move although it was looked at {watched.tries} times{failure}."
            watched.n, watched.tries = await self.shell.stop_stuck(tenant, run, n=watched.n, why=why), 0
        state = (await self.shell.advance(tenant, run, Cue(kind="sweep"), fresh=True)).run
        watched.failure = ""
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
        """The role whose turn it is, if surely no worker does it."""
        turn = whose_turn(run, self.now())
        return turn if turn and turn not in self.shell.role_names and self.is_role_missing(turn) else None

    async def _alert_if_due(self, run: Run, watched: _SweptRun, *, missing_before: RoleName | None) -> None:
        """Call a person where that is due. One who cannot be called says nothing of the run: it goes on as it is."""
        try:
            if run.n != watched.alerted_n:
                await self._repeat_alerts(run, watched.alerted_n)
                watched.alerted_n = run.n
            if run.fold_failed_too_often and not watched.fold_failure_alerted:
                await self._alert_fold_failure(run)
                watched.fold_failure_alerted = True
            turn = whose_turn(run, self.now())
            # Workers of an older linestop do not show that they live: of them only the standing run tells.
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
        """Say alerts again, of a run that was never seen (``told`` is -1) or has more events than were told.

        Whoever said something that calls a person may have died before it called. An open question is told however
        old it is, since its run waits for nothing else: by the recorder alone, so that no start of a worker calls.
        """
        since = self.now() - REALERT_WINDOW if alerted_n < 0 else LATEST
        asked_after = alerted_n if "recorder" in self.shell.role_names else None
        await self.shell.outbox.publish_alerts(
            run, run_outcomes_and_alerts.event_alerts(run, since=since, asked_after=asked_after)
        )

    async def _alert_fold_failure(self, run: Run) -> None:
        """Call a person for a run that is lost, and keep why: no role says anything in it any more."""
        if "recorder" in self.shell.role_names:
            last = run.fold_failures[-1]
            why = f"{len(run.fold_failures)} of its events cannot be folded, the last one with {last.kind}: {last.text}"
            self.shell.outbox.dead_letter(self.shell.bindings[0], run, f"it is lost: {why}")
            await self.shell.outbox.publish_alerts(run, [run_outcomes_and_alerts.fold_failure_alert(run)])

    def _idle_until(self, run: Run) -> datetime | None:
        """Until when nobody needs to look: the next deadline of a run that waits, is paused or is being worked on.

        None if one has passed: whoever should have acted on it did not.
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
