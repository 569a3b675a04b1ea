"""The runs a process works on, folded, in a bounded cache. Never the truth: the append is."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime

import anyio

from linestop.actors.facts import Performing
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RunId, TenantId

Key = tuple[TenantId, RunId]
IDLE_POLL_S = 0.05


class CachedRun:
    """One folded run with the lock under which this process works on it.

    The lock is held while deciding and appending, never while performing. ``performing`` maps the number of a
    ``started`` event to the scope its performance runs in, so that a stop can cancel it. ``ours`` says whether it
    is this process that moves the run on: not if another one with all roles does. ``stop_heard``: a stop is said to be
    stored, and the log was not read since. ``starting`` is the number of a start that is on its way to the log,
    ``unsaid`` counts the results of each that are; ``deferred``: somebody wanted to look meanwhile. ``unreported`` are
    those of which a result could not be said at all. ``thinking`` is the scope of a decision that is being computed
    beside the loop, under the lock.
    """

    def __init__(self, tenant: TenantId, run: RunId) -> None:
        self.run = Run(tenant, run)
        self.lock = asyncio.Lock()
        self.is_loaded = False
        self.performing: dict[int, anyio.CancelScope] = {}
        self.starting_n = 0
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
        self.thinking: anyio.CancelScope | None = None

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.run.tenant, self.run.run

    def may_not_begin(self) -> bool:
        """Whether nothing more may begin in the run, as far as this process has heard."""
        return self.stop_announced or self.run.done or self.run.paused is not None

    def cut_thinking_short(self, *, for_stop: bool) -> None:
        """Let go of a decision that is being computed: a stop comes first, and what is decided then is of no use."""
        if for_stop and self.thinking is not None:
            self.thinking.cancel()

    @contextmanager
    def in_use(self) -> Generator[None]:
        """While somebody works on it or waits for its lock, it is not forgotten."""
        self.use_count += 1
        try:
            yield
        finally:
            self.use_count -= 1

    @property
    def performing_fact(self) -> Performing:
        """What this process performs for the run, for its roles."""
        in_flight = frozenset(n for n, count in self.results_in_flight.items() if count)
        starts = frozenset({*self.performing, *self.unreported, self.starting_n})
        return Performing(starts, in_flight, frozenset(self.unreported))

    @property
    def is_reporting(self) -> bool:
        """Whether a result is on its way to the log."""
        return any(self.results_in_flight.values())

    @property
    def is_busy(self) -> bool:
        """Whether somebody works on it, waits for its lock, performs for it, or has set an alarm."""
        return self.use_count > 0 or bool(self.performing or self.unreported) or self.near_alarm is not None

    def reset(self) -> None:
        """Forget the fold (not who is performing): the next look loads it whole."""
        self.run = Run(self.run.tenant, self.run.run)
        self.is_loaded = False


class RunCache:
    """At most ``runs_max`` folded runs, the least recently used one forgotten first unless it is busy."""

    def __init__(self, runs_max: int = 2_048) -> None:
        self._runs_max = runs_max
        self._runs: OrderedDict[Key, CachedRun] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, tenant: TenantId, run: RunId) -> CachedRun:
        """The entry for that run, made empty if there is none."""
        key = (tenant, run)
        entry = self._runs.get(key)
        if entry is None:
            entry = self._runs[key] = CachedRun(tenant, run)
            self._shrink()
        else:
            self._runs.move_to_end(key)
        return entry

    def peek(self, tenant: TenantId, run: RunId) -> CachedRun | None:
        """The entry if there is one; does not count as use."""
        return self._runs.get((tenant, run))

    def drop(self, tenant: TenantId, run: RunId) -> None:
        """Forget a run that is over, unless it is busy."""
        entry = self._runs.get((tenant, run))
        if entry is not None and not entry.is_busy:
            del self._runs[tenant, run]

    async def wait_until_idle(self, *, within_s: float) -> None:
        """Wait until nothing is performed any more, at most ``within_s``."""
        with anyio.move_on_after(within_s):
            while any(entry.performing for entry in self._runs.values()):  # noqa: ASYNC110 - many entries, one wait
                await anyio.sleep(IDLE_POLL_S)

    def entries(self) -> list[CachedRun]:
        """All entries, for the sweep and for drain."""
        return list(self._runs.values())

    def _shrink(self) -> None:
        if len(self._runs) <= self._runs_max:
            return
        for key, entry in self._runs.items():
            if not entry.is_busy:
                del self._runs[key]
                return
