"""What the shell needs from the outside world, as small protocols.

Two implementations exist of each: ``linestop.bus.jetstream`` on the real server and
``linestop.testing.memory`` in this process, under virtual time. One conformance suite runs on both.

Nothing here decides anything. The run log is the only truth; everything else is a hint (wakes), a copy
(blobs, outcomes) or a shared figure that is checked again by compare-and-set (shared facts).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from functools import cached_property
from typing import Protocol

import msgspec

from linestop.errors import Conflict
from linestop.schemas.subjects import DeltaSubject, RoleName, RunId, TenantId, run_event


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the run log as the stream holds it: ``seq`` is the stream's, ``payload`` is untouched."""

    subject: str
    payload: bytes
    seq: int


class HeadMoved(Conflict):
    """Raised when another event came first. ``head_seq`` is the run's real last message, 0 if not told."""

    def __init__(self, message: str, *, head_seq: int = 0) -> None:
        super().__init__(message)
        self.head_seq = head_seq


class Append(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One compare-and-append.

    ``head_seq`` is the stream sequence of the run's last message (void ones included), 0 for none.
    ``event_id`` makes a repeated append recognisable. ``headers`` are extra (trace, CloudEvents).
    """

    tenant: TenantId
    run: RunId
    role: RoleName
    event: str
    n: int
    event_id: str
    head_seq: int
    payload: bytes
    headers: dict[str, str] = {}

    @cached_property
    def subject(self) -> str:
        """Where it is stored: ``runs.<tenant>.<run>.<role>.<event>.<n>``."""
        return run_event(self.tenant, self.run, role=self.role, event=self.event, n=self.n)


OnSent = Callable[[], None]
"""What to do in the time that an append takes; what it raises, the append raises."""


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """How full a stream is, 0.0 to 1.0 (0.0 where no limit is set), of how many bytes (0 where that is not told)."""

    stream: str
    used: float
    bytes_max: int = 0


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What the outcome says of a run whose log, or its beginning, has left; in an old one nothing of its key."""

    status: str = ""
    why: str = ""
    gave_key_back: bool = False
    asked_at: datetime | None = None

    @property
    def key_is_free(self) -> bool:
        """Whether the key of its task may stand for another run."""
        return self.gave_key_back or self.status == "refused"

    @property
    def stopped_beforehand(self) -> bool:
        """Whether it was stopped before its task came."""
        return self.gave_key_back and self.asked_at is None and self.status != "refused"


def left_of(outcome: bytes) -> Left:
    """What a stored outcome says how its run ended; it did end, whatever stands there."""
    try:
        return msgspec.json.decode(outcome, type=Left)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Left()


class Log(Protocol):
    """The run log as one credential sees it."""

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Store the event if the run's head is still ``append.head_seq``; return its stream sequence.

        ``meanwhile`` is called, at least once, when the event is on its way and before its answer is there.

        A repeated append of the same event returns the sequence of the first. An answer that never comes is
        looked up (by reading the event's own subject) before it is called anything.

        Raises:
            HeadMoved: another event came first.
            Unreachable: the broker did not answer; whether the event is stored is not known. Appending the
                very same ``Append`` again is safe.
            TooLarge: the payload is over ``MESSAGE_BYTES_MAX``, or the stream is full.
            PermissionDenied: this credential may not say that.
        """
        ...

    async def load(
        self, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """All messages of the run with a sequence above ``after_seq``, in order, any number (pages itself).

        ``leader`` asks the stream's leader instead of any replica: for a reader that knows of an event that
        the answer does not contain.
        """
        ...

    async def message_at(self, seq: int) -> StoredMessage | None:
        """The message at this stream sequence, from the leader."""
        ...

    async def head(self, tenant: TenantId, run: RunId) -> StoredMessage | None:
        """The run's last message, from the leader; None for a run without messages."""
        ...

    async def left(self, tenant: TenantId, run: RunId) -> Left | None:
        """What is known of a run that is over and whose log, or its beginning, has left; None for every other run."""
        ...

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """The next messages of all runs above ``after_seq``, in order, a bounded number; none at the end."""
        ...

    async def open_runs(self) -> list[tuple[TenantId, RunId]]:
        """All runs that have a first event and no ``recorder.sealed`` one: for the sweep and for boot."""
        ...

    async def replicated(self) -> bool:
        """Whether the log has more than one replica: then an acknowledgement does not prove the head."""
        ...

    async def fills(self) -> list[Fill]:
        """How full each stream is that this credential may look at."""
        ...

    async def fullest(self) -> Fill:
        """Which of the streams that a run needs has the least room: the log, or its long texts, outcomes, timers."""
        ...


class Delivery(Protocol):
    """A message of a work queue (a task, a control message, a fired timer, a role's wake)."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        ...

    @property
    def payload(self) -> bytes:
        """What was published."""
        ...

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, as they were sent."""
        ...

    @property
    def seq(self) -> int:
        """Its sequence in its stream: stable over redeliveries."""
        ...

    @property
    def stored_at(self) -> datetime:
        """When the stream stored it."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first delivery."""
        ...

    async def ack(self) -> None:
        """Done: do not deliver again."""
        ...

    async def in_progress(self) -> None:
        """Still at it: count the time until it is delivered again from now."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Our own failure: deliver again after this long."""
        ...

    async def term(self, reason: str) -> None:
        """Never deliver again; the caller has written a dead letter."""
        ...


class PullCapacity(Protocol):
    """How many more messages may be asked for."""

    def free(self) -> int:
        """As many as this, now, those that are handled already included."""
        ...

    def watch(self, on_freed: Callable[[], None]) -> Callable[[], None]:
        """Call ``grown`` when it may be more; return what ends that."""
        ...


class Queue(Protocol):
    """One durable consumer, pulled in a loop of our own with heartbeats; survives reconnects."""

    def deliveries(self, *, in_flight_max: int = 64, capacity: PullCapacity | None = None) -> AsyncIterator[Delivery]:
        """Yield messages as they come, for ever; at most ``in_flight_max`` un-acknowledged at once.

        With ``room``, no more are asked for than it has free; the others stay where they are.
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
            NotFound: no such blob, a part is missing, or the bytes do not match the digest.
        """
        ...


class BucketValue(msgspec.Struct, frozen=True, kw_only=True):
    """A shared fact and the revision to name when changing it."""

    key: str
    value: bytes
    revision: int
    stored_at: datetime | None = None
    """By the broker's clock; told by ``values`` alone."""


class Bucket(Protocol):
    """Small facts that all processes agree on by compare-and-set: accounts, doors, agents."""

    async def get(self, key: str) -> BucketValue | None:
        """The present value of ``key``, None if it has none."""
        ...

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Store a new key and return its revision. With ``ttl_s`` the key ends after so many seconds.

        Raises:
            Conflict: the key exists.
        """
        ...

    async def update(self, key: str, value: bytes, *, revision: int, ttl_s: int | None = None) -> int:
        """Replace the value if its revision is still the given one; return the new revision. ``ttl_s`` as above.

        Raises:
            Conflict: somebody else was first.
        """
        ...

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Remove ``key``, if its revision is still the given one."""
        ...

    async def values(self, prefix: str) -> list[BucketValue]:
        """All keys that begin with ``prefix`` (whole tokens, e.g. ``account.``) with their values, unordered."""
        ...

    async def keys(self, prefix: str) -> list[str]:
        """All keys that begin with ``prefix`` (whole tokens, e.g. ``account.``), unordered."""
        ...


class Timers(Protocol):
    """Durable timers: they outlive every process. They fire at least once, late rather than early."""

    async def set(self, tenant: TenantId, run: RunId, name: str, at: datetime) -> None:
        """(Re)set the run's timer ``name`` (``[a-z0-9-]+``) to ``at``."""
        ...

    async def cancel(self, tenant: TenantId, run: RunId, name: str) -> None:
        """Cancel the run's timer ``name``, if it is set."""
        ...


class Publisher(Protocol):
    """Everything else that goes out."""

    async def outcome(self, tenant: TenantId, agent: str, run: RunId, payload: bytes, headers: dict[str, str]) -> None:
        """Publish the run's outcome once; a second one for the same run is silently the same (10077, 10071)."""
        ...

    async def alert(self, tenant: TenantId, kind: str, payload: bytes, headers: dict[str, str]) -> None:
        """Call a person: store an alert of this kind, once for each ``Nats-Msg-Id`` within the stream's window."""
        ...

    async def dead_letter(self, role: RoleName, tenant: str, run: str, payload: bytes) -> None:
        """Store a dead letter: what could not be handled, and why."""
        ...

    async def delta(self, place: DeltaSubject, text: str, *, offset: int) -> None:
        """Send the next piece of an attempt's text, ``offset`` characters into it; lossy, never fails."""
        ...

    async def reply(self, inbox: str, payload: bytes) -> None:
        """Answer to the inbox a message named in ``Linestop-Reply``; lossy, never fails."""
        ...

    async def wake(self, role: RoleName, tenant: TenantId, run: RunId) -> None:
        """Send a hint to look at a run; lossy."""
        ...
