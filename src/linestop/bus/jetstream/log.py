"""The run log on JetStream: compare-and-append, and reading.

An append names the run's last message. The server compares and stores in one step, so one of two rivals wins. Every
writer must use the same filter string ``runs.<tenant>.<run>.>``, because replicas compare in-flight appends by it.

A refused append may already be stored, by an earlier attempt whose reply was lost: then the head has moved because of
it. So after every such refusal the event's own subject is read before the refusal counts as a conflict. A message id
would add nothing but bytes to each event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

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
from linestop.bus.jetstream.reads import PAGES_MAX, Reader, StreamInfo, StreamMessage
from linestop.bus.jetstream.replies import PubAck, head_in_refusal, meaning
from linestop.bus.jetstream.retry import publish
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import streams
from linestop.bus.wire import Wire, header_block
from linestop.errors import PermissionDenied, Refused, TooLarge
from linestop.schemas import subjects
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.subject_filters import FIRST_EVENTS, numbered_filter
from linestop.schemas.subjects import RunId, TenantId

ESSENTIAL_STREAMS: Final = (
    stream_names.RUNS,
    stream_names.BLOBS,
    stream_names.OUTCOMES,
    stream_names.bucket_stream(stream_names.SHARED_BUCKET),
)
"""The streams that need space for a run to continue or end."""

HEADS_PER_REQUEST_MAX: Final = 256
"""Runs asked about in one request; each has a few messages at most, so the 1,024 of ``multi_last`` suffice."""


class JetStreamLog:
    """The run log as the credential of one connection sees it; ``forks`` opens the log of forks instead."""

    def __init__(self, wire: Wire, *, forks: bool = False) -> None:
        self._wire = wire
        self._forks = forks
        self._reader = Reader(wire, stream_names.FORKS if forks else stream_names.RUNS)

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Store the event if the run's head is still the one named; see ``interfaces.Log``."""
        if len(append.payload) > MESSAGE_BYTES_MAX:
            raise TooLarge(
                f"Event {append.n} of run {append.run} has {len(append.payload)} bytes; an event has at most "
                f"{MESSAGE_BYTES_MAX}: store long texts as blobs."
            )
        subject = self._log_subject(append.subject)
        headers = header_block(
            {
                "Nats-Expected-Last-Subject-Sequence": str(append.head_seq),
                "Nats-Expected-Last-Subject-Sequence-Subject": self._filter(append.tenant, append.run),
            }
        )
        ack = await publish(self._wire, subject, append.payload, headers=headers, on_sent=on_sent)
        if meaning(ack) == "stored":
            return ack.seq
        return await self._resolve_refusal(append, subject, ack)

    async def load(
        self, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """Return all messages of the run above ``after_seq``, in order; see ``interfaces.Log``."""
        subject_filter = self._filter(tenant, run)
        head = await self._reader.last(subject_filter) if leader else None
        messages = await self._reader.last_of_each(subject_filter, after_seq=after_seq)
        if messages is None:
            messages = await self._reader.read_all(subject_filter, after_seq=after_seq)
        if head is not None:
            if _has_gap(messages):
                # A replica that lost messages in between replies nevertheless.
                messages = []
            await self._add_missing(messages, subject_filter, until_seq=head.seq, after_seq=after_seq)
        return [_stored_message(item) for item in messages]

    async def message_at(self, seq: int) -> StoredMessage | None:
        """Return the message at this stream sequence, from the leader."""
        message = await self._reader.at(seq)
        return _stored_message(message) if message else None

    async def head(self, tenant: TenantId, run: RunId) -> StoredMessage | None:
        """Return the run's last message, from the leader."""
        message = await self._reader.last(self._filter(tenant, run))
        return _stored_message(message) if message else None

    async def moved(self, heads: Collection[RunHead]) -> set[RunKey]:
        """Return the runs of which a message with the next number is stored; see ``interfaces.Log``."""
        found: set[RunKey] = set()
        filters = [self._log_subject(numbered_filter(tenant, run, n + 1)) for tenant, run, n in heads]
        for first in range(0, len(filters), HEADS_PER_REQUEST_MAX):
            batch = filters[first : first + HEADS_PER_REQUEST_MAX]
            found.update(_run_key(item.subject) for item in await self._reader.last_of_each(*batch) or ())
        return found

    async def removed_run(self, tenant: TenantId, run: RunId) -> RemovedRun | None:
        """Describe a run whose log, or its beginning, was removed from RUNS, by its outcome; see ``interfaces.Log``."""
        first = await self._reader.next(self._filter(tenant, run), seq=1)
        if first is not None and first.subject.endswith(".1"):
            return None
        try:
            found = await Reader(self._wire, stream_names.OUTCOMES).last(subjects.run_outcome_filter(tenant, run))
        except PermissionDenied:
            # The broker was set up for an older linestop, which removed no run early.
            return None
        return read_removed_run(found.payload) if found is not None else None

    async def page(self, *, after_seq: int) -> list[StoredMessage]:
        """Return the next messages of all runs; see ``interfaces.Log``."""
        subject_filter = self._log_subject("runs.>")
        messages = await self._reader.page(subject_filter, after_seq=after_seq)
        if not messages:
            # A replica may lag; only the leader knows that no further message exists.
            item = await self._reader.next(subject_filter, seq=after_seq + 1)
            messages = [item] if item else []
        return [_stored_message(item) for item in messages]

    async def open_runs(self) -> list[tuple[TenantId, RunId]]:
        """Return all runs with a first event and no sealed one; see ``interfaces.Log``."""
        # Begun runs are listed before sealed ones, so that a run sealed in between never counts as open.
        begun = await self._runs_matching(self._log_subject(FIRST_EVENTS))
        sealed = await self._runs_matching(self._log_subject(subjects.event_filter("recorder", "sealed")))
        return [run for run in begun if run not in sealed]

    async def run_changes(self, after: ChangesPosition | None) -> RunChanges:
        """Return the runs that began and those that were sealed after this position; see ``interfaces.Log``."""
        first, seals = self._log_subject(FIRST_EVENTS), self._log_subject(subjects.event_filter("recorder", "sealed"))
        if after is None:
            lasts = [await self._reader.last(subject_filter) for subject_filter in (first, seals)]
            return RunChanges(position=ChangesPosition(*(last.seq if last else 0 for last in lasts)))
        # Seals first: the seal of a run that begins in between is read by the next call.
        sealed = await self._reader.read_all(seals, after_seq=after.sealed_seq)
        begun = await self._reader.read_all(first, after_seq=after.begun_seq)
        return RunChanges(
            begun=[_run_key(item.subject) for item in begun],
            sealed=[_run_key(item.subject) for item in sealed],
            position=ChangesPosition(
                begun[-1].seq if begun else after.begun_seq, sealed[-1].seq if sealed else after.sealed_seq
            ),
        )

    async def replicated(self) -> bool:
        """Whether the stream has several replicas."""
        info = await self._reader.info()
        return info.config is not None and info.config.num_replicas > 1

    async def fills(self) -> list[Fill]:
        """Return how full each stream is; see ``interfaces.Log``."""
        found = await asyncio.gather(*(self._fill(spec.name) for spec in streams()))
        return [fill for fill in found if fill is not None]

    async def _fill(self, stream: str) -> Fill | None:
        try:
            return _fill(stream, await Reader(self._wire, stream).info())
        except (PermissionDenied, Refused):
            # The broker was set up for an older linestop, or the stream is missing: `doctor` reports it.
            return None

    async def fullest(self) -> Fill:
        """Return the fullest of the streams that a run needs; see ``interfaces.Log``."""
        infos = await asyncio.gather(*(Reader(self._wire, stream).info() for stream in ESSENTIAL_STREAMS))
        fills = [_fill(name, info) for name, info in zip(ESSENTIAL_STREAMS, infos, strict=True)]
        return max(fills, key=lambda fill: fill.used)

    async def _resolve_refusal(self, append: Append, subject: str, ack: PubAck) -> int:
        """Return the sequence of our own event if it is stored, else raise ``HeadMoved``."""
        own = await self._reader.last(subject)
        if own is not None and own.subject == subject and own.payload == append.payload:
            return own.seq
        raise HeadMoved(
            f"Event {append.n} of run {append.run} was not stored: another event came first. "
            "Load the run and decide again.",
            head_seq=head_in_refusal(ack),
        )

    async def _add_missing(
        self, messages: list[StreamMessage], subject_filter: str, *, until_seq: int, after_seq: int
    ) -> None:
        """Add the messages that a lagging replica did not have yet, one by one, from the leader."""
        last_seq = messages[-1].seq if messages else after_seq
        while last_seq < until_seq:
            item = await self._reader.next(subject_filter, seq=last_seq + 1)
            if item is None:
                return
            messages.append(item)
            last_seq = item.seq

    async def _runs_matching(self, subject_filter: str) -> dict[tuple[TenantId, RunId], None]:
        runs: dict[tuple[TenantId, RunId], None] = {}
        offset = 0
        for _ in range(PAGES_MAX):
            info = await self._reader.info(subjects=subject_filter, offset=offset)
            page = info.state.subjects if info.state else {}
            for subject in page or ():
                runs[_run_key(subject)] = None
            offset += len(page or ())
            if not page or offset >= info.total:
                break
        return runs

    def _log_subject(self, subject: str) -> str:
        return subjects.fork(subject) if self._forks else subject

    def _filter(self, tenant: TenantId, run: RunId) -> str:
        return self._log_subject(subjects.run_filter(tenant, run))


def _run_key(subject: str) -> RunKey:
    _, tenant, run, *_ = subject.split(".")
    return TenantId(tenant), RunId(run)


def _has_gap(messages: list[StreamMessage]) -> bool:
    """Whether event numbers are missing between the first and the last."""
    numbers = {int(tail) for item in messages if (tail := item.subject.rpartition(".")[2]).isdecimal()}
    return bool(numbers) and len(numbers) != max(numbers) - min(numbers) + 1


def _stored_message(message: StreamMessage) -> StoredMessage:
    return StoredMessage(subject=message.subject, payload=message.payload, seq=message.seq)


def _fill(stream: str, info: StreamInfo) -> Fill:
    """Return how full a stream is; 0.0 without a limit."""
    if info.config is None or info.state is None or info.config.max_bytes <= 0:
        return Fill(stream=stream, used=0.0)
    limit = info.config.max_bytes
    return Fill(stream=stream, used=min(1.0, info.state.bytes / limit), bytes_max=limit)
