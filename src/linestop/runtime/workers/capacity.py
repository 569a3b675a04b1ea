"""How much one process works on at once, so that it is never too busy to receive a stop or to begin what it started.

Two bounds (``WorkerLimits``). *Runs*: while a process works on as many as it may, it pulls no task; tasks stay in the
stream, for itself later or for another process. A run that waits for a person, a date or money does not count.
*Starts*: a model request or tool call takes a place from its ``started`` event to its result. A run that finds no place
waits here, first come first served, and is advanced when a place is free; waiting is not written to the log, so it
costs no event.

Each decision to start reserves its place, since storing the event takes a while and others decide meanwhile.
A reservation ends with its pass, or becomes a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from linestop.bus.stores.worker_heartbeats import ProcessLoad
from linestop.runtime.run_cache import Key
from linestop.schemas.defaults import LAG_MAX_S, PROCESS_TOOL_WEIGHT, WorkerLimits
from linestop.schemas.events import AnyEvent, EffectStarted
from linestop.schemas.run.fold import Run
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import NextStart, next_start

LOG = structlog.get_logger("linestop.capacity")
IDLE_FROM_S = 1.0
"""A run whose next start is this far away does not count as being worked on."""


LAG_VALID_S = 1.0
RECHECK_AFTER_S = 10.0
RECHECK_EVERY_S = 1.0
RECHECKS_MAX = 16
"""When all places for runs are taken, runs without a pass for ``RECHECK_AFTER_S`` are advanced, this many at once.

