"""The time in a process: counted from its start by the steady clock, and kept in step with the broker's clock.

The wall clock is read once. From then on the machine's steady clock counts, so a wall clock that is set an hour forward
or back in the middle of a retry's pause changes nothing. The broker's time corrects a small difference. A difference of
more than ``CLOCK_OFF_MAX_S`` is not corrected: processes would interpret the deadlines of one log differently, so the
process refuses to decide until the difference is gone.

If the machine's clock and the broker's agree and only this process differs, the machine was asleep, or both clocks were
set. Then the process takes their time as soon as nothing depends on its own: forward when it performs nothing, back
when it works on no run, because a run's time never goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from linestop.schemas.defaults import CLOCK_OFF_MAX_S

_STEADY_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The steady clock that continues while a machine is suspended, as deadlines outside of it do."""


def wall_now() -> datetime:
    """Return the time of the machine's wall clock, aware."""
    return datetime.now(UTC)


def machine_s() -> float:
    """Return the seconds of the machine's steady clock."""
    return time.clock_gettime(_STEADY_CLOCK)


def loop_s() -> float:
    """Return the seconds of a virtual event loop's clock; of the machine's steady clock if no such loop runs.

    uvloop reads its clock once a turn, and that reading is too old after a long turn, so it is not used.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return machine_s()
    virtual = isinstance(loop, asyncio.BaseEventLoop) and type(loop).time is not asyncio.BaseEventLoop.time
    return loop.time() if virtual else machine_s()


class Clock:
    """The time of one process. ``refusal`` says why it must not decide now; empty while it may.

    ``offset_s`` is how far the machine's clock was ahead of the broker's at the last comparison.
    """

    def __init__(self, wall: Callable[[], datetime] = wall_now, steady_s: Callable[[], float] = machine_s) -> None:
        self._wall = wall
        self._steady_s = steady_s
        self._base: datetime | None = None
        self._base_s = 0.0
        self.refusal = ""
        self.offset_s = 0.0

    def now(self) -> datetime:
        """Return the present time, aware."""
        steady_s = self._steady_s()
        if self._base is None:
            self._base, self._base_s = self._wall(), steady_s
        return self._base + timedelta(seconds=steady_s - self._base_s)

    def reading(self) -> tuple[datetime, float]:
        """Return the present time, and the steady clock's seconds, for a process that must have the same time."""
        now = self.now()
        assert self._base is not None
        return now, self._base_s + (now - self._base).total_seconds()

    def follow(self, now: datetime, steady_s: float) -> None:
        """Use the time of another process of this machine from now on; see ``reading``."""
        self._base, self._base_s = now, steady_s

    def compare(
        self, before: datetime, broker_now: datetime, after: datetime, *, performing: bool, has_open_runs: bool
    ) -> None:
        """Compare this clock with the broker's time ``broker_now``, read between ``before`` and ``after``.

        Args:
            before: When the request was sent to the broker.
            broker_now: The time of the broker's clock.
            after: When the reply came.
            performing: Whether the process performs a call or request, whose deadlines use this clock.
            has_open_runs: Whether the process works on open runs.
        """
        ahead_s = _ahead_s(before, broker_now, after)
        self.offset_s = round((self._wall() - self.now()).total_seconds() + ahead_s, 3)
        if abs(ahead_s) <= CLOCK_OFF_MAX_S:
            self._shift(-ahead_s)
            self.refusal = ""
        elif abs(self.offset_s) > CLOCK_OFF_MAX_S:
            side = "ahead of" if ahead_s > 0 else "behind"
            self.refusal = (
                f"Its clock is {abs(ahead_s):.0f} s {side} the broker's, and at most {CLOCK_OFF_MAX_S:.0f} s are "
                "corrected: it decides nothing until the clock is right. Synchronise the machine's clock (NTP)."
            )
        elif not (self.refusal or ahead_s < 0):
            if not has_open_runs:
                self._shift(-ahead_s)
        elif performing:
            self.refusal = self.refusal or _CLOCK_SET_FORWARD
        else:
            self._shift(-ahead_s)
            self.refusal = ""

    def _shift(self, seconds: float) -> None:
        if seconds:
            self._base = self.now() + timedelta(seconds=seconds)
            self._base_s = self._steady_s()


_CLOCK_SET_FORWARD: Final = (
    "The machine's clock and the broker's were set forward: the process starts nothing until its open calls and "
    "requests have ended, and then adopts the new time."
)


def _ahead_s(before: datetime, broker_now: datetime, after: datetime) -> float:
    """Return by how much this clock is certainly ahead of the broker's, whatever part of the round trip was waiting."""
    return max((before - broker_now).total_seconds(), 0.0) - max((broker_now - after).total_seconds(), 0.0)


PROCESS_CLOCK: Final = Clock()
"""The clock of this process, for all its code outside a simulation."""


def now() -> datetime:
    """Return the present time in this process, aware."""
    return PROCESS_CLOCK.now()
