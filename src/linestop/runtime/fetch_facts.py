"""Fetches the facts that a role may know besides the log."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec
import structlog

from linestop.actors.budget import next_hold, next_hold_min_micros
from linestop.actors.facts import (
    CheckFindings,
    CurrentAgent,
    DeadWorkers,
    Fact,
    IncomingTask,
    KillSwitches,
    PinnedAgent,
    Reservation,
    Secrets,
    Space,
    Texts,
    ToolHere,
    ToolsHere,
    Worker,
)
from linestop.actors.judging.task_acceptance import tool_grant
from linestop.actors.role_facts import RoleFacts
from linestop.actors.role_protocol import AnyRole
from linestop.bus.interfaces import Blobs, BucketValue, Log
from linestop.bus.stores.agent_versions import VERSIONS_MAX, AgentStore
from linestop.bus.stores.kill_switch_store import KillSwitchStore
from linestop.bus.stores.worker_heartbeats import Roster
from linestop.errors import LinestopError
from linestop.off_loop import off_loop
from linestop.runtime.money.holds import HoldRequest
from linestop.runtime.money.ledger import AccountLedger
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import AnyEvent, BlobRef, Held, Queued, Settled, Text
from linestop.schemas.kill_switches import KEY, UNREADABLE, closed_switches
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.schemas.tool_contracts import Contract

LOG = structlog.get_logger("linestop.facts")
ResultCheck = Callable[[str], tuple[str, ...]]
"""A tool's own check of its result (JSON text): returns the errors, or nothing."""


