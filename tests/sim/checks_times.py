"""When things happen, to a fraction of a second, wherever everything was well at that time.

Each state of a run has moments at which somebody must say something (``schemas.run.state.deadlines``): a retry, an
expiry, the end of a wait, of a lost attempt, of the run's time. The sweep would come up to five seconds later.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Final

from tests.sim.evidence import Evidence, RunEvidence, Said

from linestop.schemas.run.deadlines import Deadline, deadlines
from linestop.schemas.run.state import Run

LATE_MAX_S: Final = 0.3
"""Alarms are milliseconds late; to this the budget's round trips and the corrected clocks may add."""

NEEDS_NOBODY: Final = frozenset({"money", "wall"})
"""Moments at which somebody looks, and may find nothing to say."""


def moments(evidence: Evidence) -> list[str]:
    """What came late, or never, of every run."""
    wrong: list[str] = []
    for run in evidence.runs:
        state, stored = Run(run.tenant, run.run), evidence.broker.stream("RUNS")
        for said, after in pairwise([*run.said, None]):
            assert said is not None
            message = next(m for e in run.fold.entries if e.n == said.n and (m := stored.at(e.seq)) is not None)
            state.apply(message.subject, message.payload, message.seq)
            wrong += _late(evidence, run, state, said_s=said.stored_s, after_s=_moment(evidence, after))
    return wrong


def _moment(evidence: Evidence, said: Said | None) -> float:
    """When it was said, by the clock of whoever said it: two workers' clocks may differ by what none can know."""
    if said is None:
        return float("inf")
    return min(said.stored_s, evidence.seconds(datetime.fromisoformat(said.event["at"])))


def _late(evidence: Evidence, run: RunEvidence, state: Run, *, said_s: float, after_s: float) -> list[str]:
    for deadline in _due(state, evidence, said_s):
        due_s = evidence.seconds(deadline.at)
        until_s = due_s + LATE_MAX_S
        if after_s > until_s and evidence.all_well(said_s, until_s):
            late = f"{after_s - due_s:.3f} s late" if after_s != float("inf") else "never"
            return [f"late: the {deadline.name} of {run.name} at {due_s:.3f} s (after event {state.n}) came {late}"]
    return []


def _due(state: Run, evidence: Evidence, said_s: float) -> list[Deadline]:
    """The soonest moment of a state at which somebody must say something."""
    if state.sealed or state.paused or state.queued or said_s < evidence.well_s:
        return []
    at: datetime = state.at
    found = [each for each in deadlines(state, at) if each.name not in NEEDS_NOBODY and each.at > at]
    return found[:1]
