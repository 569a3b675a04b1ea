"""Alarms: advancing a run when one of its deadlines comes, although nothing else happens to it.

Every deadline of ``schemas.run.deadlines`` gets its alarm at the end of each pass over its run, whatever else is set or
being performed. Near ones (``TIMER_IN_PROCESS_MAX_S``) live in the process, the soonest of each run; far ones are
durable timers, which the broker stores and fires to any process. The sweep finds lost alarms; it is not the clock.

Which process sets the alarm, and what remains of it when that process ends:

==================  =========  ==========================================  ====================================
deadline            role       set by the process that                     after its end
==================  =========  ==========================================  ====================================
retry, queued       planner    recorded the failure                        near: the first pass of its next start
retry, probe        executor   recorded the result                         the same
wait                executor   was woken by ``judged`` or ``granted``      the same
expiry              approver   asked                                       the same
done-by             executor   performs                                    the next start takes over at once what is
                    planner                                                safe to repeat; else as above
done-by             budget     (hinted by the two above when it comes)
wall                executor   performs: only its work makes it come       no work, no deadline
                    planner
run-max             validator  advanced it last, if it rests until then    far as a rule: the broker has it
==================  =========  ==========================================  ====================================

Far ones (any role): the broker fires them to any running process, which advances the run or hints to the role.

A process with some of the roles also sets the alarms of roles elsewhere, as long as no role has a turn: an event
that brings a deadline need not wake the role that the deadline is for. When such an alarm rings, the process reads the
run and hints to the role. The first pass of a process over every open run
(``runtime.housekeeping.stalled_run_sweep``) sets the alarms that its predecessor had set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Protocol

from linestop.bus.interfaces import Timers
from linestop.runtime.housekeeping.leftover_timers import leftover_timers
from linestop.runtime.run_cache import CachedRun
from linestop.schemas.broker_defaults import TIMER_IN_PROCESS_MAX_S
from linestop.schemas.events import Cue
from linestop.schemas.run.deadlines import Deadline, deadlines
from linestop.schemas.run.next_role import whose_turn
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId

OVERDUE_S = 1.0
"""Seconds until the next pass when a deadline has passed without its role acting on it; doubled each time."""

OVERDUE_MAX_S = 60.0

LAST_DEADLINES = frozenset({"run-max"})
"""Deadlines that usually come after others: set only if no other comes first, or every run would have such a timer."""

MOVED_MIN_S = 0.001
"""Smallest change for which a durable timer is set again: a change by rounding alone is ignored."""


class ScheduleRun(Protocol):
    """Advances a run in the background, or hints to the role whose deadline has come."""

    def __call__(self, tenant: TenantId, run: RunId, cue: Cue, *, fresh: bool) -> None:
        """``fresh`` reads the log first."""
        ...


class Alarms:
    """Sets the alarms of one process, which has ``roles``."""

    def __init__(
        self, timers: Timers, roles: frozenset[RoleName], *, now: Callable[[], datetime], schedule: ScheduleRun
    ) -> None:
        self._timers = timers
        self._roles = roles
        self._has_all_roles = roles >= set(ACTORS)
        self._now = now
        self._schedule = schedule
        self._rings: set[asyncio.Task[None]] = set()

    async def set(self, entry: CachedRun) -> None:
        """Set the alarms for the run's deadlines, as they are now."""
        now = self._now()
        self._cancel_near(entry)
        if entry.overdue_n != entry.run.n:
            entry.overdue_n, entry.overdue_rings = entry.run.n, 0
        far: list[Deadline] = []
        for deadline in self._deadlines_to_set(entry, now):
            wait_s = (deadline.at - now).total_seconds()
            if wait_s <= 0:
                delay_s = min(OVERDUE_S * 2 ** min(entry.overdue_rings, 10), OVERDUE_MAX_S)
                self._ring_in(entry, delay_s, deadline.name, overdue=True)
            elif wait_s <= TIMER_IN_PROCESS_MAX_S or deadline.name == "wall":
                # Only this process knows of the wall deadline, as long as it performs.
                self._ring_in(entry, wait_s + 0.001, deadline.name)
            else:
                far.append(deadline)
        for deadline in far:
            await self._set_durable(entry, f"{deadline.role}-{deadline.name}", deadline.at)
        if entry.run.sealed is not None:
            await self._cancel_durable(entry)

    def retry_soon(self, entry: CachedRun) -> None:
        """Advance the run again soon: a pass failed, or did not come to its end."""
        self._ring_in(entry, OVERDUE_S, "again")

    def _deadlines_to_set(self, entry: CachedRun, now: datetime) -> Iterator[Deadline]:
        """Yield the deadlines for which this process sets alarms, soonest first; of one name only the soonest.

        A timer has one moment, after which the run gets another pass. For roles elsewhere only the first one is set.
        """
        seen: set[tuple[RoleName, str]] = set()
        is_idle = whose_turn(entry.run, now) is None
        found = deadlines(entry.run, now, entry.performing_fact.running if entry.performing else ())
        for deadline in found:
            key = (deadline.role, deadline.name)
            if key in seen or (deadline.role not in self._roles and (seen or not is_idle)):
                continue
            if deadline.name in LAST_DEADLINES and not (is_idle and deadline is found[0]):
                continue
            seen.add(key)
            yield deadline

    def _cancel_near(self, entry: CachedRun) -> None:
        if entry.near_alarm is not None:
            entry.near_alarm.cancel()
            entry.near_alarm = None

    def _ring_in(self, entry: CachedRun, delay_s: float, name: str, *, overdue: bool = False) -> None:
        """Advance the run in ``delay_s`` seconds, unless an earlier alarm is set."""
        loop = asyncio.get_running_loop()
        if entry.near_alarm is not None and entry.near_alarm.when() <= loop.time() + delay_s:
            return
        self._cancel_near(entry)
        entry.near_alarm = loop.call_later(delay_s, self._on_alarm, entry, Cue(kind="timer", id=name), overdue)

    async def _set_durable(self, entry: CachedRun, name: str, at: datetime) -> None:
        before = entry.durable_timers.get(name)
        if before is None or abs((at - before).total_seconds()) > MOVED_MIN_S:
            await self._timers.set(entry.run.tenant, entry.run.run, name, at)
            entry.durable_timers[name] = at

    async def _cancel_durable(self, entry: CachedRun) -> None:
        """Cancel the timers of a run that is over: the broker would store them for up to 30 days and then fire them.

        The recorder, which seals the run, also cancels the timers that processes of other roles have set.
        """
        now = self._now()
        names = {name for name, at in entry.durable_timers.items() if at > now}
        if "recorder" in self._roles:
            names |= leftover_timers(entry.run, now)
        entry.durable_timers.clear()
        for name in sorted(names):
            await self._timers.cancel(entry.run.tenant, entry.run.run, name)

    def _on_alarm(self, entry: CachedRun, cue: Cue, overdue: bool) -> None:
        entry.near_alarm = None
        entry.overdue_rings += overdue
        # A timer's callback belongs to no task, and anyio starts tasks only from within one.
        ring = asyncio.get_running_loop().create_task(self._ring(entry, cue))
        self._rings.add(ring)
        ring.add_done_callback(self._rings.discard)

    async def _ring(self, entry: CachedRun, cue: Cue) -> None:
        # Fresh: another process may have appended an event that moved or removed the deadline.
        self._schedule(entry.run.tenant, entry.run.run, cue, fresh=True)