class FactSource:
    """Fetches only the facts that a role needs. Facts that rarely change are cached; the log stays the truth."""

    def __init__(  # noqa: PLR0913 - the ports it reads from
        self,
        *,
        agents: AgentStore,
        ledger: AccountLedger | None,
        blobs: Blobs,
        switches: KillSwitchStore,
        worker: str,
        roster: Roster | None = None,
        secrets: tuple[str, ...] = (),
        checks: Mapping[str, ResultCheck] | None = None,
        tools: Sequence[Contract] = (),
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._blobs = blobs
        self._switches = switches
        self._checks = checks or {}
        self._worker = worker
        self._roster = roster or Roster()
        self._kill_switches = KillSwitches()
        self._space, self.space_bytes = Space(), 0
        self._space_at = -math.inf
        here = ToolsHere(by_name={tool.name: ToolHere(grant=tool_grant(tool), contract=tool) for tool in tools})
        self._constant_facts: tuple[Fact, ...] = (Worker(worker), Secrets(values=secrets), here)
        self._rebuild()

    def facts_at_hand(self, run: Run, role: AnyRole, now: datetime, extra_facts: tuple[Fact, ...]) -> RoleFacts | None:
        """Return the facts for a decision if none must be fetched, which is the usual case; otherwise None."""
        if extra_facts or run.opened is None or self._dead_workers(run, role):
            return None
        base, needs = self._facts_at_hand.get((run.opened.agent.digest, role.name)), role.facts_type.kinds()
        if base is None or (Texts in needs and _long_texts(run)):
            return None
        if Reservation in needs and self._ledger is not None and self._must_ask_ledger(run, now, self._ledger):
            return None
        return None if CheckFindings in needs and self._checks and Stage.CHECK in run.stages() else base

    async def gather(self, run: Run, role: AnyRole, now: datetime, extra_facts: tuple[Fact, ...]) -> RoleFacts:
        """Return the facts for one decision of ``role`` about ``run``."""
        needs = role.facts_type.kinds()
        base = await self._base_facts(run, role)
        facts: list[Fact] = list(extra_facts)
        if dead := self._dead_workers(run, role):
            facts.append(DeadWorkers(dead))
        if extra_facts and CurrentAgent in needs and run.opened is None:
            facts.extend(
                [await self._current_agent(fact.agent) for fact in extra_facts if isinstance(fact, IncomingTask)]
            )
        if Reservation in needs and self._ledger is not None and (reservation := await self._reservation(run, now)):
            facts.append(reservation)
        if Texts in needs and (texts := await self._texts(run)):
            facts.append(Texts(by_sha256=texts))
        if CheckFindings in needs and (findings := await self._findings(run)):
            facts.append(CheckFindings(by_event=findings))
        return base.with_facts(*facts) if facts else base

    def _dead_workers(self, run: Run, role: AnyRole) -> frozenset[str]:
        """Return the workers of this run's open starts that are known to be dead, if the role needs that fact."""
        if DeadWorkers not in role.facts_type.kinds() or not run.open_attempts:
            return frozenset()
        return self._roster.dead_workers(run.open_attempts) - {self._worker}

    async def _base_facts(self, run: Run, role: AnyRole) -> RoleFacts:
        """Return the facts of a role about all runs of one agent version, until a switch or the space changes."""
        if run.opened is None:
            return self._common_facts(role)
        key = (run.opened.agent.digest, role.name)
        base = self._facts_at_hand.get(key)
        if base is None:
            version = await self.pinned_agent(run)
            base = self._common_facts(role).with_facts(PinnedAgent(version=version))
            if version is not None and len(self._facts_at_hand) < VERSIONS_MAX * len(ACTORS):
                self._facts_at_hand[key] = base
        return base

    def _common_facts(self, role: AnyRole) -> RoleFacts:
        facts: RoleFacts = role.facts_type.of((*self._constant_facts, self._kill_switches, self._space))
        return facts

    async def pinned_agent(self, run: Run) -> AgentVersion | None:
        """Return the agent's version that this run was opened with, if the store has it."""
        return await self._agents.version(run.opened.agent.digest) if run.opened else None

    def _rebuild(self) -> None:
        self._facts_at_hand: dict[tuple[str, RoleName], RoleFacts] = {}

    async def settle_accounts(self, run: Run, event: AnyEvent) -> None:
        """Charge and release a run's holds in the accounts, if the event settles any."""
        if self._ledger is None or not isinstance(event, Settled | Queued):
            return
        held = {
            entry.event.hold: entry.event.accounts
            for entry in run.entries
            if isinstance(entry.event, Held) and not entry.ignored
        }
        await self._ledger.settle(event.holds, held)

    async def refresh(self, log: Log) -> bool:
        """Read kill switches and space again. Called at intervals; after a failure the old facts stay.

        Returns whether it succeeded. A stored value that is not a list of kill switches closes all of them.
        """
        try:
            stored_value = await self._switches.get()
            self._kill_switches = KillSwitches() if stored_value is None else _read_kill_switches(stored_value)
            await self.read_space(log)
        except LinestopError as error:
            LOG.warning("facts_not_read", error=str(error))
            return False
        self._rebuild()
        return True

    async def read_space(self, log: Log) -> Space:
        """Read how much space there is; the facts contain it from now on.

        ``space_bytes`` is the size of the stream with the least space left, 0 if it is not known.
        """
        asked_at = asyncio.get_running_loop().time()
        fill = await log.fullest()
        if asked_at >= self._space_at:
            # A reply that arrives after that of a later request is skipped: its figure is older.
            self._space, self.space_bytes = Space(used=fill.used, stream=fill.stream), fill.bytes_max
            self._space_at = asked_at
            self._rebuild()
        return self._space

    @property
    def space(self) -> Space:
        """The space as it was read last."""
        return self._space

    @property
    def space_age_s(self) -> float:
        """Seconds since the space was read last."""
        return asyncio.get_running_loop().time() - self._space_at

    async def _current_agent(self, name: str) -> CurrentAgent:
        digest = await self._agents.current_digest(name)
        return CurrentAgent(version=await self._agents.version(digest) if digest else None, digest=digest)

    async def _reservation(self, run: Run, now: datetime) -> Reservation | None:
        hold, amount = next_hold(run, now)
        if self._ledger is None or run.opened is None:
            return None
        if self._ledger.own_holds.is_obsolete(run):
            await self._ledger.release_own_hold(run)
        if run.done and self._ledger.is_waiting(run.tenant, run.run):
            await self._ledger.leave_line(run.tenant, run.run)
        if not amount:
            return None
        return await self._ledger.reserve(
            HoldRequest(
                hold=hold,
                amount_min_micros=next_hold_min_micros(run, now),
                amount_micros=amount,
                tenant=run.tenant,
                user=run.opened.task.user,
                opened_at_ms=int(run.opened_at.timestamp() * 1_000),
            ),
            now,
        )

    @staticmethod
    def _must_ask_ledger(run: Run, now: datetime, ledger: AccountLedger) -> bool:
        """Whether the accounts must be asked for a hold, or be given back a hold or a place in line."""
        if ledger.own_holds.is_obsolete(run):
            return True
        return ledger.is_waiting(run.tenant, run.run) if run.done else bool(next_hold(run, now)[1])

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


def _read_kill_switches(value: BucketValue) -> KillSwitches:
    """Return the closed kill switches; all of them if the stored value is unreadable."""
    try:
        return KillSwitches(revision=value.revision, closed=closed_switches(value.value))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        LOG.error("kill_switches_unreadable", key=KEY, revision=value.revision, error=str(error))  # noqa: TRY400 - the message is enough
        return KillSwitches(revision=value.revision, closed=frozenset({UNREADABLE}))


def _long_texts(run: Run) -> list[BlobRef]:
    """Return the long arguments of calls that are to be judged or performed now."""
    texts: list[Text] = []
    for call in run.proposal.calls if run.proposal else ():
        if call.stage is Stage.PENDING:
            texts.append(call.raw_args)
        elif call.stage in {Stage.READY, Stage.OPEN, Stage.UNKNOWN_OUTCOME} and call.judged is not None:
            texts.append(call.judged.args)
    return [text for text in texts if isinstance(text, BlobRef)]
