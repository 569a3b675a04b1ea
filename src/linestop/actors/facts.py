"""Facts, which a role may know besides the log: small values that the shell fetches before it asks for a decision.

Every event stores the facts that its role used, so that a replay can hand them in again.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

import msgspec

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AccountLine, ToolGrant
from linestop.schemas.kill_switches import EVERYTHING, UNREADABLE
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import Contract


class Worker(msgspec.Struct, frozen=True):
    """The process that decides: ``<name>#<incarnation>``. A name is held by one process at a time."""

    id: str


class Performing(msgspec.Struct, frozen=True):
    """The starts (event numbers) of this run that this process performs now, or whose results it is about to append."""

    starts: frozenset[int] = frozenset()
    unreported: frozenset[int] = frozenset()
    """Those of them that have ended but whose results are not stored yet, for instance while the broker is away."""

    unreportable: frozenset[int] = frozenset()
    """Those that have ended and of which a result could not be appended at all."""

    @property
    def running(self) -> frozenset[int]:
        """Those that are still being performed."""
        return self.starts - self.unreported - self.unreportable


class DeadWorkers(msgspec.Struct, frozen=True):
    """Workers of open starts that are known to be dead: they signed off, lost their name, or are silent.

    Silence is only a presumption, so a role relies on it only for what is safe to repeat.
    """

    workers: frozenset[str] = frozenset()


class IncomingTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that asks for a run.

    ``problem`` is set if the task cannot be read; then ``readable`` has the part that can be. ``existing_run`` is set
    if the key or run id is taken by another task, or, with a ``problem``, if that run was stopped before this task
    came. ``trace`` is the W3C ``traceparent`` as it was sent. ``asked_at`` is the moment at which the broker stored
    the task.
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
    """A control message for this run. ``signer`` is the person whose key signed it, empty if it is not signed.

    ``trusted``: the message is signed or came with the operator's credential, not with that of any client.
    """

    verb: Verb
    control: Control
    signer: str = ""
    signature_required: bool = False
    trusted: bool = False


class CurrentAgent(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's present version and its digest in the store, for an incoming task; None if there is none."""

    version: AgentVersion | None
    digest: str = ""


class PinnedAgent(msgspec.Struct, frozen=True, kw_only=True):
    """The version that this run was opened with; None if the store has lost it."""

    version: AgentVersion | None


class KillSwitches(msgspec.Struct, frozen=True, kw_only=True):
    """The kill switches that operators have closed; see ``schemas.kill_switches`` for their names."""

    revision: int = 0
    closed: frozenset[str] = frozenset()

    def first_closed(self, *names: str) -> str:
        """The first of ``names`` (or of those that close everything) that is closed, or an empty string."""
        return next((name for name in (EVERYTHING, UNREADABLE, *names) if name in self.closed), "")

    def first_closed_for(self, run: Run, *tools: str) -> str:
        """The first closed switch that concerns this run or one of these tools, or an empty string."""
        if run.opened is None:
            return self.first_closed(f"tenant:{run.tenant}")
        user = (f"user:{run.opened.task.user}",) if run.opened.task.user else ()
        agent = run.opened.agent.name
        return self.first_closed(f"tenant:{run.tenant}", f"agent:{agent}", *user, *(f"tool:{tool}" for tool in tools))


def kill_switch_message(name: str) -> str:
    """Return the sentence about a closed kill switch, the reason why nothing starts."""
    if name == UNREADABLE:
        return (
            "The stored kill switches cannot be read, so all count as closed; reset them: `linestop switch open all`."
        )
    return f"The kill switch '{name}' was closed by an operator."


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """How full the fullest of the streams is that a run needs, from 0.0 to 1.0, and the name of that stream."""

    used: float = 0.0
    stream: str = "RUNS"


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts' reply to the hold that this run wants now.

    ``refused_account`` names the account without room; then nothing is reserved. ``may_wait``: there may be room once
    other runs give back what they hold. ``cause`` is set if the accounts could not be changed, and says why.
    """

    hold: str
    amount_micros: int
    accounts: tuple[AccountLine, ...] = ()
    refused_account: str = ""
    may_wait: bool = False
    cause: str = ""


class Texts(msgspec.Struct, frozen=True, kw_only=True):
    """Blob contents by digest, where a decision must read an argument that is too long for an event."""

    by_sha256: dict[str, bytes] = {}


class ToolHere(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is in the process that would call it; ``contract`` is None where a replay does not know it."""

    grant: ToolGrant
    contract: Contract | None = None


class ToolsHere(msgspec.Struct, frozen=True, kw_only=True):
    """The tools of the process that would call them, by name: they may have been changed since a run was opened."""

    by_name: dict[str, ToolHere] = {}


class CheckFindings(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of the tools' own checks about results that wait for them: event number → findings."""

    by_event: dict[int, tuple[str, ...]] = {}


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Values that must never appear in an answer."""

    values: tuple[str, ...] = ()


Fact: TypeAlias = (
    Worker
    | Performing
    | DeadWorkers
    | IncomingTask
    | ControlMessage
    | CurrentAgent
    | PinnedAgent
    | KillSwitches
    | Space
    | Reservation
    | Texts
    | ToolsHere
    | CheckFindings
    | Secrets
)
