"""Which event is legal in which phase."""

from __future__ import annotations

import pytest

from linestop.schemas.events import EVENTS
from linestop.schemas.run.phases import LATE_RESULTS, LEGAL, STOPPED, Phase, is_legal

TAGS = {f"{role}.{name}" for role, name in EVENTS}
STARTS = {"planner.started", "executor.started", "budget.held"}


def test_the_table_has_every_phase_and_only_existing_events() -> None:
    """Every event is legal in some phase."""
    assert set(LEGAL) == set(Phase)
    assert set().union(*LEGAL.values()) == TAGS | {STOPPED}


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.SEALED])
def test_a_run_can_be_stopped_in_every_phase_but_the_last(phase: Phase) -> None:
    """Every role may stop it."""
    assert is_legal(phase, "operator", "stopped")
    assert is_legal(phase, "planner", "stopped")


@pytest.mark.parametrize("phase", [Phase.SETTLING, Phase.DRAINING, Phase.SEALED])
def test_nothing_starts_in_a_run_that_is_over(phase: Phase) -> None:
    """The fence: starts and holds are illegal after stop, answer and seal."""
    assert not LEGAL[phase] & STARTS


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.NEW])
def test_results_can_be_appended_whenever_a_run_has_begun(phase: Phase) -> None:
    """They are results of earlier starts."""
    assert LEGAL[phase] >= LATE_RESULTS


def test_after_the_seal_only_late_results_and_the_amendment_are_legal() -> None:
    """Even a stop is illegal."""
    assert LEGAL[Phase.SEALED] == LATE_RESULTS | {"recorder.amended"}


def test_a_run_opens_once() -> None:
    """``opened`` is legal only as the first event."""
    assert [phase for phase in Phase if is_legal(phase, "validator", "opened")] == [Phase.NEW]


def test_an_event_of_another_role_is_never_legal() -> None:
    """The pair of role and event counts."""
    assert not any(is_legal(phase, "planner", "granted") for phase in Phase)
