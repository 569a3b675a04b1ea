"""The holds that a process has made and whose ``held`` event it has not seen: who is overtaken must give them back.

A worker that was long in reserving may find that another has reserved, spent and settled the same hold meanwhile. What
it made then is a hold that nobody settles: found later, it would be charged a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from linestop.schemas.events import AccountLine
from linestop.schemas.run import Run

RUNS_MAX: Final = 10_000


class OwnHolds:
    """The last hold made here for each run, and in which accounts."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[str, tuple[AccountLine, ...]]] = {}

    def note(self, hold: str, lines: Sequence[AccountLine]) -> None:
        """The hold was made in these accounts, if in any."""
        if lines and len(self._made) < RUNS_MAX:
            self._made[hold.rpartition(".")[0]] = (hold, tuple(lines))

    def of_no_use(self, run: Run) -> bool:
        """Whether the run needs the hold no more: it is over, or another worker had the hold and settled it."""
        hold, _ = self._made.get(_key(run), ("", ()))
        if not hold or hold in run.holds:
            self._made.pop(_key(run), None)
            return False
        return run.done or run.holds_made >= int(hold.rpartition(".")[2])

    def take(self, run: Run) -> tuple[str, tuple[AccountLine, ...]]:
        """Forget the run's hold, and return it with its accounts."""
        return self._made.pop(_key(run), ("", ()))


def _key(run: Run) -> str:
    return f"{run.tenant}.{run.run}"
