"""The shell's interfaces to the broker, as small protocols.

Each has two implementations: ``linestop.bus.jetstream`` on the real server and ``linestop.testing.memory`` in this
process, under virtual time. One conformance suite runs on both.

Nothing here decides anything. The run log is the only truth. Everything else is a hint (wakes), a copy (blobs,
outcomes) or a shared figure that compare-and-set checks again (values of buckets).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from datetime import datetime
from functools import cached_property
from typing import Protocol

import msgspec

from linestop.errors import Conflict
from linestop.schemas.broker_defaults import DELIVERIES_IN_FLIGHT_MAX
from linestop.schemas.subjects import DeltaSubject, RoleName, RunId, TenantId, run_event


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the run log as it is stored: ``seq`` is its sequence in the stream, ``payload`` is unchanged."""

    subject: str
    payload: bytes
    seq: int


class LiveMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it passes by: a republished event, with its sequence in RUNS, or a hint, with sequence 0."""

    subject: str
    payload: bytes = b""
    seq: int = 0


class HeadMoved(Conflict):
    """Raised when another event came first. ``head_seq`` is the sequence of the run's last message, 0 if unknown."""

    def __init__(self, message: str, *, head_seq: int = 0) -> None:
        super().__init__(message)
        self.head_seq = head_seq


