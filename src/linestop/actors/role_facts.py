"""The facts that each role may know: one struct a role, which names all that its decisions rest on besides the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Self, get_args

import msgspec

from linestop.actors.facts import (
    CheckFindings,
    ControlMessage,
    CurrentAgent,
    DeadWorkers,
    Fact,
    IncomingTask,
    KillSwitches,
    Performing,
    PinnedAgent,
    Reservation,
    Secrets,
    Space,
    Texts,
    ToolsHere,
    Worker,
)


class RoleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one role, each of another type; a fact that the shell does not have keeps its default."""

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Self:
        """Take those of ``facts`` that the role needs; of two of one type the later one."""
        return cls().with_facts(*facts)

    def with_facts(self, *facts: Fact) -> Self:
        """Return a copy with those of ``facts`` that the role needs."""
        kinds = self.kinds()
        return msgspec.structs.replace(self, **{kinds[type(fact)]: fact for fact in facts if type(fact) in kinds})

    @classmethod
    def kinds(cls) -> Mapping[type[Fact], str]:
        """Return the types of facts that the role needs, with the names of their fields."""
        return _fields_by_kind(cls)


@cache
def _fields_by_kind(role_facts: type[RoleFacts]) -> Mapping[type[Fact], str]:
    return {
        (get_args(field.type) or (field.type,))[0]: field.name  # ``Fact | None`` where it matters that none is known
        for field in msgspec.structs.fields(role_facts)
    }


class ValidatorFacts(RoleFacts, frozen=True, kw_only=True):
    """What the validator may know."""

    incoming: IncomingTask | None = None
    current_agent: CurrentAgent = CurrentAgent(version=None)
    pinned_agent: PinnedAgent | None = None
    kill_switches: KillSwitches = KillSwitches()
    space: Space = Space()
    texts: Texts = Texts()
    check_findings: CheckFindings = CheckFindings()
    secrets: Secrets = Secrets()
    performing: Performing = Performing()


class ApproverFacts(RoleFacts, frozen=True, kw_only=True):
    """What the approver may know."""

    message: ControlMessage | None = None
    pinned_agent: PinnedAgent = PinnedAgent(version=None)


class BudgetFacts(RoleFacts, frozen=True, kw_only=True):
    """What budget may know."""

    reservation: Reservation | None = None


class PerformerFacts(RoleFacts, frozen=True, kw_only=True):
    """What planner and executor may know. ``performing`` is None where nothing is performed, as in a replay."""

    worker: Worker = Worker(id="")
    dead_workers: DeadWorkers = DeadWorkers()
    kill_switches: KillSwitches = KillSwitches()
    performing: Performing | None = None


class PlannerFacts(PerformerFacts, frozen=True, kw_only=True):
    """What the planner may know."""

    pinned_agent: PinnedAgent = PinnedAgent(version=None)
    secrets: Secrets = Secrets()


class ExecutorFacts(PerformerFacts, frozen=True, kw_only=True):
    """What the executor may know."""

    texts: Texts = Texts()
    tools_here: ToolsHere = ToolsHere()


class RecorderFacts(RoleFacts, frozen=True, kw_only=True):
    """What the recorder may know: nothing but the log."""
