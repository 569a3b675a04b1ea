"""What a role is, and what a performer is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

from linestop.actors.facts import Facts
from linestop.schemas.events import AnyEvent, Cue
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RoleName


class Role(Protocol):
    """One question about one run, answered from its whole log.

    ``wakes`` names the events (``role.event``) after which it may have something to say; ``needs`` the facts
    it must know from outside the run.
    """

    name: RoleName
    wakes: frozenset[str]
    needs: tuple[type[Any], ...]

    def decide(self, run: Run, cue: Cue, facts: Facts, now: datetime) -> AnyEvent | None:
        """Return the next event of this role, or None if it is not its turn. Pure."""
        ...


class Performer(Protocol):
    """A role that also acts: planner and executor.

    ``view`` freezes what performing needs at the moment the start was appended, so that nothing that comes
    later can change what is done; ``perform`` does it and yields the results as they come.
    """

    def prepare(self, run: Run, started: AnyEvent, facts: Facts) -> Any:  # noqa: ANN401 - each performer's own
        """Freeze what ``perform`` needs. Pure."""
        ...

    def perform(self, work: Any, started: AnyEvent) -> AsyncIterator[AnyEvent | LongResult]:  # noqa: ANN401 - see view
        """Do what ``started`` announced and yield its results. Cancelled when the run is stopped."""
        ...

    def report_cancelled(self, work: Any, done: frozenset[tuple[str, int]], *, begun: bool) -> list[AnyEvent]:  # noqa: ANN401
        """What to say of the parts of a start without a result (``done``: call, attempt). Pure.

        ``begun`` is False if performing never began, so that nothing can have happened.
        """
        ...
