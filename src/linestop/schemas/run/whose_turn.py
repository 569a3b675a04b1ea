"""Whose turn it is in a run, from the log alone; and which role an event usually hands the run to.

In one process every role that an event may concern is asked. Between processes each question costs a delivery
and a load, so an event wakes only the role that comes next as a rule (``NEXT``); where the log says otherwise
(a result in doubt, a start that is not covered), whoever spoke sends a hint to the role whose turn it is. A
hint that is lost is made good by the sweep.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from linestop.schemas.events import Cue
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.next_action import Exhausted, NextStart, next_start, spend_question_due
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RoleName

NEXT_ROLES: dict[str, tuple[RoleName, ...]] = {
    "validator.opened": ("budget",),
    "validator.refused": ("recorder",),
    "validator.judged": ("approver",),
    "validator.checked": ("planner",),
    "validator.accepted": ("budget",),
    "validator.returned": ("planner",),
    "approver.cleared": ("executor",),
    "approver.granted": ("executor",),
    "approver.denied": ("planner",),
    "approver.edited": ("validator",),
    "approver.answered": ("planner",),
    "approver.resolved": ("executor",),
    "approver.resumed": ("planner", "executor"),
    "budget.held": ("planner", "executor"),
    "budget.settled": ("recorder",),
    "planner.proposed": ("validator",),
    "executor.finished": ("planner",),
    "executor.widened": ("approver",),
    "stopped": ("budget", "recorder"),
}
"""Event → the roles that look at the run after it, each in a process of its own."""


def whose_turn(run: Run, now: datetime) -> RoleName | None:
    """The role that must speak next, or None if the run waits for time, a person or a performance."""
    if run.sealed:
        return "recorder" if run.late_results else None
    if run.done:
        if run.open_attempts:
            return None
        return "budget" if run.holds else "recorder"
    if run.opened is None or run.paused:
        return None
    if run.phase in {Phase.JUDGING, Phase.ANSWERING} or Stage.CHECK in run.stages():
        return "validator"
    if run.phase is Phase.CLEARING or _has_unsettled_outcome(run) or spend_question_due(run, now):
        return "approver"
    start = next_start(run, now)
    if isinstance(start, Exhausted):
        return "planner"
    if not isinstance(start, NextStart) or start.at > now:
        return None
    if start.cost_max_micros > run.available_micros:
        return None if run.queued else "budget"
    return "planner" if start.kind == "model" else "executor"


def whose_deadline(run: Run, now: datetime) -> RoleName | None:
    """The role of the first deadline that has passed, if any."""
    return next((deadline.role for deadline in deadlines(run, now) if deadline.at <= now), None)


def role_to_wake(run: Run, cue: Cue, now: datetime, *, local_roles: Collection[RoleName]) -> RoleName | None:
    """The role that is not ``here`` and must be told to look at the run; None if there is none, or it knows.

    ``cue`` is what this process looked for. When an alarm rings, those whom the last event woke have long looked.
    """
    turn, last = whose_turn(run, now), run.entries[-1] if run.entries else None
    if last is None:
        return None
    woken: tuple[RoleName, ...] = ()
    if cue.kind == "timer":
        turn = turn or whose_deadline(run, now)
    else:
        woken = NEXT_ROLES.get(last.name if last.name == "stopped" else f"{last.role}.{last.name}", ())
    return turn if turn not in local_roles and turn not in woken else None


def _has_unsettled_outcome(run: Run) -> bool:
    """Whether an effect is in doubt that no probe can settle."""
    calls = run.proposal.calls if run.proposal else []
    return any(c.stage is Stage.UNKNOWN_OUTCOME and (c.probed or not (c.grant and c.grant.probe)) for c in calls)
