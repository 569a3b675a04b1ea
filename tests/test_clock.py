"""The time in a process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from linestop.clock import Clock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Machine:
    """A machine whose wall clock can be set, and whose steady clock cannot."""

    def __init__(self) -> None:
        self.set_by = timedelta()
        self.steady_s = 1_000.0

    def wall(self) -> datetime:
        """The wall clock."""
        return NOON + self.set_by + timedelta(seconds=self.steady_s - 1_000)

    def steady(self) -> float:
        """The steady clock."""
        return self.steady_s

    def clock(self) -> Clock:
        """Return a new clock of a process."""
        clock = Clock(self.wall, self.steady)
        clock.now()
        return clock


def compare(
    clock: Clock, broker_time: datetime, *, took_s: float = 0.0, performing: bool = False, runs: bool = True
) -> None:
    """Compare with a broker whose time is ``broker_time`` halfway through a request of ``took_s``."""
    half = timedelta(seconds=took_s / 2)
    now = clock.now()
    clock.compare(now - half, broker_time, now + half, performing=performing, has_open_runs=runs)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_wall_clock_that_is_set_changes_nothing(step: timedelta) -> None:
    """Time follows the steady clock, and the difference is reported without a refusal."""
    machine = Machine()
    clock = machine.clock()
    machine.set_by = step
    machine.steady_s += 10
    assert clock.now() == NOON + timedelta(seconds=10)
    compare(clock, NOON + timedelta(seconds=10))
    assert (clock.refusal, clock.offset_s) == ("", step.total_seconds())
    assert clock.now() == NOON + timedelta(seconds=10)


@pytest.mark.parametrize("skew_s", [-29.0, -0.5, 0.5, 29.0])
def test_a_small_difference_is_corrected(skew_s: float) -> None:
    """Up to half a minute the broker's time is taken."""
    clock = Machine().clock()
    compare(clock, NOON - timedelta(seconds=skew_s))
    assert (clock.refusal, clock.now()) == ("", NOON - timedelta(seconds=skew_s))


def test_a_difference_within_the_round_trip_does_not_count() -> None:
    """A reply that took four seconds proves no difference below two, and of a larger one only the rest."""
    clock = Machine().clock()
    compare(clock, NOON + timedelta(seconds=1.9), took_s=4.0)
    assert clock.now() == NOON
    compare(clock, NOON + timedelta(seconds=2.5), took_s=4.0)
    assert clock.now() == NOON + timedelta(seconds=0.5)


@pytest.mark.parametrize(("skew_s", "side"), [(300, "300 s ahead of"), (-300, "300 s behind")])
def test_a_large_difference_is_refused_until_it_is_gone(skew_s: int, side: str) -> None:
    """Until then nothing is corrected; once the machine's clock agrees, the broker's time is taken."""
    machine = Machine()
    machine.set_by = timedelta(seconds=skew_s)
    clock = machine.clock()
    compare(clock, NOON)
    assert side in clock.refusal
    assert clock.now() == NOON + machine.set_by
    machine.set_by = timedelta()
    compare(clock, NOON)
    assert (clock.refusal, clock.now()) == ("", NOON)


def test_after_a_sleep_of_the_machine_its_time_is_taken_once_nothing_is_performed() -> None:
    """Machine and broker agree that an hour has passed: open calls end by the old time, then the new one counts."""
    machine = Machine()
    clock = machine.clock()
    machine.set_by = HOUR
    compare(clock, NOON + HOUR, performing=True)
    assert "set forward" in clock.refusal
    assert clock.now() == NOON
    compare(clock, NOON + HOUR)
    assert (clock.refusal, clock.now()) == ("", NOON + HOUR)


def test_time_goes_back_only_if_no_run_is_worked_on() -> None:
    """Machine and broker were set back by an hour: the process keeps its own time while it has open runs."""
    machine = Machine()
    clock = machine.clock()
    machine.set_by = -HOUR
    compare(clock, NOON - HOUR, runs=True)
    assert (clock.refusal, clock.now()) == ("", NOON)
    compare(clock, NOON - HOUR, runs=False)
    assert (clock.refusal, clock.now()) == ("", NOON - HOUR)


def test_a_process_can_follow_the_clock_of_another() -> None:
    """A child of a worker has the worker's time, whatever the machine's wall clock shows."""
    machine = Machine()
    clock = machine.clock()
    machine.set_by = HOUR
    child = Clock(machine.wall, machine.steady)
    child.follow(*clock.reading())
    machine.steady_s += 3
    assert child.now() == clock.now() == NOON + timedelta(seconds=3)
