"""The sweep: one recovery for everything that can go silent.

Wakes are hints and timers live in processes that die, so somebody must go through the open runs and look. At
its start every shell sweeps for its own roles; the recorder's shell goes on sweeping for all. A run that does
not move although somebody should have moved it is looked at a bounded number of times, then stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import structlog

from linestop.bus.cache import CachedRun
from linestop.bus.ports import Log, Publisher
from linestop.bus.shell import Shell
from linestop.bus.station import Station
from linestop.errors import LinestopError
from linestop.schemas.deadlines import deadlines
from linestop.schemas.events import Cue
from linestop.schemas.limits import SWEEP_EVERY_S, SWEEP_TRIES_MAX
from linestop.schemas.phases import Phase
from linestop.schemas.run import Run
from linestop.schemas.stops import stopped
from linestop.schemas.subjects import ACTORS, RunId, TenantId

LOG = structlog.get_logger("linestop.sweep")
AT_ONCE = 16
IDLE = frozenset({Phase.WAITING, Phase.SEALED})
"""Phases in which it is nobody's turn before a deadline passes."""


@dataclass(slots=True)
class _Watched:
    """What the sweep remembers of an open run between two rounds: where it stood, and how often it was looked at."""

    n: int = -1
    tries: int = 0
    next_at: datetime | None = None


@dataclass(slots=True)
class Sweep:
    """Sweeps open runs for one shell. ``everyone`` also hints to roles that live in other processes."""

    shell: Shell
    log: Log
    publisher: Publisher
    now: Callable[[], datetime]
    everyone: bool = False
    every_s: float = SWEEP_EVERY_S
    tries_max: int = SWEEP_TRIES_MAX
    watched: dict[tuple[TenantId, RunId], _Watched] = field(default_factory=dict[tuple[TenantId, RunId], _Watched])

    async def run_for_ever(self) -> None:
        """Sweep now, then again and again."""
        while True:
            await self.at_start()
            await anyio.sleep(self.every_s)

    async def at_start(self) -> None:
        """Sweep until it has succeeded once."""
        while True:
            try:
                await self.once()
            except LinestopError as error:
                LOG.warning("sweep_failed", error=str(error))
                await anyio.sleep(self.every_s)
            else:
                return

    async def once(self) -> int:
        """Go through all open runs; return how many were looked at."""
        open_runs = await self.log.open_runs()
        self.watched = {key: self.watched.get(key, _Watched()) for key in open_runs}
        due = [key for key in open_runs if self._due(key)]
        limiter = anyio.Semaphore(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for tenant, run in due:
                await limiter.acquire()
                tasks.start_soon(self._look, tenant, run, limiter)
        return len(due)

    def _due(self, key: tuple[TenantId, RunId]) -> bool:
        """Whether a run must be looked at: never seen, moved by its own means too long ago, or past a deadline."""
        watched = self.watched[key]
        if watched.next_at is not None and self.now() < watched.next_at:
            return False
        entry = self.shell.cache.peek(*key)
        return entry is None or not entry.performing

    async def _look(self, tenant: TenantId, run: RunId, limiter: anyio.Semaphore) -> None:
        watched = self.watched[tenant, run]
        try:
            entry = await self.shell.look(tenant, run, Cue(kind="sweep"), fresh=True)
            state = entry.run
            moved = state.n != watched.n
            watched.n = state.n
            watched.next_at = self._idle_until(state)
            watched.tries = 0 if moved or watched.next_at is not None else watched.tries + 1
            if state.sealed is not None:
                if "recorder" in self.shell.names:
                    await self.shell.publish_outcome(state)
                return
            if self.everyone and watched.tries:
                await self._hint(tenant, run)
            if watched.tries > self.tries_max and not state.done:
                await self._stop_stuck(entry, watched)
        except LinestopError as error:
            LOG.warning("sweep_look_failed", tenant=tenant, run=run, error=str(error))
        finally:
            limiter.release()

    def _idle_until(self, run: Run) -> datetime | None:
        """Until when nobody needs to look: the next deadline of a run that waits, is paused or is being worked on.

        None if one has passed: whoever should have acted on it did not.
        """
        now = self.now()
        coming = deadlines(run, now)
        if any(deadline.at <= now for deadline in coming):
            return None
        rests = run.phase in IDLE or run.paused or run.open_attempts or any(d.name == "retry" for d in coming)
        return min(deadline.at for deadline in coming) if rests and coming else None

    async def _hint(self, tenant: TenantId, run: RunId) -> None:
        ours = {station.role.name for station in self.shell.stations}
        for role in ACTORS:
            if role not in ours:
                await self.publisher.wake(role, tenant, run)

    async def _stop_stuck(self, entry: CachedRun, watched: _Watched) -> None:
        station: Station = self.shell.stations[-1]
        why = f"The run did not move although it was looked at {watched.tries} times."
        async with entry.lock:
            if entry.loaded and entry.run.n == watched.n:
                await self.shell.say(entry, station, stopped(entry.run, by=station.role.name, why=why, code="stuck"))