That goes through every run, so it is done every ``RECHECK_EVERY_S`` and not whenever the pulling of tasks asks.
"""

LOG_OVERLOAD_EVERY_S = 60.0


class ScheduleRunAgain(Protocol):
    """Advances a run in the background; ``fresh`` reads its log first."""

    def __call__(self, key: Key, *, fresh: bool) -> None:
        """Schedule the pass."""
        ...


class Capacity:
    """The places of one process. ``schedule`` advances a run."""

    def __init__(self, limits: WorkerLimits, schedule: ScheduleRunAgain) -> None:
        self.has_budget = False
        """Whether this process has the budget role: then a run that is not covered after a pass waits for money."""
        self._limits = limits.resolved()
        self._schedule = schedule
        self._runs: dict[Key, float] = {}
        self._starts: dict[tuple[Key, int], int] = {}
        self._reserved: dict[Key, int] = {}
        self._waiting: dict[Key, int] = {}
        self._on_freed: set[Callable[[], None]] = set()
        self._lag_s, self._lag_at = 0.0, 0.0
        self._overload_logged_at: float | None = None
        self._recheck_at = 0.0

    @property
    def load(self) -> ProcessLoad:
        """The present load of the process."""
        return ProcessLoad(
            runs=len(self._runs),
            runs_max=self._limits.runs_max,
            starts=self._used(),
            starts_max=self._limits.starts_max,
            waiting=len(self._waiting),
            lag_s=round(self._lag(), 3),
        )

    # --- starts --------------------------------------------------------------------------------------------

    def reserve(self, run: Run, event: AnyEvent) -> bool:
        """Reserve a place for this start; without a free place, return False and let the run wait."""
        key, weight = (run.tenant, run.run), _weight(run, event)
        if key in self._reserved:
            return True
        if not self._waiting and self._fits(weight):
            self._reserved[key] = weight
            return True
        self._waiting.setdefault(key, weight)
        self._log_overload()
        return False

    def begin(self, run: Run, event: AnyEvent) -> None:
        """Turn the reservation into a place, taken until ``end``: event ``run.n`` is a stored start."""
        key = (run.tenant, run.run)
        self._reserved.pop(key, None)
        self._starts[key, run.n] = _weight(run, event)

    def end(self, key: Key, n: int) -> None:
        """Free the place of the start in event ``n``, which is over; a second call changes nothing."""
        if self._starts.pop((key, n), None) is not None:
            self._pass_on_places()

    def release(self, key: Key) -> None:
        """Give back the place that was reserved for this run and not used."""
        if self._reserved.pop(key, None) is not None:
            self._pass_on_places()

    def is_waiting(self, key: Key) -> bool:
        """Whether this run waits for a place, or has just been given one."""
        return key in self._waiting or key in self._reserved

    def _fits(self, weight: int) -> bool:
        used = self._used()
        return used == 0 or used + weight <= self._limits.starts_max

    def _used(self) -> int:
        return sum(self._starts.values()) + sum(self._reserved.values())

    def _pass_on_places(self) -> None:
        """Give free places to the runs that have waited longest."""
        while self._waiting:
            key, weight = next(iter(self._waiting.items()))
            if not self._fits(weight):
                return
            del self._waiting[key]
            self._reserved[key] = weight
            self._schedule(key, fresh=False)

    # --- runs ----------------------------------------------------------------------------------------------

    def pass_ended(self, run: Run, now: datetime, *, is_ours: bool) -> None:
        """Count this run after a pass, if this process advances it and it is not idle.

        A place that was reserved in the pass and not used is given back.
        """
        key = (run.tenant, run.run)
        self.release(key)
        if is_ours and not _is_idle(run, now, has_budget=self.has_budget):
            self._runs[key] = asyncio.get_running_loop().time()
            return
        if run.done or run.paused:
            self._waiting.pop(key, None)
        if self._runs.pop(key, None) is not None:
            for on_freed in list(self._on_freed):
                on_freed()

    def free(self) -> int:
        """Return how many more runs the process may take on now."""
        if self._runs and self._lag() > LAG_MAX_S:
            self._log_overload()
            return 0
        left = self._limits.runs_max - len(self._runs)
        if left <= 0:
            self._log_overload()
            self._recheck()
        return max(left, 0)

    def watch(self, on_freed: Callable[[], None]) -> Callable[[], None]:
        """Call ``on_freed`` whenever a run is no longer counted; return the function that ends that."""
        self._on_freed.add(on_freed)
        return lambda: self._on_freed.discard(on_freed)

    def _recheck(self) -> None:
        """Advance runs that another process may have ended or moved meanwhile; looks for them once in a while only."""
        now = asyncio.get_running_loop().time()
        if now < self._recheck_at:
            return
        self._recheck_at, performed = now + RECHECK_EVERY_S, {key for key, _ in self._starts}
        stale = [key for key, at in self._runs.items() if now - at > RECHECK_AFTER_S and key not in performed]
        for key in stale[:RECHECKS_MAX]:
            self._runs[key] = now
            self._schedule(key, fresh=True)

    # --- overload ------------------------------------------------------------------------------------------

    def record_lag(self, seconds: float) -> None:
        """Record that a step began this long after it was due."""
        self._lag_s, self._lag_at = seconds, asyncio.get_running_loop().time()

    def _lag(self) -> float:
        return self._lag_s if asyncio.get_running_loop().time() - self._lag_at < LAG_VALID_S else 0.0

    def _log_overload(self) -> None:
        """Write the overload to the process's log, at most every ``LOG_OVERLOAD_EVERY_S``."""
        now = asyncio.get_running_loop().time()
        if self._overload_logged_at is None or now - self._overload_logged_at >= LOG_OVERLOAD_EVERY_S:
            self._overload_logged_at = now
            LOG.warning("overloaded", **msgspec.structs.asdict(self.load))


def _weight(run: Run, event: AnyEvent) -> int:
    """Return the places that a start takes: one for each model request or tool call, more for a tool in a process."""
    if not isinstance(event, EffectStarted):
        return 1
    calls: Iterable[str] = (line.call for line in event.calls)
    grants = [run.calls[call].grant for call in calls if call in run.calls]
    return sum(PROCESS_TOOL_WEIGHT if grant is not None and grant.kind == "process" else 1 for grant in grants)


def _is_idle(run: Run, now: datetime, *, has_budget: bool) -> bool:
    """Whether the run needs no work soon: it is over, or waits for a person, a date or money."""
    if run.opened is None or run.fold_failures or run.done or run.paused or run.phase is Phase.WAITING:
        return True
    if run.open_attempts:
        return False
    start = next_start(run, now)
    if not isinstance(start, NextStart):
        return False
    uncovered = has_budget and start.cost_max_micros > run.available_micros
    return uncovered or (start.at - now).total_seconds() > IDLE_FROM_S
