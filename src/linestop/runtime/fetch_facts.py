"""Where the facts come from that a role may know besides the log."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import structlog

from linestop.actors.budget import needed_micros, wanted
from linestop.actors.facts import (
    CurrentAgent,
    DeadWorkers,
    Doors,
    Facts,
    Findings,
    Incoming,
    PinnedAgent,
    Reservation,
    Secrets,
    Space,
    Texts,
    ToolHere,
    ToolsHere,
    Worker,
)
from linestop.actors.role_protocol import Role
from linestop.actors.task_opening import grant
from linestop.bus.agent_versions import VERSIONS_MAX, AgentStore
from linestop.bus.interfaces import Blobs, Log, SharedValue
from linestop.bus.kill_switch_store import SwitchStore
from linestop.bus.worker_heartbeats import Roster
from linestop.errors import LinestopError
from linestop.off_loop import off_loop
from linestop.runtime.money.ledger import Accounts, Wanted
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AnyEvent, BlobRef, Held, Queued, Settled, Text
from linestop.schemas.kill_switches import KEY, UNREADABLE, closed_switches
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.state import Run
from linestop.schemas.tool_contracts import Contract

LOG = structlog.get_logger("linestop.facts")
Check = Callable[[str], tuple[str, ...]]
"""A tool's own check of its result (JSON text): what is wrong with it, or nothing."""