class Append(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One compare-and-append.

    ``head_seq`` is the stream sequence of the run's last message, events without effect included; 0 for a new run.
    Its subject and payload together identify a repeated append.
    """

    tenant: TenantId
    run: RunId
    role: RoleName
    event: str
    n: int
    head_seq: int
    payload: bytes

    @cached_property
    def subject(self) -> str:
        """The subject of the event: ``runs.<tenant>.<run>.<role>.<event>.<n>``."""
        return run_event(self.tenant, self.run, role=self.role, event=self.event, n=self.n)


OnSent = Callable[[], None]
"""Called while an append is in flight; an exception it raises is raised by the append."""


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """How full a stream is, from 0.0 to 1.0 (0.0 without a limit), and its limit in bytes (0 if unknown)."""

    stream: str
    used: float
    bytes_max: int = 0


class RemovedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a stored outcome about a run whose log, or its beginning, was removed from RUNS.

    An outcome of an older linestop says nothing about the key.
    """

    status: str = ""
    why: str = ""
    gave_key_back: bool = False
    asked_at: datetime | None = None

    @property
    def key_is_free(self) -> bool:
        """Whether the key of its task may name another run."""
        return self.gave_key_back or self.status == "refused"

    @property
    def stopped_beforehand(self) -> bool:
        """Whether the run was stopped before its task arrived."""
        return self.gave_key_back and self.asked_at is None and self.status != "refused"


def read_removed_run(outcome: bytes) -> RemovedRun:
    """Read how a run ended from its stored outcome; a run with an unreadable outcome has ended too."""
    try:
        return msgspec.json.decode(outcome, type=RemovedRun)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return RemovedRun()


RunKey = tuple[TenantId, RunId]


class ChangesPosition(msgspec.Struct, frozen=True):
    """The sequences of the last first event and of the last seal that a reader has seen."""

    begun_seq: int = 0
    sealed_seq: int = 0


class RunChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The runs that began and that were sealed since a position, each in the order of the log, and the next position.

    A run can be in both: then it is over.
    """

    begun: list[RunKey] = []
    sealed: list[RunKey] = []
    position: ChangesPosition


RunHead = tuple[TenantId, RunId, int]
"""A run and the number of its last event, as far as the asker knows."""


class Log(Protocol):
    """The run log as one credential sees it."""

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Store the event if the run's head is still ``append.head_seq``; return its stream sequence.

        ``on_sent`` is called at least once after the event was sent and before the reply arrives.

        A repeated append of the same event returns the sequence of the first. If no reply arrives, the event's
        own subject is read to learn whether the event is stored.

        Raises:
            HeadMoved: another event came first.
            Unreachable: the broker did not answer, so it is unknown whether the event is stored. Appending the
                same ``Append`` again is safe.
            TooLarge: the payload is over ``MESSAGE_BYTES_MAX``, or the stream is full.
            PermissionDenied: this credential may not append that event.
        """
        ...

    async def load(
        self, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """Return all messages of the run above the sequence ``after_seq``, in order, however many there are.

        ``leader`` reads from the stream's leader instead of any replica. A reader that knows of an event which
        was missing in a replica's reply uses it.
        """
        ...

    async def message_at(self, seq: int) -> StoredMessage | None:
        """Return the message at this stream sequence, from the leader."""
        ...

    async def head(self, tenant: TenantId, run: RunId) -> StoredMessage | None:
        """Return the run's last message, from the leader; None for a run without messages."""
        ...

    async def moved(self, heads: Collection[RunHead]) -> set[RunKey]:
        """Return the runs of which a message with the next number is stored: an event, or one that is void.

        One request asks about all of them. Without replicas a message that was acknowledged before the call is found
        for certain.
        """
        ...

    async def removed_run(self, tenant: TenantId, run: RunId) -> RemovedRun | None:
        """Describe an ended run whose log, or its beginning, was removed from RUNS; None for every other run."""
        ...

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """Return a bounded number of messages of all runs above ``after_seq``, in order; an empty list at the end."""
        ...

    async def open_runs(self) -> list[tuple[TenantId, RunId]]:
        """Return all runs with a first event and without a ``recorder.sealed`` one, for the sweep and for start-up."""
        ...

    async def run_changes(self, after: ChangesPosition | None) -> RunChanges:
        """Return the runs that began and those that were sealed after this position; none without a position.

        Together with what ``open_runs`` lists after a position was taken, they are the open runs. What a replica does
        not have yet comes with a later call. A run that is sealed in the result may begin in that of the next call.
        """
        ...

    async def replicated(self) -> bool:
        """Whether the log has several replicas: an acknowledgement then does not prove which event is the head."""
        ...

    async def fills(self) -> list[Fill]:
        """Return how full each stream is whose state this credential may read."""
        ...

    async def fullest(self) -> Fill:
        """Return the fullest of the streams that a run needs: the log, the blobs, the outcomes and the timers."""
        ...


class Delivery(Protocol):
    """A message of a work queue: a task, a control message, a fired timer, a sealed run."""

    @property
    def subject(self) -> str:
        """The subject it was published on."""
        ...

    @property
    def payload(self) -> bytes:
        """The payload as it was published."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """The headers as they were sent."""
        ...

    @property
    def seq(self) -> int:
        """The sequence in its stream, the same in every redelivery."""
        ...

    @property
    def stored_at(self) -> datetime:
        """The time at which the stream stored it."""
        ...

    @property
    def attempt(self) -> int:
        """The number of this delivery; 1 for the first."""
        ...

    async def ack(self) -> None:
        """Confirm that the message is handled: the broker does not deliver it again."""
        ...

    async def in_progress(self) -> None:
        """Report progress: the time until the next delivery starts again."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Report a failure of this process: the broker delivers the message again after ``delay_s``."""
        ...

    async def term(self, reason: str) -> None:
        """Stop all further deliveries; the caller has stored a dead letter."""
        ...


class PullCapacity(Protocol):
    """The number of further messages that may be requested."""

    def free(self) -> int:
        """Return the number of messages that may be in flight now, those being handled included."""
        ...

    def watch(self, on_freed: Callable[[], None]) -> Callable[[], None]:
        """Call ``on_freed`` when the number may have grown; return a function that ends the watch."""
        ...


class Queue(Protocol):
    """One durable consumer, pulled in linestop's own loop with heartbeats; survives reconnects."""

    def deliveries(
        self, *, in_flight_max: int = DELIVERIES_IN_FLIGHT_MAX, capacity: PullCapacity | None = None
    ) -> AsyncIterator[Delivery]:
        """Yield messages as they arrive, without end; at most ``in_flight_max`` unacknowledged at once.

        With ``capacity``, no more messages are requested than it has free; the others stay in the stream.
        """
        ...


class Blobs(Protocol):
    """Write-once payloads, addressed by their SHA-256 (hex)."""

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Store ``data`` (up to ``BLOB_BYTES_MAX``) and return its digest; storing it again changes nothing.

        Raises:
            TooLarge: over the limit.
        """
        ...

    async def get(self, tenant: TenantId, sha256: str) -> bytes:
        """Return the bytes, checked against the digest.

        Raises:
            NotFound: the blob or a part of it is missing, or the bytes do not match the digest.
        """
        ...


class BucketValue(msgspec.Struct, frozen=True, kw_only=True):
    """A stored value and the revision to name when changing it."""

    key: str
    value: bytes
    revision: int
    stored_at: datetime | None = None
    """By the broker's clock; set by ``values`` only."""


class Bucket(Protocol):
    """Small values that all processes agree on by compare-and-set: accounts, kill switches, agents."""

    async def get(self, key: str) -> BucketValue | None:
        """Return the current value of ``key``, None if it has none."""
        ...

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Store a new key and return its revision. With ``ttl_s`` the key expires after that time.

        Raises:
            Conflict: the key exists.
        """
        ...

    async def update(self, key: str, value: bytes, *, revision: int, ttl_s: int | None = None) -> int:
        """Replace the value if its revision is still the given one; return the new revision. ``ttl_s`` as above.

        Raises:
            Conflict: another process changed it first.
        """
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove ``key``, if its revision is still the given one."""
        ...

    async def values(self, prefix: str) -> list[BucketValue]:
        """Return all keys that begin with ``prefix`` (whole tokens, e.g. ``account.``) with their values, unordered."""
        ...

    async def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with ``prefix`` (whole tokens, e.g. ``account.``), unordered."""
        ...


class Timers(Protocol):
    """Durable timers, which outlive every process. They fire at least once, never early."""

    async def set(self, tenant: TenantId, run: RunId, name: str, at: datetime) -> None:
        """(Re)set the run's timer ``name`` (``[a-z0-9-]+``) to ``at``."""
        ...

    async def cancel(self, tenant: TenantId, run: RunId, name: str) -> None:
        """Cancel the run's timer ``name``, if it is set."""
        ...


class Publisher(Protocol):
    """Publishes every message that is not an event of the run log."""

    async def outcome(self, tenant: TenantId, agent: str, run: RunId, payload: bytes, headers: dict[str, str]) -> None:
        """Publish the run's outcome once; a second one for the same run is ignored (server errors 10077, 10071)."""
        ...

    async def alert(self, tenant: TenantId, kind: str, payload: bytes, headers: dict[str, str]) -> None:
        """Store an alert of this kind for a person, once for each ``Nats-Msg-Id`` within the stream's window."""
        ...

    async def dead_letter(self, role: RoleName, tenant: str, run: str, payload: bytes) -> None:
        """Store a dead letter: the message that could not be handled, and the reason."""
        ...

    async def delta(self, place: DeltaSubject, text: str, *, offset: int) -> None:
        """Send the next piece of an attempt's text, ``offset`` characters into it; lossy, never fails."""
        ...

    async def reply(self, inbox: str, payload: bytes) -> None:
        """Reply to the inbox that a message named in ``Linestop-Reply``; lossy, never fails."""
        ...

    async def wake(self, role: RoleName, tenant: TenantId, run: RunId) -> None:
        """Send the hint that a run may need ``role``; lossy."""
        ...
