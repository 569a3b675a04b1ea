"""The presence of one process on the bus: its heartbeats, those of others, and its clock against the broker's.

One round every two seconds: store a heartbeat for each role, read those of others, count the workers that missed one. A
round to which the broker did not reply counts against no worker. The clock is compared with the time at which the
broker stored the first heartbeat: at the start, every minute, and every round while the process refuses to decide.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from linestop.bus.interfaces import Bucket, BucketValue
from linestop.bus.stores.worker_heartbeats import (
    Heartbeat,
    ProcessLoad,
    Roster,
    WorkerState,
    heartbeat_key,
    read_heartbeat,
)
from linestop.clock import Clock
from linestop.errors import Conflict, LinestopError
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.workers.worker_names import host_name
from linestop.schemas.defaults import HEARTBEAT_EVERY_S
from linestop.schemas.run.call_states import incarnation_of
from linestop.schemas.subjects import RoleName

LOG = structlog.get_logger("linestop.workers")
COMPARE_EVERY: Final = timedelta(seconds=60)
LAST_HEARTBEAT_WITHIN_S: Final = 2.0


class RoleLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs a process works on, how many starts it performs for one role, and its load altogether."""

    runs: int
    starts: int
    process: ProcessLoad


class GetLoad(Protocol):
    """Returns the load of a process; called once for each role and round."""

    def __call__(self, role: RoleName) -> RoleLoad:
        """Return the load of the process in this role."""
        ...


@dataclass(slots=True, kw_only=True)
class PresenceCallbacks:
    """Called for workers that died, and for a clock that went wrong (with the reason) or right again (empty)."""

    on_deaths: Callable[[list[Heartbeat]], None]
    on_clock: Callable[[str], Awaitable[None]]


