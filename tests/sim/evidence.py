"""The evidence for the checks: the stored log, the world outside, and every value of the accounts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from tests.sim.faults import FaultPlan
from tests.sim.hardships import Hardship
from tests.sim.outside import OutsideWorld
from tests.sim.people import Acknowledged, FoldedRuns
from tests.sim.watched import WireRecord

from linestop.bus.streams import stream_names
from linestop.runtime.money.account_state import Account
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.memory.stream import Stored

SETTLED_S = 12.0
"""How long after the last fault a reply may still be on its way, and a process may wait for it."""

ACCOUNTS = stream_names.bucket_key(stream_names.SHARED_BUCKET, "account.")


class Ledger:
    """Every value that an account ever had, checked against its limit as it is written."""

    def __init__(self, broker: MemoryBroker, limits: AccountLimits) -> None:
        self.problems: list[str] = []
        self._limits = limits
        self._last: dict[str, Account] = {}
        self._in_log: dict[str, dict[str, Any]] = {}
        self._settled: set[str] = set()
        self.holds_made_again: dict[str, set[str]] = {}
        """Account → holds that an overtaken worker made again after they were settled: charged again if it dies."""

        broker.stream(stream_names.bucket_stream(stream_names.SHARED_BUCKET)).listeners.append(self._on_account_written)
        broker.stream(stream_names.RUNS).listeners.append(self._on_event)

    def open_holds(self) -> dict[str, list[str]]:
        """The current holds: account → holds."""
        return {key: sorted(account.holds) for key, account in self._last.items() if account.holds}

    def spent(self) -> dict[str, int]:
        """The spending of each account and period, in micro-dollars."""
        return {key: account.spent for key, account in self._last.items()}

    def _on_account_written(self, stored: Stored) -> None:
        if not stored.subject.startswith(ACCOUNTS):
            return
        key = stored.subject.removeprefix(ACCOUNTS)
        before, account = self._last.get(key, Account()), msgspec.json.decode(stored.payload, type=Account)
        self._last[key] = account
        self.holds_made_again.setdefault(key, set()).update(
            (account.holds.keys() - before.holds.keys()) & self._settled
        )
        if account.taken > self._limit(key):
            self.problems.append(f"P4: account {key} has {account.taken} taken of at most {self._limit(key)}")
        for held in self._in_log.values():
            self._check_hold_covered(held, key)

    def _on_event(self, stored: Stored) -> None:
        """A hold of the log must be in its accounts, from its ``held`` event to ``settled``."""
        if ".budget.held." in stored.subject:
            held: dict[str, Any] = msgspec.json.decode(stored.payload)
            self._in_log[held["hold"]] = held
            for line in held.get("accounts", []):
                self._check_hold_covered(held, f"{line['account']}.{line['period']}")
        elif ".budget.settled." in stored.subject or ".budget.queued." in stored.subject:
            for line in msgspec.json.decode(stored.payload).get("holds", []):
                self._in_log.pop(line["hold"], None)
                self._settled.add(line["hold"])

    def _check_hold_covered(self, held: dict[str, Any], key: str) -> None:
        if all(f"{line['account']}.{line['period']}" != key for line in held.get("accounts", [])):
            return
        amount, _ = self._last.get(key, Account()).holds.get(held["hold"], (0, 0))
        if amount < held["amount_micros"]:
            name = held["hold"]
            self.problems.append(f"P4: account {key} has {amount} held for {name}, the log {held['amount_micros']}")

    def _limit(self, key: str) -> int:
        if key.startswith("system."):
            return self._limits.system_hour_micros
        return self._limits.tenant_day_micros if key.startswith("tenant-") else self._limits.user_day_micros


@dataclass(slots=True, frozen=True)
class LoggedEvent:
    """One stored event: the parts of its subject, the payload as plain JSON, and when the broker stored it."""

    n: int
    role: str
    name: str
    ignored: str
    event: dict[str, Any]
    stored_s: float

    @property
    def role_and_event(self) -> str:
        """``role.event``."""
        return f"{self.role}.{self.name}"

    def __str__(self) -> str:
        """The name of the event in sentences."""
        return f"event {self.n} ({self.role_and_event})"


@dataclass(slots=True)
class RunEvidence:
    """One run: its fold, and its events that count."""

    tenant: TenantId
    run: RunId
    fold: Run
    entries: list[LoggedEvent]

    @property
    def name(self) -> str:
        """The name of the run in sentences."""
        return f"{self.tenant}/{self.run}"

    def events(self, *what: str) -> Iterator[LoggedEvent]:
        """The events of these names (``role.event``, or ``stopped`` of any role) that count."""
        for entry in self.entries:
            if not entry.ignored and (entry.role_and_event in what or entry.name in what):
                yield entry

    @property
    def opened(self) -> dict[str, Any] | None:
        """The payload of ``opened``."""
        return next((entry.event for entry in self.events("validator.opened")), None)

    @property
    def stop(self) -> LoggedEvent | None:
        """The first stop."""
        return next(self.events("stopped"), None)

    def tool(self, name: str) -> dict[str, Any]:
        """The grant of a tool that ``opened`` pins."""
        tools: list[dict[str, Any]] = self.opened["tools"] if self.opened else []
        return next(tool for tool in tools if tool["name"] == name)


@dataclass(slots=True)
class Evidence:
    """All evidence of one seed."""

    broker: MemoryBroker
    folded_runs: FoldedRuns
    outside: OutsideWorld
    wire_record: WireRecord
    acknowledged: Acknowledged
    ledger: Ledger
    fault_plan: FaultPlan
    calm_s: float
    hardship: Hardship
    began: datetime
    runs: list[RunEvidence] = field(default_factory=list[RunEvidence])

    def __post_init__(self) -> None:
        """Read the log."""
        self.runs = [self._run(fold) for fold in self.folded_runs.runs.values()]

    def seconds(self, moment: datetime) -> float:
        """True seconds since the simulation began."""
        return (moment - self.began).total_seconds()

    def was_connected(self, process: str, from_s: float, to_s: float) -> bool:
        """Whether a process lived, ran and could reach the broker all that time."""
        name = process.partition("#")[0]
        cuts = [*self.fault_plan.outages, *self.fault_plan.partitions.get(name, [])]
        cuts += [(begin, end) for who, begin, end in self.wire_record.disconnections if who == process]
        return all(end <= from_s or begin >= to_s for begin, end in cuts)

    @property
    def settled_s(self) -> float:
        """The time after which no reply is late any more and no fault has consequences."""
        return 0.0 if self.hardship.kind == "provider away" else self.calm_s + SETTLED_S

    def all_connected(self, from_s: float, to_s: float) -> bool:
        """Whether every process lived, ran and could reach the broker all that time, without a possible fault."""
        times = [
            *self.fault_plan.outages,
            *((begin, end) for _, begin, end in self.wire_record.disconnections if end != float("inf")),
        ]
        return from_s >= self.settled_s and all(end <= from_s or begin >= to_s for begin, end in times)

    def _run(self, fold: Run) -> RunEvidence:
        stream = self.broker.stream(stream_names.RUNS)
        logged: list[LoggedEvent] = []
        for entry in fold.entries:
            if entry.seq in self.wire_record.taken_subjects:
                continue
            stored = stream.at(entry.seq)
            assert stored is not None
            body: dict[str, Any] = msgspec.json.decode(stored.payload)
            at_s = self.seconds(stored.stored_at)
            logged.append(LoggedEvent(entry.n, entry.role, entry.name, entry.ignored, body, at_s))
        return RunEvidence(fold.tenant, fold.run, fold, logged)
