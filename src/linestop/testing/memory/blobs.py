"""Blobs in memory: stored whole, under their digest."""

from __future__ import annotations

import hashlib

from linestop.errors import NotFound, TooLarge
from linestop.schemas import subjects
from linestop.schemas.defaults import BLOB_BYTES_MAX
from linestop.schemas.subjects import TenantId
from linestop.testing.memory.faults import Faults, with_faults


class MemoryBlobs:
    """Write-once payloads; see ``interfaces.Blobs``. ``stored`` maps the subject of a blob's part 0 to its bytes."""

    def __init__(self, stored: dict[str, bytes], faults: Faults) -> None:
        self._stored = stored
        self._faults = faults

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Store ``data`` and return its digest."""
        if len(data) > BLOB_BYTES_MAX:
            raise TooLarge(
                f"A blob has {len(data)} bytes; it may have at most {BLOB_BYTES_MAX}: store less, or in pieces."
            )
        sha256 = hashlib.sha256(data).hexdigest()
        async with with_faults(self._faults, "blobs.put"):
            self._stored.setdefault(subjects.blob(tenant, sha256, part=0), data)
        return sha256

    async def get(self, tenant: TenantId, sha256: str) -> bytes:
        """Return the bytes of a blob, checked."""
        async with with_faults(self._faults, "blobs.get"):
            data = self._stored.get(subjects.blob(tenant, sha256, part=0))
        if data is None:
            raise NotFound(f"Blob {sha256} of tenant {tenant} is missing or incomplete: store it again.")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise NotFound(f"Blob {sha256} of tenant {tenant} is stored, but its bytes do not match its digest.")
        return data
