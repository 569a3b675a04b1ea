"""Facts about a start that only its own process knows: it never began, is being performed, or already has a result."""

from __future__ import annotations

from datetime import datetime

from linestop.actors.facts import Performing
from linestop.schemas.events import Stopped
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.next_action import out_of_time_message
from linestop.schemas.subjects import RoleName


def unacknowledged_start(run: Run, worker: str, performing: Performing | None, *, effect: bool) -> Attempt | None:
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


def stop_out_of_time(run: Run, now: datetime, performing: Performing | None, *, by: RoleName) -> Stopped | None:
    """Return the stop of a run whose active time is used up by what this process performs; no other process knows."""
    if performing is None or not performing.running or run.active_s(now, performing.running) < run.limits.wall_s:
        return None
    return stop_event(run, by=by, why=out_of_time_message(run.limits.wall_s), code="deadline")
