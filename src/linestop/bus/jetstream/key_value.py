"""Shared facts: a key-value bucket by its subjects, with compare-and-set on the key's revision.

A change carries an id. A refusal, or no answer, may hide that it was stored: then the key's present message
is read, and if it carries our id the change is done. Only a change that was stored, whose answer was lost and
that somebody replaced at once is told as a conflict; so a value should show by itself who is in it.

Who decides reads from the leader: on replicas a kill switch that is closed, an agent that is undeployed or an account
that is spent might not be seen for as long as a replica lags. Who only looks reads from any of them; then the revision
loses the compare-and-set, and nothing else.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

import anyio
import msgspec
import structlog

from linestop.bus import stream_names
from linestop.bus.interfaces import SharedValue
from linestop.bus.jetstream.reads import Found, Reader
from linestop.bus.jetstream.replies import PubAck, head_named, meaning
from linestop.bus.jetstream.retry import publish
from linestop.bus.jetstream.wire import Wire, header_block
from linestop.errors import Conflict, PermissionDenied

LOG = structlog.get_logger("linestop.shared")
LAG_READS_MAX: Final = 20
LAG_PAUSE_S: Final = 0.05
"""How often and how long to wait for a replica to show the revision that the leader named."""

CREATE_TRIES_MAX: Final = 3
MARKER_KEPT: Final = "1h"
"""How long the marker of a deleted key is kept."""

_EXPIRING: Final = frozenset({stream_names.SHARED_BUCKET})
"""Buckets that let messages expire: the others delete too rarely to need it."""

_ID: Final = "Nats-Msg-Id"
_OPERATION: Final = "KV-Operation"
_MARKER: Final = "Nats-Marker-Reason"


class JetStreamShared:
    """One bucket; see ``ports.Shared``."""

    def __init__(self, wire: Wire, bucket: str = stream_names.SHARED_BUCKET, *, leader: bool = False) -> None:
        self._wire = wire
        self._leader = leader
        self._bucket = bucket
        self._reader = Reader(wire, stream_names.bucket_stream(bucket))

    async def get(self, key: str) -> SharedValue | None:
        """The key's value and revision, None if it does not exist."""
        found = await self._last(self._subject(key))
        return None if found is None or _is_deleted(found) else self._value(found)

    async def _last(self, subject: str) -> Found | None:
        if self._leader:
            try:
                return await self._reader.last(subject)
            except PermissionDenied:
                # The broker was set up for an older linestop.
                LOG.warning("not_read_from_the_leader", bucket=self._bucket)
                self._leader = False
        return await self._reader.direct_last(subject)

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Store a new key; see ``ports.Shared``."""
        expected = 0
        for _ in range(CREATE_TRIES_MAX):
            done, there = await self._change(key, value, revision=expected, ttl_s=ttl_s)
            if done:
                return done
            if there is not None and not _is_deleted(there):
                break
            # A deleted key still has a last message, its marker, until that expires.
            expected = there.seq if there else 0
        raise Conflict(f"Key {key} of {self._bucket} exists already; read it and update it instead.")

    async def update(self, key: str, value: bytes, *, revision: int, ttl_s: int | None = None) -> int:
        """Replace the value if its revision is still this one; see ``ports.Shared``."""
        done, _ = await self._change(key, value, revision=revision, ttl_s=ttl_s)
        if not done:
            raise self._lost(key, revision)
        return done

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete the key, if ``revision`` is given only while it has that; see ``ports.Shared``."""
        done, there = await self._change(key, b"", revision=revision, operation="DEL")
        if not done and not (there is None or _is_deleted(there)):
            raise self._lost(key, revision)

    async def values(self, prefix: str) -> list[SharedValue]:
        """All keys that begin with ``prefix``, with their values; see ``ports.Shared``."""
        present = (await self._present(prefix)).values()
        return [msgspec.structs.replace(self._value(found), stored_at=_stored_at(found)) for found in present]

    async def keys(self, prefix: str) -> list[str]:
        """All keys that begin with ``prefix``, unordered; see ``ports.Shared``."""
        return [self._key(subject) for subject in await self._present(prefix)]

    async def _change(
        self, key: str, value: bytes, *, revision: int | None, operation: str = "", ttl_s: int | None = None
    ) -> tuple[int, Found | None]:
        """Try one change; return its revision, or 0 and what is there instead."""
        own_id = uuid.uuid4().hex
        headers = {_ID: own_id}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        if ttl_s is not None and self._bucket in _EXPIRING:
            headers["Nats-TTL"] = str(ttl_s)
        if operation:
            headers[_OPERATION] = operation
            if self._bucket in _EXPIRING:
                headers["Nats-TTL"] = MARKER_KEPT
        subject = self._subject(key)
        ack = await publish(self._wire, subject, value, headers=header_block(headers))
        if meaning(ack) in {"stored", "duplicate"}:
            return ack.seq, None
        there = await self._settled(subject, ack)
        if there is not None and there.headers.get(_ID) == own_id:
            return there.seq, None
        return 0, there

    async def _settled(self, subject: str, ack: PubAck) -> Found | None:
        """Read the key's last message, not older than the leader named it."""
        named = head_named(ack)
        there = await self._reader.direct_last(subject)
        for _ in range(LAG_READS_MAX):
            if (there.seq if there else 0) >= named:
                break
            await anyio.sleep(LAG_PAUSE_S)
            there = await self._reader.direct_last(subject)
        return there

    async def _present(self, prefix: str) -> dict[str, Found]:
        latest = {found.subject: found for found in await self._reader.walk(self._filter(prefix))}
        return {subject: found for subject, found in latest.items() if not _is_deleted(found)}

    def _lost(self, key: str, revision: int | None) -> Conflict:
        return Conflict(
            f"Key {key} of {self._bucket} is no longer at revision {revision}: read it again and decide again."
        )

    def _subject(self, key: str) -> str:
        return stream_names.bucket_key(self._bucket, key)

    def _filter(self, prefix: str) -> str:
        return stream_names.bucket_key(self._bucket, f"{prefix}>")

    def _key(self, subject: str) -> str:
        return subject.removeprefix(stream_names.bucket_key(self._bucket, ""))

    def _value(self, found: Found) -> SharedValue:
        value = b"" if _is_deleted(found) else found.payload
        return SharedValue(key=self._key(found.subject), value=value, revision=found.seq)


def _stored_at(found: Found) -> datetime | None:
    """When the broker stored it, in microseconds."""
    stamp = found.headers.get("Nats-Time-Stamp", "")
    return msgspec.convert(stamp, datetime) if stamp else None


def _is_deleted(found: Found) -> bool:
    return _OPERATION in found.headers or _MARKER in found.headers
