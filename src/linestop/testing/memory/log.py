"""The run log in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from linestop.bus.interfaces import (
    Append,
    ChangesPosition,
    Fill,
    HeadMoved,
    OnSent,
    RemovedRun,
    RunChanges,
    RunHead,
    RunKey,
    StoredMessage,
    read_removed_run,
)
from linestop.bus.jetstream.reads import PAGE_MESSAGES
from linestop.errors import PermissionDenied, TooLarge
from linestop.schemas import subjects
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.subject_filters import FIRST_EVENTS, numbered_filter
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.memory.faults import Faults, with_faults
from linestop.testing.memory.stream import Expected, MemoryStream, Stored, StreamFull, SubjectTaken, WrongLastSequence


class MemoryLog:
    """The run log for a credential that may append as ``roles``; see ``interfaces.Log``."""

    def __init__(
        self,
        stream: MemoryStream,
        faults: Faults,
        *,
        outcomes: MemoryStream,
        roles: Collection[RoleName],
        forks: bool = False,
    ) -> None:
        self._stream = stream
        self._faults = faults
        self._outcomes = outcomes
        self._roles = roles
        self._forks = forks

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Store the event if the run's head is still ``append.head_seq``."""
        if len(append.payload) > MESSAGE_BYTES_MAX:
            raise TooLarge(
                f"Event {append.n} of run {append.run} has {len(append.payload)} bytes; an event has at most "
                f"{MESSAGE_BYTES_MAX}: store long texts as blobs."
            )
        subject = self._log_subject(append.subject)
        # Before the request is sent: on a real connection, too, the caller may fold an event that is never stored.
        if on_sent is not None:
            on_sent()
        async with with_faults(self._faults, "log.append"):
            if append.role not in self._roles:
                raise PermissionDenied(f"This credential may not publish on {subject}; use the role's credential.")
            return self._store(append, subject)

    async def load(
        self, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """All messages of the run above ``after_seq``, in order."""
        async with with_faults(self._faults, "log.load_leader" if leader else "log.load"):
            return _messages(self._stream.matching(self._filter(tenant, run), after_seq=after_seq))

    async def message_at(self, seq: int) -> StoredMessage | None:
        """The message at this stream sequence."""
        async with with_faults(self._faults, "log.message_at"):
            found = self._stream.at(seq)
            return _messages([found])[0] if found else None

    async def head(self, tenant: TenantId, run: RunId) -> StoredMessage | None:
        """The run's last message."""
        async with with_faults(self._faults, "log.head"):
            found = self._stream.last(self._filter(tenant, run))
            return _messages([found])[0] if found else None

    async def moved(self, heads: Collection[RunHead]) -> set[RunKey]:
        """The runs of which a message with the next number is stored."""
        async with with_faults(self._faults, "log.moved"):
            return {
                (tenant, run)
                for tenant, run, n in heads
                if self._stream.matching(self._log_subject(numbered_filter(tenant, run, n + 1)))
            }

    async def removed_run(self, tenant: TenantId, run: RunId) -> RemovedRun | None:
        """The ending of a run whose log, or its beginning, was removed from the stream; without faults."""
        first = next(iter(self._stream.matching(self._filter(tenant, run))), None)
        if first is not None and first.subject.endswith(".1"):
            return None
        found = self._outcomes.last(subjects.run_outcome_filter(tenant, run))
        return read_removed_run(found.payload) if found is not None else None

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """The next messages of all runs."""
        async with with_faults(self._faults, "log.page"):
            return _messages(self._stream.matching(self._log_subject("runs.>"), after_seq=after_seq)[:PAGE_MESSAGES])

    async def open_runs(self) -> list[tuple[TenantId, RunId]]:
        """All runs with a first event and no sealed one."""
        async with with_faults(self._faults, "log.open_runs"):
            begun = self._runs(FIRST_EVENTS)
            sealed = self._runs(subjects.event_filter("recorder", "sealed"))
            return [run for run in begun if run not in sealed]

    async def run_changes(self, after: ChangesPosition | None) -> RunChanges:
        """The runs that began and those that were sealed after this position."""
        async with with_faults(self._faults, "log.run_changes"):
            since = after or ChangesPosition()
            begun = self._stream.matching(self._log_subject(FIRST_EVENTS), after_seq=since.begun_seq)
            seals = self._log_subject(subjects.event_filter("recorder", "sealed"))
            sealed = self._stream.matching(seals, after_seq=since.sealed_seq)
            position = ChangesPosition(
                begun[-1].seq if begun else since.begun_seq, sealed[-1].seq if sealed else since.sealed_seq
            )
            if after is None:
                return RunChanges(position=position)
            return RunChanges(begun=list(map(_run_key, begun)), sealed=list(map(_run_key, sealed)), position=position)

    async def replicated(self) -> bool:
        """Memory has one copy."""
        return False

    async def fills(self) -> list[Fill]:
        """How full the log is; nothing else is bounded in memory."""
        return [await self.fullest()]

    async def fullest(self) -> Fill:
        """How full the log is; nothing else is bounded in memory."""
        async with with_faults(self._faults, "log.fullest"):
            limit = self._stream.bytes_max
            used = min(1.0, self._stream.bytes_used / limit) if limit else 0.0
            return Fill(stream=self._stream.name, used=used, bytes_max=limit)

    def _store(self, append: Append, subject: str) -> int:
        stored_before = self._stream.last(subject)
        if stored_before is not None and stored_before.payload == append.payload:
            return stored_before.seq
        expected = Expected(self._filter(append.tenant, append.run), append.head_seq)
        head_moved_sentence = (
            f"Event {append.n} of run {append.run} was not stored: another event came first. "
            "Load the run and decide again."
        )
        try:
            return self._stream.publish(subject, append.payload, headers={}, expected=expected)
        except WrongLastSequence as wrong:
            raise HeadMoved(head_moved_sentence, head_seq=wrong.head_seq) from None
        except SubjectTaken:
            raise HeadMoved(head_moved_sentence) from None
        except StreamFull:
            raise TooLarge(
                f"The run log has no space for event {append.n} of run {append.run}: raise its max_bytes, "
                "or export and remove old runs."
            ) from None

    def _runs(self, pattern: str) -> dict[tuple[TenantId, RunId], None]:
        return dict.fromkeys(map(_run_key, self._stream.matching(self._log_subject(pattern))))

    def _log_subject(self, subject: str) -> str:
        return subjects.fork(subject) if self._forks else subject

    def _filter(self, tenant: TenantId, run: RunId) -> str:
        return self._log_subject(subjects.run_filter(tenant, run))


def _run_key(stored: Stored) -> RunKey:
    _, tenant, run, *_ = stored.subject.split(".")
    return TenantId(tenant), RunId(run)


def _messages(found: Sequence[Stored]) -> list[StoredMessage]:
    return [StoredMessage(subject=m.subject, payload=m.payload, seq=m.seq) for m in found]
