"""A key-value bucket by its subjects, with compare-and-set on the key's revision.

A change carries an id. A change may be stored although it was refused or got no reply. Then the key's present message
is read, and if it carries our id, the change is done. Only a change that was stored, lost its reply and was replaced
at once is reported as a conflict; so a value should show by itself which process is in it.

A caller that decides reads from the leader: while a replica lags, it may not show a closed kill switch, an undeployed
agent or a spent account. A caller that only displays values reads from any replica; with a stale revision its
compare-and-set fails, and nothing else happens.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

import anyio
import msgspec

from linestop.bus.interfaces import BucketValue
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.jetstream.replies import PubAck, head_in_refusal, meaning
from linestop.bus.jetstream.retry import publish
from linestop.bus.streams import stream_names
from linestop.bus.wire import Wire, header_block
from linestop.errors import Conflict, PermissionDenied
from linestop.logger import Logger

LOG = Logger("linestop.shared")
LAG_READS_MAX: Final = 20
LAG_PAUSE_S: Final = 0.05
"""How often and how long to wait for a replica to show the revision that the leader named."""

CREATE_TRIES_MAX: Final = 3
MARKER_TTL: Final = "1h"
"""How long the marker of a deleted key is stored."""

_EXPIRING: Final = frozenset({stream_names.SHARED_BUCKET})
"""Buckets that let messages expire: the others delete too rarely to need it."""

_ID: Final = "Nats-Msg-Id"
_OPERATION: Final = "KV-Operation"
_MARKER: Final = "Nats-Marker-Reason"


class JetStreamBucket:
    """One bucket; see ``interfaces.Bucket``."""

    def __init__(self, wire: Wire, bucket: str = stream_names.SHARED_BUCKET, *, leader: bool = False) -> None:
        self._wire = wire
        self._leader = leader
        self._bucket = bucket
        self._reader = Reader(wire, stream_names.bucket_stream(bucket))

    async def get(self, key: str) -> BucketValue | None:
        """Return the key's value and revision, None if it does not exist."""
        message = await self._last(self._subject(key))
        return None if message is None or _is_deleted(message) else self._value(message)

    async def _last(self, subject: str) -> StreamMessage | None:
        if self._leader:
            try:
                return await self._reader.last(subject)
            except PermissionDenied:
                # The broker was set up for an older linestop.
                LOG.warning("not_read_from_the_leader", bucket=self._bucket)
                self._leader = False
        return await self._reader.direct_last(subject)

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Store a new key; see ``interfaces.Bucket``."""
        expected = 0
        for _ in range(CREATE_TRIES_MAX):
            new_revision, existing = await self._change(key, value, revision=expected, ttl_s=ttl_s)
            if new_revision:
                return new_revision
            if existing is not None and not _is_deleted(existing):
                break
            # A deleted key still has a last message, its marker, until that expires.
            expected = existing.seq if existing else 0
        raise Conflict(f"Key {key} of {self._bucket} exists already; read it and update it instead.")

    async def update(self, key: str, value: bytes, *, revision: int, ttl_s: int | None = None) -> int:
        """Replace the value if its revision is still this one; see ``interfaces.Bucket``."""
        new_revision, _ = await self._change(key, value, revision=revision, ttl_s=ttl_s)
        if not new_revision:
            raise self._conflict(key, revision)
        return new_revision

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete the key; if ``revision`` is given, only at that revision; see ``interfaces.Bucket``."""
        new_revision, existing = await self._change(key, b"", revision=revision, operation="DEL")
        if not new_revision and not (existing is None or _is_deleted(existing)):
            raise self._conflict(key, revision)

    async def values(self, prefix: str) -> list[BucketValue]:
        """Return all keys that begin with ``prefix``, with their values; see ``interfaces.Bucket``."""
        present = (await self._present_values(prefix)).values()
        return [msgspec.structs.replace(self._value(message), stored_at=_stored_at(message)) for message in present]

    async def keys(self, prefix: str) -> list[str]:
        """Return all keys that begin with ``prefix``, unordered; see ``interfaces.Bucket``."""
        return [self._key(subject) for subject in await self._present_values(prefix)]

    async def _change(
        self, key: str, value: bytes, *, revision: int | None, operation: str = "", ttl_s: int | None = None
    ) -> tuple[int, StreamMessage | None]:
        """Try one change; return its revision, or 0 and the present message."""
        own_id = uuid.uuid4().hex
        headers = {_ID: own_id}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        if ttl_s is not None and self._bucket in _EXPIRING:
            headers["Nats-TTL"] = str(ttl_s)
        if operation:
            headers[_OPERATION] = operation
            if self._bucket in _EXPIRING:
                headers["Nats-TTL"] = MARKER_TTL
        subject = self._subject(key)
        ack = await publish(self._wire, subject, value, headers=header_block(headers))
        if meaning(ack) in {"stored", "duplicate"}:
            return ack.seq, None
        existing = await self._read_settled(subject, ack)
        if existing is not None and existing.headers.get(_ID) == own_id:
            return existing.seq, None
        return 0, existing

    async def _read_settled(self, subject: str, ack: PubAck) -> StreamMessage | None:
        """Read the key's last message, at least as new as the one that the leader named."""
        named_seq = head_in_refusal(ack)
        existing = await self._reader.direct_last(subject)
        for _ in range(LAG_READS_MAX):
            if (existing.seq if existing else 0) >= named_seq:
                break
            await anyio.sleep(LAG_PAUSE_S)
            existing = await self._reader.direct_last(subject)
        return existing

    async def _present_values(self, prefix: str) -> dict[str, StreamMessage]:
        latest = {message.subject: message for message in await self._reader.read_all(self._filter(prefix))}
        return {subject: found for subject, found in latest.items() if not _is_deleted(found)}

    def _conflict(self, key: str, revision: int | None) -> Conflict:
        return Conflict(
            f"Key {key} of {self._bucket} is no longer at revision {revision}: read it again and decide again."
        )

    def _subject(self, key: str) -> str:
        return stream_names.bucket_key(self._bucket, key)

    def _filter(self, prefix: str) -> str:
        return stream_names.bucket_key(self._bucket, f"{prefix}>")

    def _key(self, subject: str) -> str:
        return subject.removeprefix(stream_names.bucket_key(self._bucket, ""))

    def _value(self, message: StreamMessage) -> BucketValue:
        value = b"" if _is_deleted(message) else message.payload
        return BucketValue(key=self._key(message.subject), value=value, revision=message.seq)


def _stored_at(message: StreamMessage) -> datetime | None:
    """Return the time at which the broker stored the message, with microseconds."""
    time_text = message.headers.get("Nats-Time-Stamp", "")
    return msgspec.convert(time_text, datetime) if time_text else None


def _is_deleted(message: StreamMessage) -> bool:
    return _OPERATION in message.headers or _MARKER in message.headers
