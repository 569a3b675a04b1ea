"""A stream in memory: stores, compares, refuses and removes as a JetStream stream does. Nothing here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

_GROUP_TOKENS: Final = 3
"""Messages are grouped by their first tokens, so that a run is found without reading all messages."""

Retention = Literal["all", "first", "last", "work"]
"""Of messages on one subject: all, only the first (write-once), only the last (a key-value bucket); or all
until they are acknowledged (a work queue)."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the stream stores it."""

    subject: str
    payload: bytes
    seq: int
    headers: dict[str, str]
    stored_at: datetime


class WrongLastSequence(Exception):
    """Raised when the expected last message is not the last; names the real one."""

    def __init__(self, head_seq: int) -> None:
        super().__init__(f"wrong last sequence: {head_seq}")
        self.head_seq = head_seq


class SubjectTaken(Exception):
    """Raised when the subject has its one message already."""


class StreamFull(Exception):
    """Raised when the stream has no space left."""


class Expected(msgspec.Struct, frozen=True):
    """The precondition of a publish: the last message that matches ``filter`` has sequence ``seq``."""

    filter: str
    seq: int


class MemoryStream:
    """One stream. ``now`` is the clock for ``stored_at``; ``window_s`` is the duplicate window of message ids."""

    def __init__(
        self, name: str, now: Callable[[], datetime], *, retention: Retention = "all", window_s: float = 120.0
    ) -> None:
        self.name = name
        self.is_work_queue = retention == "work"
        self.bytes_max = 0
        self.bytes_used = 0
        self.listeners: list[Callable[[Stored], None]] = []
        self._now = now
        self._retention = retention
        self._window_s = window_s
        self._last_seq = 0
        self._messages: dict[int, Stored] = {}
        self._groups: dict[str, dict[int, Stored]] = {}
        self._last_on: dict[str, int] = {}
        self._ids: dict[str, tuple[int, datetime]] = {}
        self._expiries: list[tuple[datetime, int]] = []

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        message_id: str = "",
        expected: Expected | None = None,
    ) -> int:
        """Store a message and return its sequence; a repeated ``message_id`` returns that of the first.

        Raises:
            WrongLastSequence: ``expected`` does not hold.
            SubjectTaken: a write-once subject has its message already.
            StreamFull: there is no space.
        """
        now = self._now()
        if expected is not None:
            head = self.last(expected.filter)
            if (head.seq if head else 0) != expected.seq:
                raise WrongLastSequence(head.seq if head else 0)
        if message_id and message_id in self._ids:
            seq, at = self._ids[message_id]
            if (now - at).total_seconds() <= self._window_s:
                return seq
        if self._retention == "first" and subject in self._last_on:
            raise SubjectTaken
        size = len(subject) + len(payload)
        if self.bytes_max and self.bytes_used + size > self.bytes_max:
            raise StreamFull
        return self._store(subject, payload, headers=headers or {}, message_id=message_id)

    def at(self, seq: int) -> Stored | None:
        """The message at a sequence."""
        return self._messages.get(seq)

    def last(self, filter_: str) -> Stored | None:
        """The last message on a subject or filter."""
        self._expire_due()
        if "*" not in filter_ and ">" not in filter_:
            seq = self._last_on.get(filter_)
            return self._messages.get(seq) if seq else None
        return next((m for m in self._candidates(filter_, backwards=True) if matches(filter_, m.subject)), None)

    def matching(self, filter_: str, *, after_seq: int = 0) -> list[Stored]:
        """All messages of a filter above a sequence, in order."""
        self._expire_due()
        found = (m for m in self._candidates(filter_) if m.seq > after_seq)
        return [m for m in found if matches(filter_, m.subject)]

    def remove(self, seq: int) -> None:
        """Remove a message: a work queue does so when it is acknowledged."""
        message = self._messages.pop(seq, None)
        if message is None:
            return
        self._groups[_group(message.subject)].pop(seq)
        self.bytes_used -= len(message.subject) + len(message.payload)
        if self._last_on.get(message.subject) == seq:
            del self._last_on[message.subject]

    def expire_after(self, seq: int, ttl_s: int) -> None:
        """Remove a message after ``ttl_s`` seconds, unless it was removed before."""
        heapq.heappush(self._expiries, (self._now() + timedelta(seconds=ttl_s), seq))

    def _expire_due(self) -> None:
        while self._expiries and self._expiries[0][0] <= self._now():
            self.remove(heapq.heappop(self._expiries)[1])

    def _store(self, subject: str, payload: bytes, *, headers: dict[str, str], message_id: str) -> int:
        if self._retention == "last" and subject in self._last_on:
            self.remove(self._last_on[subject])
        self._last_seq += 1
        seq = self._last_seq
        stored = Stored(subject=subject, payload=payload, seq=seq, headers=headers, stored_at=self._now())
        self._messages[seq] = stored
        self._groups.setdefault(_group(subject), {})[seq] = stored
        self._last_on[subject] = seq
        self.bytes_used += len(subject) + len(payload)
        if message_id:
            self._ids[message_id] = (seq, stored.stored_at)
        for listener in tuple(self.listeners):
            listener(stored)
        return seq

    def _candidates(self, filter_: str, *, backwards: bool = False) -> Iterator[Stored]:
        group = _group(filter_)
        all_groups = "*" in group or ">" in group or group.count(".") < _GROUP_TOKENS - 1
        messages = self._messages if all_groups else self._groups.get(group, {})
        return iter(reversed(messages.values())) if backwards else iter(tuple(messages.values()))


def matches(filter_: str, subject: str) -> bool:
    """Whether a subject matches a filter with ``*`` (one token) and ``>`` (one or more at the end)."""
    pattern_tokens, tokens = filter_.split("."), subject.split(".")
    if pattern_tokens[-1] == ">":
        pattern_tokens.pop()
        if len(tokens) <= len(pattern_tokens):
            return False
        tokens = tokens[: len(pattern_tokens)]
    return len(pattern_tokens) == len(tokens) and all(
        w in {"*", t} for w, t in zip(pattern_tokens, tokens, strict=True)
    )


def _group(subject: str) -> str:
    return ".".join(subject.split(".", _GROUP_TOKENS)[:_GROUP_TOKENS])
