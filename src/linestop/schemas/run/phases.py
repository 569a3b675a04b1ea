"""Which event is legal in which phase of a run: one table, from which the diagram in the docs is generated.

A phase is derived from the log (``Run.phase``), never stored. An illegal event keeps its number in the chain, changes
nothing, and is shown as ignored with the reason.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The phase of a run. If its calls are in different stages, the phase is that of the step that comes first."""

    NEW = "new"
    QUEUED = "queued"
    THINKING = "thinking"
    JUDGING = "judging"
    CLEARING = "clearing"
    WAITING = "waiting"
    ACTING = "acting"
    ANSWERING = "answering"
    SETTLING = "settling"
    DRAINING = "draining"
    SEALED = "sealed"


STOPPED = "stopped"
LATE_RESULTS = frozenset({"executor.finished", "planner.proposed", "planner.failed", "planner.compacted"})
"""The events that are legal once a run has begun, because they are facts: results of earlier starts."""

_ALWAYS = LATE_RESULTS | {STOPPED}
_ALIVE = _ALWAYS | {
    "budget.held",
    "budget.queued",
    "budget.warned",
    "approver.paused",
    "approver.resumed",
    "approver.asked",
    "approver.granted",
    "approver.denied",
    "approver.answered",
}
_GATES = {"approver.cleared", "approver.edited", "approver.resolved"}
_EXECUTION = {"executor.started", "executor.widened", "validator.checked"}

LEGAL: dict[Phase, frozenset[str]] = {
    Phase.NEW: frozenset({"validator.opened", "validator.refused", STOPPED}),
    Phase.QUEUED: frozenset(_ALIVE | {"planner.started"}),
    Phase.THINKING: frozenset(_ALIVE | {"planner.started"}),
    Phase.JUDGING: frozenset(_ALIVE | _EXECUTION | _GATES | {"validator.judged"}),
    Phase.CLEARING: frozenset(_ALIVE | _EXECUTION | _GATES),
    Phase.WAITING: frozenset(_ALIVE | _EXECUTION | _GATES),
    Phase.ACTING: frozenset(_ALIVE | _EXECUTION | _GATES | {"planner.started"}),
    Phase.ANSWERING: frozenset(_ALIVE | {"validator.accepted", "validator.returned"}),
    Phase.SETTLING: frozenset(LATE_RESULTS | {STOPPED, "budget.settled", "recorder.sealed"}),
    Phase.DRAINING: frozenset(LATE_RESULTS | {STOPPED, "validator.refused", "budget.settled", "recorder.sealed"}),
    Phase.SEALED: frozenset(LATE_RESULTS | {"recorder.amended"}),
}


def is_legal(phase: Phase, role: str, event: str) -> bool:
    """Whether ``role`` may append ``event`` in this phase."""
    return (STOPPED if event == STOPPED else f"{role}.{event}") in LEGAL[phase]


TRANSITIONS: tuple[tuple[Phase, str, Phase], ...] = (
    (Phase.NEW, "validator.opened", Phase.QUEUED),
    (Phase.NEW, "validator.refused", Phase.SETTLING),
    (Phase.NEW, STOPPED, Phase.DRAINING),
    (Phase.QUEUED, "planner.started", Phase.THINKING),
    (Phase.QUEUED, "approver.asked", Phase.WAITING),
    (Phase.QUEUED, STOPPED, Phase.DRAINING),
    (Phase.THINKING, "planner.failed", Phase.QUEUED),
    (Phase.THINKING, "planner.compacted", Phase.QUEUED),
    (Phase.THINKING, "planner.proposed", Phase.QUEUED),
    (Phase.THINKING, "planner.proposed", Phase.ACTING),
    (Phase.THINKING, "planner.failed", Phase.ACTING),
    (Phase.THINKING, "planner.proposed", Phase.JUDGING),
    (Phase.THINKING, "planner.proposed", Phase.ANSWERING),
    (Phase.THINKING, STOPPED, Phase.DRAINING),
    (Phase.JUDGING, "validator.judged", Phase.CLEARING),
    (Phase.JUDGING, "validator.judged", Phase.QUEUED),
    (Phase.JUDGING, "validator.judged", Phase.ACTING),
    (Phase.JUDGING, "validator.judged", Phase.WAITING),
    (Phase.CLEARING, "approver.cleared", Phase.ACTING),
    (Phase.CLEARING, "approver.cleared", Phase.WAITING),
    (Phase.CLEARING, "approver.asked", Phase.WAITING),
    (Phase.CLEARING, "approver.asked", Phase.ACTING),
    (Phase.CLEARING, "approver.answered", Phase.QUEUED),
    (Phase.WAITING, "approver.granted", Phase.ACTING),
    (Phase.WAITING, "approver.granted", Phase.QUEUED),
    (Phase.WAITING, "approver.denied", Phase.QUEUED),
    (Phase.WAITING, "approver.edited", Phase.JUDGING),
    (Phase.WAITING, "approver.answered", Phase.QUEUED),
    (Phase.WAITING, "approver.resolved", Phase.ACTING),
    (Phase.WAITING, "approver.resolved", Phase.QUEUED),
    (Phase.WAITING, "executor.finished", Phase.QUEUED),
    (Phase.WAITING, "executor.started", Phase.ACTING),
    (Phase.WAITING, "executor.widened", Phase.CLEARING),
    (Phase.ACTING, "executor.widened", Phase.CLEARING),
    (Phase.WAITING, STOPPED, Phase.DRAINING),
    (Phase.ACTING, "approver.edited", Phase.JUDGING),
    (Phase.ACTING, "planner.started", Phase.THINKING),
    (Phase.ACTING, "executor.finished", Phase.QUEUED),
    (Phase.ACTING, "executor.finished", Phase.WAITING),
    (Phase.ACTING, "validator.checked", Phase.QUEUED),
    (Phase.ACTING, "validator.checked", Phase.WAITING),
    (Phase.ACTING, STOPPED, Phase.DRAINING),
    (Phase.ANSWERING, "validator.returned", Phase.QUEUED),
    (Phase.ANSWERING, "validator.accepted", Phase.SETTLING),
    (Phase.ANSWERING, STOPPED, Phase.DRAINING),
    (Phase.SETTLING, "recorder.sealed", Phase.SEALED),
    (Phase.SETTLING, STOPPED, Phase.DRAINING),
    (Phase.DRAINING, "recorder.sealed", Phase.SEALED),
)
"""The transitions of a run: phase, event, next phase. They follow from the fold and are listed for readers."""
