"""The log of a simulated worker: recorded for the checks, and as slow, full or late as the seed draws it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

import msgspec
from tests.sim.faults import SeedFaults, seconds
from tests.sim.hardships import Hardship
from tests.sim.loop import Process, SimLoop

from linestop.bus.interfaces import (
    Append,
    ChangesPosition,
    Fill,
    OnSent,
    RemovedRun,
    RunChanges,
    RunHead,
    RunKey,
    StoredMessage,
)
from linestop.bus.streams import stream_names
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import virtual_now

NEARLY_FULL: Final = 0.95
BLOCK_SHARE: Final = 0.05
"""How often a busy process blocks after a reply of the log."""

TAKE_SUBJECT_SHARE: Final = 0.9
CUTS: Final = 0.5
"""How often a worker is cut off when it appends the result of a first attempt."""


@dataclass(slots=True)
class LogAccess:
    """When a worker last loaded a run from the log, and when it last sent a start there, in true seconds."""

    asked_s: float = -1.0
    sent_s: float = -1.0


@dataclass(slots=True)
class WireRecord:
    """What happened on the wire, for the checks: log accesses by (process, tenant, run), disconnections and deaths.

    ``taken_subjects`` holds the positions in the log of messages that no role of linestop wrote.
    """

    hardship: Hardship = field(default_factory=Hardship)
    log_accesses: dict[tuple[str, str, str], LogAccess] = field(default_factory=dict[tuple[str, str, str], LogAccess])
    disconnections: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    died: dict[str, float] = field(default_factory=dict[str, float])
    taken_subjects: set[int] = field(default_factory=set[int])
    troubles: list[str] = field(default_factory=list[str])

    def record_death(self, process: str) -> None:
        """Record when a process died."""
        self.died.setdefault(process, seconds())

    def proof(self, process: str, tenant: str, run: str) -> tuple[float, float]:
        """When this process last sent a start of this run, and when it last loaded its log."""
        access = self.log_accesses.get((process, tenant, run), LogAccess())
        return access.sent_s, access.asked_s


class WatchedLog:
    """The log of a worker; records when the worker loaded a run and when it started something."""

    def __init__(self, broker: MemoryBroker, role: RoleName, process: Process, wire_record: WireRecord) -> None:
        self._broker = broker
        self._log = broker.log([role])
        self._process = process
        self._wire_record = wire_record
        self._hardship = wire_record.hardship
        self._chance = random.Random(f"{process.name}:{role}:{wire_record.hardship}")

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Append an event; record when a start was sent."""
        if append.event == "started":
            self._access(append.tenant, append.run).sent_s = seconds()
        if (
            append.event == "opened"
            and self._hardship.is_active("squatter")
            and self._chance.random() < TAKE_SUBJECT_SHARE
        ):
            self._take_subject(append)
        attempt = self._attempt_to_cut_at(append)
        if attempt == 1 and self._chance.random() < CUTS:
            self._cut_off()
        seq = await self._log.append(append, on_sent=on_sent)
        if attempt > 1:
            self._broker_faults().plan.partitions.clear()
            self._cut_off()
        self._block_process()
        return seq

    async def load(
        self, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """Load a run; record the time of the request, unless a lagging replica answers, which proves nothing."""
        asked_s, is_lagging = seconds(), self._hardship.is_active("replica lags") and not leader
        stored = await self._log.load(tenant, run, after_seq=after_seq, leader=leader)
        if is_lagging:
            return [message for message in stored if self._has_arrived(message.seq)]
        access = self._access(tenant, run)
        access.asked_s = max(access.asked_s, asked_s)
        self._block_process()
        return stored

    async def moved(self, heads: Collection[RunHead]) -> set[RunKey]:
        """Ask which runs moved; the time of the request is recorded as that of a read."""
        asked_s = seconds()
        found = await self._log.moved(heads)
        for tenant, run, _ in heads:
            access = self._access(tenant, run)
            access.asked_s = max(access.asked_s, asked_s)
        self._block_process()
        return found

    async def message_at(self, seq: int) -> StoredMessage | None:
        """See ``Log``."""
        return await self._log.message_at(seq)

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """See ``Log``."""
        return await self._log.page(after_seq=after_seq)

    async def head(self, tenant: TenantId, run: RunId) -> StoredMessage | None:
        """See ``Log``."""
        return await self._log.head(tenant, run)

    async def open_runs(self) -> list[tuple[TenantId, RunId]]:
        """See ``Log``."""
        return await self._log.open_runs()

    async def run_changes(self, after: ChangesPosition | None) -> RunChanges:
        """See ``Log``."""
        return await self._log.run_changes(after)

    async def replicated(self) -> bool:
        """Whether replicas may lag."""
        return self._hardship.kind == "replica lags"

    async def removed_run(self, tenant: TenantId, run: RunId) -> RemovedRun | None:
        """See ``Log``."""
        return await self._log.removed_run(tenant, run)

    async def fills(self) -> list[Fill]:
        """See ``Log``."""
        return await self._log.fills()

    async def fullest(self) -> Fill:
        """See ``Log``."""
        if self._hardship.is_active("runs full"):
            return Fill(stream=stream_names.RUNS, used=NEARLY_FULL)
        return await self._log.fullest()

    def _has_arrived(self, seq: int) -> bool:
        stored = self._broker.stream(stream_names.RUNS).at(seq)
        return stored is not None and stored.stored_at <= virtual_now() - timedelta(seconds=self._hardship.amount)

    def _block_process(self) -> None:
        """Block the process for a while, now and then."""
        if not self._hardship.is_active("busy") or self._process.frozen or self._chance.random() >= BLOCK_SHARE:
            return
        loop, process = cast("SimLoop", asyncio.get_running_loop()), self._process
        for_s = self._chance.uniform(0.0, self._hardship.amount)
        process.frozen = True
        self._wire_record.disconnections.append((process.name, seconds(), seconds() + for_s))
        loop.call_later(for_s, process.thaw, loop, context=loop.outside.copy())

    def _attempt_to_cut_at(self, append: Append) -> int:
        """The attempt whose result this is; 0 if this is not a result, or no worker is cut off at results."""
        if append.event != "finished" or not self._hardship.is_active("workers cut") or not self._hardship.amount:
            return 0
        return int(msgspec.json.decode(append.payload)["attempt"])

    def _cut_off(self) -> None:
        """Cut this process off from the broker for a while."""
        worker, for_s = self._process.name.partition("#")[0], self._hardship.amount * self._chance.uniform(0.9, 1.6)
        self._broker_faults().plan.partitions.setdefault(worker, []).append((seconds(), seconds() + for_s))

    def _broker_faults(self) -> SeedFaults:
        return cast("SeedFaults", self._broker.faults)

    def _take_subject(self, append: Append) -> None:
        """Write a message that is not an event of the run at its head, as a thief of a credential can."""
        stream = self._broker.stream(stream_names.RUNS)
        n = len(self._wire_record.taken_subjects) + 100
        subject = f"runs.{append.tenant}.{append.run}.planner.proposed.{n}"
        self._wire_record.taken_subjects.add(stream.publish(subject, b"{}"))

    def _access(self, tenant: str, run: str) -> LogAccess:
        return self._wire_record.log_accesses.setdefault((self._process.name, tenant, run), LogAccess())
