"""What a role may know besides the log: small values, fetched by the shell before it asks for a decision.

Every event stores what of them it used, so that a replay can hand the same facts in again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AccountLine, ToolGrant
from linestop.schemas.kill_switches import EVERYTHING, UNREADABLE
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.run.state import Run
from linestop.schemas.tool_contracts import Contract

F = TypeVar("F")


class Facts:
    """A bag of facts, one of each type."""

    def __init__(self, *facts: Any) -> None:  # noqa: ANN401 - any fact type
        self._by_type: dict[type[Any], Any] = {type(fact): fact for fact in facts}

    def get(self, kind: type[F]) -> F | None:
        """The fact of that type, if the shell has one."""
        fact: F | None = self._by_type.get(kind)
        return fact

    def with_facts(self, *facts: Any) -> Facts:  # noqa: ANN401 - any fact type
        """A copy with more facts."""
        return Facts(*self._by_type.values(), *facts)


class Worker(msgspec.Struct, frozen=True):
    """The process that decides: ``<name>#<incarnation>``. A name is held by one process at a time."""

    id: str


class Performing(msgspec.Struct, frozen=True):
    """The starts (event numbers) of this run that this process performs now, or is about to say the results of."""

    starts: frozenset[int] = frozenset()
    unreported: frozenset[int] = frozenset()
    """Those of them that have ended: what they gave is not stored yet, perhaps since the broker is away."""

    lost: frozenset[int] = frozenset()
    """Those that have ended, and of which a result could not be said at all."""

    @property
    def running(self) -> frozenset[int]:
        """Those that are worked on."""
        return self.starts - self.unreported - self.lost


class DeadWorkers(msgspec.Struct, frozen=True):
    """Workers of open starts that are known to be dead: they said goodbye, lost their name, or are silent.

    The last is a presumption, so nothing follows from it but for what is safe to repeat.
    """

    workers: frozenset[str] = frozenset()


class IncomingTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task at the door.

    ``problem`` is set where it cannot even be read, and ``readable`` has what can be read of it; ``existing_run`` where
    its key or run id is taken by another task, or, with a ``problem``, was stopped before this one came. ``trace`` is
    the W3C ``traceparent`` that it was sent with, as it came. ``asked_at`` is when the broker stored it.
    """

    agent: str
    sha256: str
    task: Task | None = None
    problem: str = ""
    readable: Task | None = None
    existing_run: str = ""
    trace: str = ""
    asked_at: datetime | None = None


class ControlMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A control message for this run. ``signer`` is the person whose key signed it, empty if nobody's did.

    ``trusted``: it came as a person's may come, signed or with the operator's credential, and not as any client's.
    """

    verb: Verb
    control: Control
    signer: str = ""
    signature_required: bool = False
    trusted: bool = False


class CurrentAgent(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's present version and its digest in the store, for a task at the door; None if there is none."""

    version: AgentVersion | None
    digest: str = ""


class PinnedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """The version this run was opened with; None if the store has lost it."""

    version: AgentVersion | None


class KillSwitches(msgspec.Struct, frozen=True, kw_only=True):
    """The kill switches that operators have closed; see ``schemas.kill_switches`` for their names."""

    revision: int = 0
    closed: frozenset[str] = frozenset()

    def first_closed(self, *names: str) -> str:
        """The first of ``names`` (or of those that close everything) that is closed, or an empty string."""
        return next((name for name in (EVERYTHING, UNREADABLE, *names) if name in self.closed), "")

    def first_closed_for(self, run: Run, *tools: str) -> str:
        """The first that is closed of those that concern an open run and these tools of its, or an empty string."""
        if run.opened is None:
            return self.first_closed(f"tenant:{run.tenant}")
        user = (f"user:{run.opened.task.user}",) if run.opened.task.user else ()
        agent = run.opened.agent.name
        return self.first_closed(f"tenant:{run.tenant}", f"agent:{agent}", *user, *(f"tool:{tool}" for tool in tools))


def kill_switch_message(name: str) -> str:
    """Why nothing starts: the sentence about a closed kill switch."""
    if name == UNREADABLE:
        return (
            "The stored kill switches cannot be read, so all count as closed; reset them: `linestop switch open all`."
        )
    return f"The kill switch '{name}' was closed by an operator."


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """How full the fullest of the streams is that a run needs, 0.0 to 1.0, and which it is."""

    used: float = 0.0
    stream: str = "RUNS"


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What the accounts said to the hold this run wants now.

    ``refused_account`` names the account without room; then nothing is reserved. ``waits``: there may be room once
    other runs give back what they hold. ``cause``: the accounts could not be changed, and why.
    """

    hold: str
    amount_micros: int
    accounts: tuple[AccountLine, ...] = ()
    refused_account: str = ""
    may_wait: bool = False
    cause: str = ""


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """Blob contents by digest, where a decision must look into an argument that is too long for an event."""

    by_sha256: dict[str, bytes] = {}


class ToolHere(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as the process has it that would call it; ``contract`` is None where a replay does not know it."""

    grant: ToolGrant
    contract: Contract | None = None


class ToolsHere(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of the process that would call them, by name: they may have been changed since a run was opened."""

    by_name: dict[str, ToolHere] = {}


class CheckFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What the tools' own checks found in results that wait for them: event number → findings."""

    by_event: dict[int, tuple[str, ...]] = {}


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Values that must never leave in an answer."""

    values: tuple[str, ...] = ()