class Presence:
    """Sends heartbeats for the roles of one process. ``compare_clock`` False leaves its clock as it is."""

    def __init__(
        self,
        buckets: Mapping[RoleName, Bucket],
        clock: Clock,
        *,
        worker: str,
        load: GetLoad,
        compare_clock: bool = True,
    ) -> None:
        self.roster = Roster()
        self.state: WorkerState = "working"
        self.callbacks: PresenceCallbacks | None = None
        self._buckets = dict(buckets)
        self._clock = clock
        self._worker = worker
        self._load = load
        self._compare_clock = compare_clock
        self._compare_at: datetime | None = None
        self._revisions: dict[RoleName, int] = {}
        self._started_at: datetime | None = None
        self._version = _own_version()
        self._is_failing = False
        self._reported_refusal = ""

    @asynccontextmanager
    async def sending_heartbeats(self) -> AsyncGenerator[None]:
        """Send heartbeats while the block runs, and a last one at its end. The block begins after the first round."""
        await self._round_safely()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            # Shielded in `finally`, because the scope around this block is cancelled by the time that it ends.
            with anyio.move_on_after(LAST_HEARTBEAT_WITHIN_S, shield=True):
                self.state = "ended"
                for role in self._buckets:
                    await self._store_heartbeat_safely(role)

    async def _run(self) -> None:
        while True:
            await anyio.sleep(HEARTBEAT_EVERY_S)
            await self._round_safely()

    async def _round_safely(self) -> None:
        try:
            await self.round()
        except LinestopError as error:
            if not self._is_failing:
                LOG.warning("heartbeat_failed", worker=self._worker, error=str(error))
            self._is_failing = True
        except Exception:
            # An unreadable value of another process must not end the heartbeats of this one.
            LOG.exception("heartbeat_failed", worker=self._worker)
        else:
            self._is_failing = False

    async def round(self) -> None:
        """Send one heartbeat for each role, then read those of others."""
        first = next(iter(self._buckets))
        before = self._clock.now()
        await self._store_heartbeat(first)
        after = self._clock.now()
        for role in list(self._buckets)[1:]:
            await self._store_heartbeat(role)
        values = await self._read(first)
        own = next((value for value in values if value.key == heartbeat_key(first, self._worker)), None)
        if own is not None and own.stored_at is not None and own.revision == self._revisions.get(first):
            await self._compare(before, own.stored_at, after)
        dead = [heartbeat for heartbeat in self.roster.update(values) if heartbeat.worker != self._worker]
        if dead and self.callbacks is not None:
            self.callbacks.on_deaths(dead)

    async def _read(self, first: RoleName) -> list[BucketValue]:
        """Return all heartbeats for a recorder, which watches every role, else those of this process's roles."""
        if "recorder" in self._buckets:
            return await self._buckets["recorder"].values("")
        return [value for role in self._buckets for value in await self._buckets[first].values(f"{role}.")]

    async def _compare(self, before: datetime, stored_at: datetime, after: datetime) -> None:
        clock = self._clock
        due = self._compare_at is None or self._clock.now() >= self._compare_at
        if not self._compare_clock or not (due or clock.refusal):
            return
        loads = [self._load(role) for role in self._buckets]
        clock.compare(
            before,
            stored_at,
            after,
            performing=any(load.starts for load in loads),
            has_open_runs=any(load.runs for load in loads),
        )
        self._compare_at = clock.now() + COMPARE_EVERY
        if clock.refusal != self._reported_refusal:
            self._reported_refusal = clock.refusal
            if clock.refusal:
                LOG.warning("clock_off", worker=self._worker, sentence=f"{self._worker}: {clock.refusal}")
            if self.callbacks is not None:
                await self.callbacks.on_clock(clock.refusal)

    async def _store_heartbeat_safely(self, role: RoleName) -> None:
        try:
            await self._store_heartbeat(role)
        except LinestopError as error:
            LOG.info("last_heartbeat_failed", worker=self._worker, error=str(error))

    async def _store_heartbeat(self, role: RoleName) -> None:
        """Store a heartbeat over the last one of this name, unless a later holder of the name already sends some."""
        bucket, key = self._buckets[role], heartbeat_key(role, self._worker)
        value = msgspec.json.encode(self._heartbeat(role))
        try:
            if role in self._revisions:
                self._revisions[role] = await bucket.update(key, value, revision=self._revisions[role])
            else:
                self._revisions[role] = await bucket.create(key, value)
        except Conflict:
            value_now = await bucket.get(key)
            if value_now is None:
                self._revisions[role] = await bucket.create(key, value)
                return
            heartbeat = read_heartbeat(value_now)
            if heartbeat is not None and incarnation_of(heartbeat.worker) > incarnation_of(self._worker):
                raise Conflict(
                    f"Another process works under the name of {self._worker}: give each worker its own name."
                ) from None
            self._revisions[role] = await bucket.update(key, value, revision=value_now.revision)

    def _heartbeat(self, role: RoleName) -> Heartbeat:
        self._started_at = self._started_at or self._clock.now()
        load = self._load(role)
        is_refusing = bool(self._clock.refusal) and self.state == "working"
        return Heartbeat(
            role=role,
            worker=self._worker,
            host=host_name(),
            version=self._version,
            started_at=self._started_at,
            state="refusing" if is_refusing else self.state,
            why=self._clock.refusal if is_refusing else "",
            clock_offset_s=self._clock.offset_s,
            runs=load.runs,
            starts=load.starts,
            load=load.process,
        )


def count_starts(at_work: Iterable[CachedRun], role: RoleName) -> int:
    """Return the number of starts that are performed for ``role`` in these runs."""
    if role not in {"planner", "executor"}:
        return 0
    # After a fold was discarded its attempts are unknown; such a start counts for either role.
    found = [entry.run.attempts.get(n) for entry in at_work for n in entry.performing]
    return sum(1 for attempts in found if not attempts or bool(attempts[0].call) == (role == "executor"))


def _own_version() -> str:
    try:
        return version("linestop")
    except PackageNotFoundError:
        return ""
