"""Holds that this process made and whose ``held`` event it has not seen; a process that is overtaken gives them back.

While a slow worker reserves a hold, another worker may have reserved, spent and settled the same hold. Then the slow
worker has made a hold that is never settled: found later, it would be charged a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from linestop.schemas.events import AccountLine, Held, Queued, Settled
from linestop.schemas.run.fold import Run

RUNS_MAX: Final = 10_000


class OwnHolds:
    """The last hold that this process made for each run, and its accounts."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, tuple[AccountLine, ...]]] = {}

    def record(self, hold: str, lines: Sequence[AccountLine]) -> None:
        """Record that the hold was made in these accounts, if in any."""
        if lines and len(self._made) < RUNS_MAX:
            self._made[hold.rpartition(".")[0]] = (hold, tuple(lines))

    def is_obsolete(self, run: Run) -> bool:
        """Whether the run no longer needs the hold: it is over, or another worker had the hold and settled it."""
        hold, _ = self._made.get(_key(run), ("", ()))
        if not hold or hold in run.holds:
            self._made.pop(_key(run), None)
            return False
        return run.done or run.holds_made >= int(hold.rpartition(".")[2])

    def take(self, run: Run) -> tuple[str, tuple[AccountLine, ...]]:
        """Remove the run's hold from this record, and return it with its accounts."""
        return self._made.pop(_key(run), ("", ()))


def spent_of(run: Run, hold: str, account: tuple[str, str], *, ordinal: int) -> int | None:
    """Return how much of ``hold`` was spent, in micro-dollars; None while the run needs it or may still claim it.

    ``account`` is the name and period of the account that has the hold.
    """
    events = [entry.event for entry in run.entries if not entry.ignored]
    held = next((event for event in events if isinstance(event, Held) and event.hold == hold), None)
    if held is None:
        return 0 if run.done or run.n == 0 or run.holds_made >= ordinal else None
    if not any((line.account, line.period) == account for line in held.accounts):
        # The hold was also reserved in an earlier period, by an attempt that never appended its event.
        return 0
    lines = (line for event in events if isinstance(event, Settled | Queued) for line in event.holds)
    return next((line.spent_micros for line in lines if line.hold == hold), None)


def _key(run: Run) -> str:
    return f"{run.tenant}.{run.run}"
