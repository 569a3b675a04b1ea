"""The checker's records of one start and of one call. See ``checker_state``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from linestop.schemas.defaults import NOT_BEGUN_MAX
from linestop.schemas.events import AskedCall, Edited, JudgedCall, Text, ToolGrant
from linestop.schemas.tool_contracts import ToolError


@dataclass(slots=True)
class Start:
    """A start and its outcome. A model request has no ``call``, an effect no ``turn``."""

    n: int
    attempt: int
    worker: str
    done_by: datetime
    cost_max_micros: int
    call: str = ""
    turn: int = 0
    model: str = ""
    base_url: str = ""
    purpose: str = "turn"
    probe: bool = False
    outcome: str = ""
    retry_safe: bool = False
    error: ToolError | None = None
    charged_micros: int = 0
    superseded: bool = False
    closed_n: int = 0
    begun: bool = True
    down_until: datetime | None = None
    tokens_max: int = 0
    tokens: int = 0

    @property
    def open(self) -> bool:
        """Whether its outcome is unknown and no other attempt has taken over."""
        return not self.outcome and not self.superseded

    @property
    def label(self) -> str:
        """The name of the start in a sentence."""
        subject = f"call '{self.call}'" if self.call else f"turn {self.turn}"
        return f"attempt {self.attempt} of {subject} (event {self.n})"

    def may_be_taken_over(self, at: datetime, worker: str, dead: tuple[str, ...]) -> bool:
        """Whether another attempt may take over: ``done_by`` has passed, or its worker is dead or has restarted."""
        name, _, incarnation = self.worker.rpartition("#")
        own, _, newer = worker.rpartition("#")
        older = incarnation.isdecimal() and newer.isdecimal() and int(incarnation[-18:]) < int(newer[-18:])
        is_dead = self.worker in dead and self.worker != worker
        return at >= self.done_by or is_dead or (bool(name) and name == own and older)


@dataclass(slots=True)
class Call:
    """A call, from proposal to outcome."""

    name: str
    tool: str
    raw_args: Text
    grant: ToolGrant | None
    agreed: ToolGrant | None = None
    """The narrower contract that was agreed to last, while no person has agreed to ``grant``; None otherwise."""

    is_by_fallback: bool = False
    judged: JudgedCall | None = None
    judged_n: int = 0
    edited: bool = False
    edit: Edited | None = None
    asked: AskedCall | None = None
    votes: set[str] = field(default_factory=set[str])
    gate_n: int = 0
    passed_by_person: bool = False
    starts: list[Start] = field(default_factory=list[Start])
    retry_decided_n: int = 0
    retries_decided: int = 0

    @property
    def effects(self) -> list[Start]:
        """Its starts without probes."""
        return [start for start in self.starts if not start.probe]

    @property
    def tries(self) -> int:
        """The number of effects that count against the contract's retries."""
        return count_tries(self.effects)


def count_tries(starts: list[Start]) -> int:
    """Return how many starts count as tries."""
    begun = [start for start in starts if start.begun]
    return len(begun) + max(len(starts) - len(begun) - NOT_BEGUN_MAX, 0)