class FactSource:
    """Fetches what a role needs, and only that. The cheap facts are kept; the log stays the truth."""

    def __init__(  # noqa: PLR0913 - the ports it reads from
        self,
        *,
        agents: AgentStore,
        accounts: Accounts | None,
        blobs: Blobs,
        switches: SwitchStore,
        worker: str,
        roster: Roster | None = None,
        secrets: tuple[str, ...] = (),
        checks: Mapping[str, Check] | None = None,
        tools: Sequence[Contract] = (),
    ) -> None:
        self._agents = agents
        self._accounts = accounts
        self._blobs = blobs
        self._switches = switches
        self._checks = checks or {}
        self._worker = worker
        self._roster = roster or Roster()
        self._doors = Doors()
        self._space, self.space_bytes = Space(), 0
        self._space_at = -math.inf
        here = ToolsHere(by_name={tool.name: ToolHere(grant=grant(tool), contract=tool) for tool in tools})
        self._fixed: tuple[Any, ...] = (Worker(worker), Secrets(values=secrets), here)
        self._renew()

    def at_hand(self, run: Run, role: Role, now: datetime, extra: tuple[Any, ...]) -> Facts | None:
        """The facts for a decision if nothing must be fetched for it, which is the rule."""
        if extra or run.opened is None or self._dead(run, role):
            return None
        base, needs = self._bases.get(run.opened.agent.digest), role.needs
        if base is None or (Texts in needs and _long_texts(run)):
            return None
        if Reservation in needs and self._accounts is not None and self._must_ask(run, now, self._accounts):
            return None
        return None if Findings in needs and self._checks and Stage.CHECK in run.stages() else base

    async def gather(self, run: Run, role: Role, now: datetime, extra: tuple[Any, ...]) -> Facts:
        """The facts for one decision of ``role`` about ``run``."""
        needs = role.needs
        base = await self._base(run)
        facts: list[Any] = list(extra)
        if dead := self._dead(run, role):
            facts.append(DeadWorkers(dead))
        if extra and CurrentAgent in needs and run.opened is None:
            facts.extend([await self._current(fact.agent) for fact in extra if isinstance(fact, Incoming)])
        if Reservation in needs and self._accounts is not None and (found := await self._reservation(run, now)):
            facts.append(found)
        if Texts in needs and (texts := await self._texts(run)):
            facts.append(Texts(by_sha256=texts))
        if Findings in needs and (findings := await self._findings(run)):
            facts.append(Findings(by_event=findings))
        return base.with_(*facts) if facts else base

    def _dead(self, run: Run, role: Role) -> frozenset[str]:
        """The workers of this run's open starts that are known to be dead, where the role asks for that."""
        if DeadWorkers not in role.needs or not run.open_attempts:
            return frozenset()
        return self._roster.dead_among(run.open_attempts) - {self._worker}

    async def _base(self, run: Run) -> Facts:
        """What is the same for every decision about runs of one agent version, until a door or the space changes."""
        if run.opened is None:
            return self._plain
        digest = run.opened.agent.digest
        base = self._bases.get(digest)
        if base is None:
            version = await self._agents.version(digest)
            base = self._plain.with_(PinnedAgent(version=version))
            if version is not None and len(self._bases) < VERSIONS_MAX:
                self._bases[digest] = base
        return base

    async def pinned(self, run: Run) -> AgentVersion | None:
        """The agent's version that this run was opened with, if the store has it."""
        pinned = (await self._base(run)).get(PinnedAgent)
        return pinned.version if pinned else None

    def _renew(self) -> None:
        self._plain = Facts(*self._fixed, self._doors, self._space)
        self._bases: dict[str, Facts] = {}

    async def stored(self, run: Run, event: AnyEvent) -> None:
        """Tell the accounts what a run has spent and gives back, if that is what the event says."""
        if self._accounts is None or not isinstance(event, Settled | Queued):
            return
        held = {
            entry.event.hold: entry.event.accounts
            for entry in run.entries
            if isinstance(entry.event, Held) and not entry.ignored
        }
        await self._accounts.settle(event.holds, held)

    async def refresh(self, log: Log) -> bool:
        """Read the slow facts again: kill switches and space. Called now and then; a failure keeps the old ones.

        Returns whether it succeeded. A stored value that is not a list of kill switches closes all of them.
        """
        try:
            found = await self._switches.get()
            self._doors = Doors() if found is None else _doors(found)
            await self.room(log)
        except LinestopError as error:
            LOG.warning("facts_not_read", error=str(error))
            return False
        self._renew()
        return True

    async def room(self, log: Log) -> Space:
        """Read how much room there is; the facts have it from now on.

        ``space_bytes`` is the size of the stream with the least room, 0 if it is not known.
        """
        asked_at = asyncio.get_running_loop().time()
        fill = await log.fullest()
        if asked_at >= self._space_at:
            # An answer that took longer than that to a later question tells an older fill.
            self._space, self.space_bytes = Space(used=fill.used, stream=fill.stream), fill.bytes_max
            self._space_at = asked_at
            self._renew()
        return self._space

    @property
    def space(self) -> Space:
        """How much room there was when it was read last."""
        return self._space

    @property
    def space_age_s(self) -> float:
        """How long ago that was."""
        return asyncio.get_running_loop().time() - self._space_at

    async def _current(self, name: str) -> CurrentAgent:
        digest = await self._agents.current_digest(name)
        return CurrentAgent(version=await self._agents.version(digest) if digest else None, digest=digest)

    async def _reservation(self, run: Run, now: datetime) -> Reservation | None:
        hold, amount = wanted(run, now)
        if self._accounts is None or run.opened is None:
            return None
        if self._accounts.own.of_no_use(run):
            await self._accounts.give_up(run)
        if run.done and self._accounts.waits(run.tenant, run.run):
            await self._accounts.leave(run.tenant, run.run)
        if not amount:
            return None
        return await self._accounts.reserve(
            Wanted(
                hold=hold, least_micros=needed_micros(run, now), amount_micros=amount, tenant=run.tenant,
                user=run.opened.task.user, since=int(run.opened_at.timestamp() * 1_000),
            ),
            now,
        )  # fmt: skip

    @staticmethod
    def _must_ask(run: Run, now: datetime, accounts: Accounts) -> bool:
        """Whether the accounts are to be asked, or told of a hold or a place in the line that is of no use any more."""
        if accounts.own.of_no_use(run):
            return True
        return accounts.waits(run.tenant, run.run) if run.done else bool(wanted(run, now)[1])

    async def _texts(self, run: Run) -> dict[str, bytes]:
        return {ref.sha256: await self._blobs.get(run.tenant, ref.sha256) for ref in _long_texts(run)}

    async def _findings(self, run: Run) -> dict[int, tuple[str, ...]]:
        calls = run.proposal.calls if run.proposal else []
        return {
            call.finished_n: await off_loop(
                len(call.finished.result), partial(self._checks[call.tool], call.finished.result), give_up=True
            )
            for call in calls
            if call.stage is Stage.CHECK and call.finished is not None and call.tool in self._checks
        }


def _doors(found: SharedValue) -> Doors:
    """The closed kill switches; all of them where nobody knows which ones were."""
    try:
        return Doors(revision=found.revision, closed=closed_switches(found.value))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        LOG.error("kill_switches_unreadable", key=KEY, revision=found.revision, error=str(error))  # noqa: TRY400 - one line says it
        return Doors(revision=found.revision, closed=frozenset({UNREADABLE}))


def _long_texts(run: Run) -> list[BlobRef]:
    """Long arguments of calls that are to be judged or performed now."""
    texts: list[Text] = []
    for call in run.proposal.calls if run.proposal else ():
        if call.stage is Stage.PENDING:
            texts.append(call.raw_args)
        elif call.stage in {Stage.READY, Stage.OPEN, Stage.DOUBT} and call.judged is not None:
            texts.append(call.judged.args)
    return [text for text in texts if isinstance(text, BlobRef)]
