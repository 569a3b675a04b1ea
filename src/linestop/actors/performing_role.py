"""What planner and executor decide first: about the starts of their own process, and about a run that is over.

Only its own process knows that a start never began, is being performed, or already has a result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Generic, TypeVar

from linestop.actors.facts import Performing
from linestop.actors.role_facts import PerformerFacts
from linestop.schemas.events import AnyEvent, Stopped
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import out_of_time_message
from linestop.schemas.subjects import RoleName

F = TypeVar("F", bound=PerformerFacts)


class PerformingRole(ABC, Generic[F]):
    """Planner or executor: first it reports an own start that never began; then the run may be over, or out of time."""

    name: RoleName

    def decide(self, run: Run, facts: F, now: datetime) -> AnyEvent | None:
        """Return the next event of this role, or None if it is not its turn. Pure."""
        if run.opened is None or run.has_unknown_events or run.phase is Phase.SEALED:
            return None
        performing = facts.performing
        effect = self.name == "executor"
        if unacknowledged := _unacknowledged_start(run, facts.worker.id, performing, effect=effect):
            return self._report_unacknowledged(unacknowledged)
        if run.done:
            return self._report_abandoned(run, facts, now)
        return _stop_out_of_time(run, now, performing, by=self.name) or self._next_event(run, facts, now)

    @abstractmethod
    def _report_unacknowledged(self, attempt: Attempt) -> AnyEvent:
        """Report that a start of this process never began."""

    @abstractmethod
    def _report_abandoned(self, run: Run, facts: F, now: datetime) -> AnyEvent | None:
        """Report an open start of a run that is over, if no worker will."""

    @abstractmethod
    def _next_event(self, run: Run, facts: F, now: datetime) -> AnyEvent | None:
        """Decide about a run that may go on."""


def _unacknowledged_start(run: Run, worker: str, performing: Performing | None, *, effect: bool) -> Attempt | None:
    """Return an open start (of an effect, or of a model request) that ``worker`` itself made and does not perform.

    Its acknowledgement was lost, so it did not begin and never will: its ``done_by`` need not be awaited.
    """
    if performing is None or not worker:
        return None
    own = (a for a in run.open_attempts if a.worker == worker and bool(a.call) == effect)
    return next((attempt for attempt in own if attempt.n not in performing.starts), None)


def has_unreported_result(attempt: Attempt | None, performing: Performing | None) -> bool:
    """Whether this process has the attempt's result and only waits for the broker to store it.

    Until then its roles neither report the attempt as lost nor repeat it, however long its end is past: otherwise the
    result would come too late.
    """
    return attempt is not None and performing is not None and attempt.n in performing.unreported


def _stop_out_of_time(run: Run, now: datetime, performing: Performing | None, *, by: RoleName) -> Stopped | None:
    """Return the stop of a run whose active time is used up by what this process performs; no other process knows."""
    if performing is None or not performing.running or run.active_s(now, performing.running) < run.limits.wall_s:
        return None
    return stop_event(run, by=by, why=out_of_time_message(run.limits.wall_s), code="deadline")
