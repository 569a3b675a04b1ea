"""Deadlines, checked to a fraction of a second, wherever all processes worked at that time.

Each state of a run has deadlines at which a role must append an event (``schemas.run.deadlines``): a retry, an
expiry, the end of a wait, of a lost attempt, of the run's time. The sweep would come up to five seconds later.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Final

from tests.sim.evidence import Evidence, LoggedEvent, RunEvidence

from linestop.schemas.run.deadlines import Deadline, deadlines
from linestop.schemas.run.fold import Run

DELAY_MAX_S: Final = 0.3
"""Alarms are milliseconds late; the budget's round trips and the corrected clocks may add to that."""

DEADLINES_WITHOUT_EVENT: Final = frozenset({"money", "wall"})
"""Deadlines at which a role decides, but may have nothing to append."""


def moments(evidence: Evidence) -> list[str]:
    """The deadlines of every run that were missed or met late."""
    wrong: list[str] = []
    for run in evidence.runs:
        state, stored = Run(run.tenant, run.run), evidence.broker.stream("RUNS")
        for entry, after in pairwise([*run.entries, None]):
            assert entry is not None
            message = next(m for e in run.fold.entries if e.n == entry.n and (m := stored.at(e.seq)) is not None)
            state.apply(message.subject, message.payload, message.seq)
            wrong += _missed_deadlines(
                evidence, run, state, entry_s=entry.stored_s, after_s=_moment_of(evidence, after)
            )
    return wrong


def _moment_of(evidence: Evidence, entry: LoggedEvent | None) -> float:
    """When an event was appended, by the clock of its worker: the clocks of workers may differ unnoticed."""
    if entry is None:
        return float("inf")
    return min(entry.stored_s, evidence.seconds(datetime.fromisoformat(entry.event["at"])))


def _missed_deadlines(evidence: Evidence, run: RunEvidence, state: Run, *, entry_s: float, after_s: float) -> list[str]:
    for deadline in _next_deadline(state, evidence, entry_s):
        due_s = evidence.seconds(deadline.at)
        until_s = due_s + DELAY_MAX_S
        if after_s > until_s and evidence.all_connected(entry_s, until_s):
            delay = f"{after_s - due_s:.3f} s late" if after_s != float("inf") else "never"
            return [f"late: the {deadline.name} of {run.name} at {due_s:.3f} s (after event {state.n}) came {delay}"]
    return []


def _next_deadline(state: Run, evidence: Evidence, entry_s: float) -> list[Deadline]:
    """The next deadline of a state at which a role must append an event."""
    if state.sealed or state.paused or state.queued or entry_s < evidence.settled_s:
        return []
    at: datetime = state.at
    found = [each for each in deadlines(state, at) if each.name not in DEADLINES_WITHOUT_EVENT and each.at > at]
    return found[:1]
