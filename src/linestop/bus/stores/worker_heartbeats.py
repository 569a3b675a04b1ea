"""Heartbeats of workers: one every two seconds for each role, and a last one with state ``ended`` on an orderly end.

A heartbeat is one key of a bucket, ``<role>.<name>``, which only that role's credential may write. Other workers count
the rounds in which a key did not change while their own heartbeats were stored. So neither an outage of the broker nor
a wrong clock makes a living worker look dead. Three heartbeats missed in a row do, but they are not a proof: a worker
that only lost its connection may still perform calls. Therefore only calls that are safe to repeat are taken over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import msgspec

from linestop.bus.interfaces import BucketValue
from linestop.schemas.defaults import HEARTBEAT_EVERY_S, HEARTBEATS_MISSED_MAX, LAG_MAX_S
from linestop.schemas.run.call_states import Attempt, incarnation_of
from linestop.schemas.subjects import RoleName

FORGET_AFTER_ROUNDS: Final = 1_800
"""Rounds after which a worker whose key expired is forgotten: an hour."""

WorkerState = Literal["working", "refusing", "ending", "ended"]


class ProcessLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The present load of a process. ``waiting`` runs wait for a free place; ``lag_s`` is the delay of its steps."""

    runs: int
    runs_max: int
    starts: int
    starts_max: int
    waiting: int
    lag_s: float

    @property
    def is_overloaded(self) -> bool:
        """Whether work waits because this process is busy."""
        return self.waiting > 0 or self.runs >= self.runs_max or self.lag_s > LAG_MAX_S

    @property
    def sentence(self) -> str:
        """The load as part of a sentence."""
        parts = [f"{self.runs} of {self.runs_max} runs", f"{self.starts} of {self.starts_max} starts"]
        if self.waiting:
            parts.append(f"{self.waiting} waiting for a place")
        if self.lag_s > LAG_MAX_S:
            parts.append(f"steps begin {self.lag_s:.2f} s late")
        return ", ".join(parts)


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A worker's report. ``worker`` is ``<name>#<incarnation>``, ``why`` the reason of a refusal.

    ``runs`` counts the open runs in its memory, ``starts`` those calls or requests that it performs for this role.
    ``clock_offset_s`` is how far its machine's clock is ahead of the broker's. ``load`` is the load of its process;
    workers of an older linestop do not report it.
    """

    role: RoleName
    worker: str
    host: str = ""
    version: str = ""
    started_at: datetime
    state: WorkerState = "working"
    why: str = ""
    clock_offset_s: float = 0.0
    runs: int = 0
    starts: int = 0
    load: ProcessLoad | None = None

    @property
    def is_overloaded(self) -> bool:
        """Whether work waits because the process is busy."""
        return self.load is not None and self.load.is_overloaded


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A heartbeat, the time at which the broker stored it, and whether the worker seems to be alive."""

    beat: Heartbeat
    last_beat: datetime
    alive: bool

    @property
    def is_working(self) -> bool:
        """Whether the worker performs its role now: it is alive, is not ending, and its clock lets it decide."""
        return self.alive and self.beat.state == "working"


def heartbeat_key(role: RoleName, worker: str) -> str:
    """Build the key of a worker's heartbeats for one role."""
    return f"{role}.{worker.partition('#')[0]}"


def read_heartbeat(value: BucketValue) -> Heartbeat | None:
    """Read a heartbeat; None if the value is not one, or is stored under another worker's key."""
    try:
        beat = msgspec.json.decode(value.value, type=Heartbeat)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return beat if heartbeat_key(beat.role, beat.worker) == value.key else None


@dataclass(slots=True)
class _KnownWorker:
    beat: Heartbeat
    version: tuple[int, datetime | None]
    missed: int = 0

    @property
    def is_dead(self) -> bool:
        return self.beat.state == "ended" or self.missed >= HEARTBEATS_MISSED_MAX


class Roster:
    """The workers known to one process, judged by its own rounds."""

    def __init__(self) -> None:
        self._known: dict[str, _KnownWorker] = {}
        self._rounds = 0

    def update(self, values: Iterable[BucketValue]) -> list[Heartbeat]:
        """Compare all stored heartbeats, after storing this process's own; return those of newly dead workers.

        A worker that a later one of the same name has replaced is among them.
        """
        self._rounds += 1
        died: list[Heartbeat] = []
        present = {value.key: value for value in values}
        for key, known in list(self._known.items()):
            if key in present:
                continue
            known.missed += 1
            if known.missed == HEARTBEATS_MISSED_MAX and known.beat.state != "ended":
                died.append(known.beat)
            elif known.missed > FORGET_AFTER_ROUNDS:
                del self._known[key]
        for key, value in present.items():
            if (dead := self._update_one(key, value)) is not None:
                died.append(dead)
        return died

    def _update_one(self, key: str, value: BucketValue) -> Heartbeat | None:
        known, version = self._known.get(key), (value.revision, value.stored_at)
        if known is not None and known.version == version:
            known.missed += 1
            return known.beat if known.missed == HEARTBEATS_MISSED_MAX and known.beat.state != "ended" else None
        beat = read_heartbeat(value)
        if beat is None:
            return None
        self._known[key] = _KnownWorker(beat, version)
        if known is None:
            return beat if beat.state == "ended" else None
        if known.beat.worker != beat.worker and not known.is_dead:
            return known.beat
        return beat if beat.state == "ended" and not known.is_dead else None

    def dead_workers(self, attempts: Iterable[Attempt]) -> frozenset[str]:
        """Return the workers of these open attempts known to be dead: ended, replaced under their name, or silent."""
        return frozenset(a.worker for a in attempts if self.is_dead("executor" if a.call else "planner", a.worker))

    def is_dead(self, role: RoleName, worker: str) -> bool:
        """Whether this incarnation is known to be dead; a worker without any heartbeat is not."""
        known = self._known.get(heartbeat_key(role, worker))
        if known is None:
            return False
        if known.beat.worker == worker:
            return known.is_dead
        return incarnation_of(worker) < incarnation_of(known.beat.worker)

    def is_missing(self, role: RoleName) -> bool:
        """Whether certainly no worker has this role now; False until this process has seen enough rounds to know."""
        return self._rounds > HEARTBEATS_MISSED_MAX and not any(
            known.beat.role == role and known.beat.state == "working" and known.missed < HEARTBEATS_MISSED_MAX
            for known in self._known.values()
        )


def workers(values: Iterable[BucketValue], now: datetime) -> list[WorkerStatus]:
    """Return all workers from their last heartbeats; ``now`` is a lower bound of the broker's time."""
    stored = [
        (beat, v.stored_at) for v in values if (beat := read_heartbeat(v)) is not None and v.stored_at is not None
    ]
    now = max([now, *(at for _, at in stored)])
    silent_s = HEARTBEAT_EVERY_S * (HEARTBEATS_MISSED_MAX + 1)
    return sorted(
        (
            WorkerStatus(
                beat=beat,
                last_beat=at,
                alive=beat.state != "ended" and (now - at).total_seconds() <= silent_s,
            )
            for beat, at in stored
        ),
        key=lambda worker: (worker.beat.role, worker.beat.worker),
    )
