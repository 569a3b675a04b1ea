"""Key-value buckets in memory."""

from __future__ import annotations

from typing import Final

import msgspec

from linestop.bus.interfaces import BucketValue
from linestop.bus.streams import stream_names
from linestop.errors import Conflict, TooLarge
from linestop.testing.memory.faults import Faults, with_faults
from linestop.testing.memory.stream import Expected, MemoryStream, Stored, StreamFull, SubjectTaken, WrongLastSequence

_DELETED: Final = {"KV-Operation": "DEL"}


class MemoryBucket:
    """One bucket; see ``interfaces.Bucket``."""

    def __init__(self, stream: MemoryStream, bucket: str, faults: Faults) -> None:
        self._stream = stream
        self._bucket = bucket
        self._faults = faults

    async def get(self, key: str) -> BucketValue | None:
        """The key's value and revision, None if it does not exist."""
        async with with_faults(self._faults, "shared.get"):
            stored = self._stream.last(self._subject(key))
            return None if stored is None or stored.headers else self._value(stored)

    async def create(self, key: str, value: bytes, *, ttl_s: int | None = None) -> int:
        """Store a new key and return its revision."""
        async with with_faults(self._faults, "shared.create"):
            stored = self._stream.last(self._subject(key))
            if stored is not None and not stored.headers:
                raise Conflict(f"Key {key} of {self._bucket} exists already; read it and update it instead.")
            return self._put(key, value, revision=stored.seq if stored else 0, ttl_s=ttl_s)

    async def update(self, key: str, value: bytes, *, revision: int, ttl_s: int | None = None) -> int:
        """Replace the value if its revision is still this one; return the new revision."""
        async with with_faults(self._faults, "shared.update"):
            return self._put(key, value, revision=revision, ttl_s=ttl_s)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete the key; with ``revision`` only while the key has that revision."""
        async with with_faults(self._faults, "shared.delete"):
            stored = self._stream.last(self._subject(key))
            if stored is not None and not stored.headers:
                self._put(key, b"", revision=stored.seq if revision is None else revision, deleted=True)

    async def values(self, prefix: str) -> list[BucketValue]:
        """All keys that begin with ``prefix``, with their values."""
        async with with_faults(self._faults, "shared.values"):
            found = self._stream.matching(self._subject(f"{prefix}>"))
            present = [item for item in found if not item.headers]
            return [msgspec.structs.replace(self._value(item), stored_at=item.stored_at) for item in present]

    async def keys(self, prefix: str) -> list[str]:
        """All keys that begin with ``prefix``."""
        async with with_faults(self._faults, "shared.keys"):
            found = self._stream.matching(self._subject(f"{prefix}>"))
            return [self._key(item.subject) for item in found if not item.headers]

    def _put(self, key: str, value: bytes, *, revision: int, deleted: bool = False, ttl_s: int | None = None) -> int:
        subject = self._subject(key)
        headers = dict(_DELETED) if deleted else {}
        try:
            expected = Expected(subject, revision)
            seq = self._stream.publish(subject, value, headers=headers, expected=expected)
        except (WrongLastSequence, SubjectTaken):
            raise Conflict(
                f"Key {key} of {self._bucket} is no longer at revision {revision}: read it again and decide again."
            ) from None
        except StreamFull:
            raise TooLarge(f"The stream of {subject} has no space: raise its max_bytes.") from None
        if ttl_s is not None:
            self._stream.expire_after(seq, ttl_s)
        return seq

    def _subject(self, key: str) -> str:
        return stream_names.bucket_key(self._bucket, key)

    def _key(self, subject: str) -> str:
        return subject.removeprefix(stream_names.bucket_key(self._bucket, ""))

    def _value(self, stored: Stored) -> BucketValue:
        return BucketValue(key=self._key(stored.subject), value=stored.payload, revision=stored.seq)
