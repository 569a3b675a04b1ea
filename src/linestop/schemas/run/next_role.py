"""Whose turn it is in a run, from the log alone; and which role an event usually hands the run to.

In one process every role that an event may concern is asked. Between processes each question costs a delivery and a
load, so an event wakes only the roles that usually come next (``NEXT_ROLES``). If the log says otherwise (an unknown
outcome, a start that is not covered), the role that appended the event sends a hint to the role whose turn it is. The
sweep makes up for a lost hint.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from linestop.schemas.events import Cue
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import Exhausted, NextStart, next_start, spend_question_due
from linestop.schemas.run.state import RunState
from linestop.schemas.subjects import RoleName

NEXT_ROLES: dict[str, tuple[RoleName, ...]] = {
    "validator.opened": ("budget",),
    "validator.refused": ("recorder",),
    "validator.judged": ("approver", "executor"),
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
"""Event → the roles that advance the run after it, when each role has its own process.

A judgement hands the run to the approver, to the executor (reads that need no approver), or to both; its subject does
not tell which.
"""


def whose_turn(run: RunState, now: datetime) -> RoleName | None:
    """Return the role that must append next; None if the run waits for a date, a person or a performer."""
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


def whose_deadline(run: RunState, now: datetime) -> RoleName | None:
    """Return the role of the first deadline that has passed, if any."""
    return next((deadline.role for deadline in deadlines(run, now) if deadline.at <= now), None)


def role_to_wake(run: RunState, cue: Cue, now: datetime, *, local_roles: Collection[RoleName]) -> RoleName | None:
    """Return the role in another process that needs a hint to advance the run; None if no hint is needed.

    ``cue`` is the reason for this pass. When an alarm rings, the roles that the last event woke have long advanced the
    run.
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


def _has_unsettled_outcome(run: RunState) -> bool:
    """Whether an effect has an unknown outcome that no probe can settle."""
    calls = run.proposal.calls if run.proposal else []
    return any(c.stage is Stage.UNKNOWN_OUTCOME and (c.probed or not (c.grant and c.grant.probe)) for c in calls)
