"""The folded runs that a process works on, in a bounded cache. The log is the truth, never the cache."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime

import anyio

from linestop.actors.facts import Performing
from linestop.schemas.defaults import CACHE_RUNS_MAX
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunId, TenantId

Key = tuple[TenantId, RunId]
IDLE_POLL_S = 0.05
APPENDED_NS_MAX = 8
"""Events of this process that are remembered for each run: as many as may pass by before their echo arrives."""

EVICTION_LOOKS_MAX = 4
"""Entries looked at to evict one: a new run costs the same however many runs are busy."""


class CachedRun:
    """One folded run with the lock under which this process works on it.

    The lock is held while deciding and appending, never while performing. ``performing`` maps the number of a
    ``started`` event to the scope in which it is performed, so that a stop can cancel it; ``begin`` and ``end`` change
    it, and with it ``at_work``, which has the runs that the process performs something for. ``is_ours``: this process
    advances the run, not another one with all roles. ``stop_announced``: a hint said that a stop is stored, and the
    log was not read since. ``starting_n`` is the number of a start that is on its way to the log. ``appended_ns`` are
    the numbers of the last events that this process appended: they wake none of its roles again.
    ``results_in_flight`` counts, for each start, the results that are on their way; ``pass_deferred``: a pass was
    requested meanwhile. ``unreported`` are the starts of which a result could not be appended at all. ``deciding`` is
    the scope of a decision that is being computed outside the event loop, under the lock.
    """

    def __init__(self, tenant: TenantId, run: RunId, at_work: dict[Key, CachedRun]) -> None:
        self.run = Run(tenant, run)
        self._at_work = at_work
        self.lock = asyncio.Lock()
        self.is_loaded = False
        self.performing: dict[int, anyio.CancelScope] = {}
        self.starting_n = 0
        self.appended_ns: deque[int] = deque(maxlen=APPENDED_NS_MAX)
        self.results_in_flight: Counter[int] = Counter()
        self.unreported: set[int] = set()
        self.pass_deferred = False
        self.near_alarm: asyncio.TimerHandle | None = None
        self.durable_timers: dict[str, datetime] = {}
        self.overdue_n = 0
        self.overdue_rings = 0
        self.use_count = 0
        self.is_ours = False
        self.stop_announced = False
        self.deciding: anyio.CancelScope | None = None

    @property
    def key(self) -> Key:
        """Tenant and run, the key in the cache."""
        return self.run.tenant, self.run.run

    def may_not_begin(self) -> bool:
        """Whether nothing more may begin in the run, as far as this process knows."""
        return self.stop_announced or self.run.done or self.run.paused is not None

    def cancel_decision(self, *, for_stop: bool) -> None:
        """Cancel a decision that is being computed: a stop comes first and makes the decision useless."""
        if for_stop and self.deciding is not None:
            self.deciding.cancel()

    def begin(self, n: int, scope: anyio.CancelScope) -> None:
        """Record that the start in event ``n`` is performed in ``scope`` from now on."""
        self.performing[n] = scope
        self._at_work[self.key] = self

    def end(self, n: int) -> None:
        """Record that the start in event ``n`` is performed no more; a second call changes nothing."""
        self.performing.pop(n, None)
        if not self.performing:
            self._at_work.pop(self.key, None)

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Keep the run in the cache while the block works on it or waits for its lock."""
        self.use_count += 1
        try:
            yield
        finally:
            self.use_count -= 1

    @property
    def performing_fact(self) -> Performing:
        """The fact for the roles: what this process performs for the run."""
        in_flight = frozenset(n for n, count in self.results_in_flight.items() if count)
        starts = frozenset({*self.performing, *self.unreported, self.starting_n})
        return Performing(starts, in_flight, frozenset(self.unreported))

    @property
    def is_reporting(self) -> bool:
        """Whether a result is on its way to the log."""
        return any(self.results_in_flight.values())

    @property
    def is_busy(self) -> bool:
        """Whether the run is in use, is performed for, or has an alarm in this process."""
        return self.use_count > 0 or bool(self.performing or self.unreported) or self.near_alarm is not None

    def reset(self) -> None:
        """Discard the fold, but not what is being performed: the next pass loads the whole run."""
        self.run = Run(self.run.tenant, self.run.run)
        self.is_loaded = False


class RunCache:
    """At most ``runs_max`` folded runs, or all busy ones; the one not used or busy for longest is dropped first.

    A busy run that stands in the way of an eviction counts as used then: it goes to the end, and is looked at again
    when all others were. So an eviction looks at few runs, and a run that is no longer busy is found in the end.
    """

    def __init__(self, runs_max: int = CACHE_RUNS_MAX) -> None:
        self._runs_max = runs_max
        self._runs: OrderedDict[Key, CachedRun] = OrderedDict()
        self._at_work: dict[Key, CachedRun] = {}
        self._open: set[Key] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, tenant: TenantId, run: RunId) -> CachedRun:
        """Return the entry for that run; an empty one is created if there is none."""
        key = (tenant, run)
        entry = self._runs.get(key)
        if entry is None:
            entry = self._runs[key] = CachedRun(tenant, run, self._at_work)
            self._shrink()
        else:
            self._runs.move_to_end(key)
        return entry

    def peek(self, tenant: TenantId, run: RunId) -> CachedRun | None:
        """Return the entry if there is one; does not count as use."""
        return self._runs.get((tenant, run))

    def drop(self, tenant: TenantId, run: RunId) -> None:
        """Drop a run that is over, unless it is busy."""
        entry = self._runs.get((tenant, run))
        if entry is not None and not entry.is_busy:
            self._remove(entry.key)

    async def wait_until_idle(self, *, within_s: float) -> None:
        """Wait until nothing is performed any more, at most ``within_s``."""
        with anyio.move_on_after(within_s):
            while self._at_work:  # noqa: ASYNC110 - many entries, one wait
                await anyio.sleep(IDLE_POLL_S)

    def entries(self) -> list[CachedRun]:
        """Return all entries, for the end of the process."""
        return list(self._runs.values())

    def at_work(self) -> list[CachedRun]:
        """Return the entries of the runs for which this process performs something."""
        return list(self._at_work.values())

    def record_pass(self, entry: CachedRun) -> None:
        """Record after a pass whether the run is open."""
        is_open = entry.run.opened is not None and entry.run.sealed is None
        if is_open and entry.key in self._runs:
            self._open.add(entry.key)
        else:
            self._open.discard(entry.key)

    @property
    def open_count(self) -> int:
        """The number of open runs among the entries, as of the last pass over each."""
        return len(self._open)

    def _shrink(self) -> None:
        """Drop runs that are too many and not busy, up to those that few looks find; the newest run stays."""
        for _ in range(min(EVICTION_LOOKS_MAX, len(self._runs) - 1)):
            if len(self._runs) <= self._runs_max:
                return
            key, entry = next(iter(self._runs.items()))
            if entry.is_busy:
                self._runs.move_to_end(key)
            else:
                self._remove(key)

    def _remove(self, key: Key) -> None:
        del self._runs[key]
        self._open.discard(key)
