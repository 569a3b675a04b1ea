"""The protocols of a role and of a performer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from linestop.actors.role_facts import RoleFacts
from linestop.schemas.events import AnyEvent
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RoleName

F = TypeVar("F", bound=RoleFacts)
F_contra = TypeVar("F_contra", bound=RoleFacts, contravariant=True)
W = TypeVar("W")


class Role(Protocol[F]):
    """One question about one run, answered from its whole log.

    ``wakes`` names the events (``role.event``) after which the role may have something to append; ``facts_type`` names
    the facts that it must know from outside the run.
    """

    name: RoleName
    wakes: frozenset[str]
    facts_type: type[F]

    def decide(self, run: Run, facts: F, now: datetime) -> AnyEvent | None:
        """Return the next event of this role, or None if it is not its turn. Pure."""
        ...


class Performer(Protocol[F_contra, W]):
    """A role that also acts: planner and executor. Its ``W`` has everything that one performance needs.

    ``prepare`` collects that at the moment the start is appended, so that nothing that comes later can change what is
    done; ``perform`` does the work and yields the results as they come.
    """

    def prepare(self, run: Run, started: AnyEvent, facts: F_contra) -> W:
        """Collect what ``perform`` needs. Pure."""
        ...

    def perform(self, work: W, started: AnyEvent) -> AsyncIterator[AnyEvent | LongResult]:
        """Do what ``started`` announced and yield the results. Cancelled when the run is stopped."""
        ...

    def report_cancelled(self, work: W, done: frozenset[tuple[str, int]], *, begun: bool) -> list[AnyEvent]:
        """Return the events for the parts of a start that have no result yet. Pure.

        ``done`` names the parts that have one (call, attempt). ``begun`` is False if performing never began, so that
        nothing can have happened.
        """
        ...


AnyRole: TypeAlias = Role[Any]
AnyPerformer: TypeAlias = Performer[Any, Any]
"""A performer of any kind, for a process that has several: each is handed only the work that it prepared itself."""
