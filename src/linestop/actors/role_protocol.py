"""The protocols of a role and of a performer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol

from linestop.actors.facts import Facts
from linestop.schemas.events import AnyEvent, Cue
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RoleName


class Role(Protocol):
    """One question about one run, answered from its whole log.

    ``wakes`` names the events (``role.event``) after which the role may have something to append; ``needs`` names the
    facts that it must know from outside the run.
    """

    name: RoleName
    wakes: frozenset[str]
    needs: tuple[type[Any], ...]

    def decide(self, run: Run, cue: Cue, facts: Facts, now: datetime) -> AnyEvent | None:
        """Return the next event of this role, or None if it is not its turn. Pure."""
        ...


class Performer(Protocol):
    """A role that also acts: planner and executor.

    ``prepare`` collects what performing needs at the moment the start is appended, so that nothing that comes
    later can change what is done; ``perform`` does the work and yields the results as they come.
    """

    def prepare(self, run: Run, started: AnyEvent, facts: Facts) -> Any:  # noqa: ANN401 - each performer's own
        """Collect what ``perform`` needs. Pure."""
        ...

    def perform(self, work: Any, started: AnyEvent) -> AsyncIterator[AnyEvent | LongResult]:  # noqa: ANN401 - see prepare
        """Do what ``started`` announced and yield the results. Cancelled when the run is stopped."""
        ...

    def report_cancelled(self, work: Any, done: frozenset[tuple[str, int]], *, begun: bool) -> list[AnyEvent]:  # noqa: ANN401
        """Return the events for the parts of a start that have no result yet. Pure.

        ``done`` names the parts that have one (call, attempt). ``begun`` is False if performing never began, so that
        nothing can have happened.
        """
        ...
