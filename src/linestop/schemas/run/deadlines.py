"""When a role must advance a run although no event comes: its deadlines, from the log alone."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from math import floor

import msgspec

from linestop.schemas.defaults import MONEY_RETRY_S
from linestop.schemas.events import AskedCall, Question, Queued
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.run.state import RunState
from linestop.schemas.subjects import RoleName


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """At ``at``, ``role`` must advance the run; ``name`` gives the reason (and names a durable timer)."""

    at: datetime
    role: RoleName
    name: str


_RECOVERY_ROLES: dict[bool, tuple[RoleName, ...]] = {True: ("executor", "budget"), False: ("planner", "budget")}
"""The roles to wake when an effect (True) or a model request is past its end: budget must cover a takeover's charge."""


def deadlines(run: RunState, now: datetime, performing: Collection[int] = ()) -> list[Deadline]:
    """Return all moments at which a role must advance the run, soonest first.

    ``performing`` are the starts that the asking process performs: only that process knows that their work continues
    (``schemas.run.active_time``).
    """
    upcoming = [
        Deadline(at=attempt.done_by, role=role, name="done-by")
        for attempt in run.open_attempts
        for role in _RECOVERY_ROLES[bool(attempt.call)]
    ]
    if run.opened is None or run.phase is Phase.SEALED:
        return upcoming
    if not run.done:
        upcoming.extend(_people_deadlines(run))
        upcoming.append(Deadline(at=run.opened.deadline_at, role="validator", name="run-max"))
        if run.queued:
            upcoming.append(Deadline(at=_money_retry_at(run.queued, now), role="budget", name="money"))
        upcoming.extend(_time_limit_deadline(run, now, performing))
        start = next_start(run, now)
        if isinstance(start, NextStart) and start.at > now:
            upcoming.append(
                Deadline(at=start.at, role="planner" if start.kind == "model" else "executor", name="retry")
            )
    return sorted(upcoming, key=lambda deadline: deadline.at)


def _money_retry_at(queued: Queued, now: datetime) -> datetime:
    """When a run that waits for money asks again: at intervals, and when its account's next period begins."""
    retries = max(floor((now - queued.at).total_seconds() / MONEY_RETRY_S), 0)
    next_at = queued.at + timedelta(seconds=(retries + 1) * MONEY_RETRY_S)
    return min(next_at, queued.resets_at) if queued.resets_at and queued.resets_at > now else next_at


def _time_limit_deadline(run: RunState, now: datetime, performing: Collection[int]) -> list[Deadline]:
    """When the run's time is over if the work of this process continues until then."""
    live = [attempt for attempt in run.open_attempts if attempt.n in performing and attempt.active]
    at = now + timedelta(seconds=max(run.limits.wall_s - run.active_s(now, performing), 0.0))
    role: RoleName = "executor" if any(attempt.call for attempt in live) else "planner"
    return [Deadline(at=at, role=role, name="wall")] if any(at <= a.done_by for a in live) else []


def _people_deadlines(run: RunState) -> list[Deadline]:
    upcoming: list[Deadline] = []
    if run.spend_asked:
        upcoming.append(Deadline(at=run.spend_asked.expires_at, role="approver", name="expiry"))
    for call in run.proposal.calls if run.proposal else ():
        if call.stage is Stage.ASKED and isinstance(call.asked, AskedCall | Question):
            upcoming.append(Deadline(at=call.asked.expires_at, role="approver", name="expiry"))
        elif call.stage is Stage.WAITING and call.ready_at is not None:
            upcoming.append(Deadline(at=call.ready_at, role="executor", name="wait"))
    return upcoming
