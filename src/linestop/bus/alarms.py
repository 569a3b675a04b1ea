"""Alarms: looking at a run again when one of its deadlines comes, without anybody saying anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime

from linestop.bus.cache import CachedRun
from linestop.bus.ports import Timers
from linestop.schemas.deadlines import deadlines
from linestop.schemas.events import Cue
from linestop.schemas.limits import TIMER_NEAR_S
from linestop.schemas.subjects import RoleName, RunId, TenantId

OVERDUE_S = 1.0
"""When to look again at a deadline that has passed and that nobody acted on."""

NOT_DURABLE = frozenset({"run-max", "wall"})
"""Deadlines of the validator that move with the run's work; the sweep sees those that are far."""

LookSoon = Callable[[TenantId, RunId, Cue], None]


class Alarms:
    """Sets the alarms of one process: near deadlines in the process, far ones as durable timers."""

    def __init__(
        self, timers: Timers, roles: Collection[RoleName], *, now: Callable[[], datetime], look_soon: LookSoon
    ) -> None:
        self._timers = timers
        self._roles = roles
        self._now = now
        self._look_soon = look_soon
        self._rings: set[asyncio.Task[None]] = set()

    async def set(self, entry: CachedRun) -> None:
        """Set the alarm for the run's next deadline."""
        run = entry.run
        if entry.timer is not None and entry.performing and all(a.done_by >= entry.timer_at for a in run.open_attempts):
            # While it performs, a run's own deadlines only grow nearer by its starts: the alarm that is set will do.
            return
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        now = self._now()
        named: set[str] = set()
        for deadline in deadlines(run, now):
            name = f"{deadline.role}-{deadline.name}"
            if deadline.role not in self._roles or name in named:
                # A timer has one moment: the soonest of its name, after which the run is looked at again.
                continue
            named.add(name)
            wait_s = (deadline.at - now).total_seconds()
            if wait_s > TIMER_NEAR_S and deadline.name not in NOT_DURABLE:
                await self._set_durable(entry, name, deadline.at)
            elif wait_s <= TIMER_NEAR_S and entry.timer is None:
                entry.timer_at = deadline.at
                delay_s = wait_s + 0.001 if wait_s > 0 else OVERDUE_S
                cue = Cue(kind="timer", id=deadline.name)
                entry.timer = asyncio.get_running_loop().call_later(delay_s, self._alarm, entry, cue)

    async def _set_durable(self, entry: CachedRun, name: str, at: datetime) -> None:
        if entry.durable.get(name) != at:
            entry.durable[name] = at
            await self._timers.set(entry.run.tenant, entry.run.run, name, at)

    def _alarm(self, entry: CachedRun, cue: Cue) -> None:
        entry.timer = None
        # A timer's callback belongs to no task, and anyio starts tasks only from within one.
        ring = asyncio.get_running_loop().create_task(self._ring(entry, cue))
        self._rings.add(ring)
        ring.add_done_callback(self._rings.discard)

    async def _ring(self, entry: CachedRun, cue: Cue) -> None:
        self._look_soon(entry.run.tenant, entry.run.run, cue)
