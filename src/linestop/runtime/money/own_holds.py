"""The holds that a process has made and whose ``held`` event it has not seen: who is overtaken must give them back.

A worker that was long in reserving may find that another has reserved, spent and settled the same hold meanwhile. What
it made then is a hold that nobody settles: found later, it would be charged a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from linestop.schemas.events import AccountLine, Held, Queued, Settled
from linestop.schemas.run.state import Run

RUNS_MAX: Final = 10_000


class OwnHolds:
    """The last hold made here for each run, and in which accounts."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, tuple[AccountLine, ...]]] = {}

    def record(self, hold: str, lines: Sequence[AccountLine]) -> None:
        """The hold was made in these accounts, if in any."""
        if lines and len(self._made) < RUNS_MAX:
            self._made[hold.rpartition(".")[0]] = (hold, tuple(lines))

    def is_obsolete(self, run: Run) -> bool:
        """Whether the run needs the hold no more: it is over, or another worker had the hold and settled it."""
        hold, _ = self._made.get(_key(run), ("", ()))
        if not hold or hold in run.holds:
            self._made.pop(_key(run), None)
            return False
        return run.done or run.holds_made >= int(hold.rpartition(".")[2])

    def take(self, run: Run) -> tuple[str, tuple[AccountLine, ...]]:
        """Forget the run's hold, and return it with its accounts."""
        return self._made.pop(_key(run), ("", ()))


def spent_of(run: Run, hold: str, account: tuple[str, str], *, ordinal: int) -> int | None:
    """What of ``hold`` was spent, in micro-dollars; None while the run needs it, or may still come to say so.

    ``account`` is the name and period of the account that has it.
    """
    events = [entry.event for entry in run.entries if not entry.ignored]
    held = next((event for event in events if isinstance(event, Held) and event.hold == hold), None)
    if held is None:
        return 0 if run.done or run.n == 0 or run.holds_made >= ordinal else None
    if not any((line.account, line.period) == account for line in held.accounts):
        # It was reserved in an earlier period too, by an attempt that never came to its event.
        return 0
    lines = (line for event in events if isinstance(event, Settled | Queued) for line in event.holds)
    return next((line.spent_micros for line in lines if line.hold == hold), None)


def _key(run: Run) -> str:
    return f"{run.tenant}.{run.run}"
