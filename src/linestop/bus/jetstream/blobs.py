"""Blobs on JetStream: parts of a fixed size, each under its own subject, which can be written once.

A header of every part names the number of parts, so a reader knows from the first part which others to request. The
last part is stored last: a blob with its last part is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import anyio

from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.jetstream.replies import meaning
from linestop.bus.jetstream.retry import publish
from linestop.bus.streams import stream_names
from linestop.bus.wire import Wire, header_block
from linestop.errors import NotFound, Refused, TooLarge
from linestop.off_loop import off_loop
from linestop.schemas import subjects
from linestop.schemas.defaults import BLOB_BYTES_MAX, BLOB_PART_BYTES
from linestop.schemas.subjects import TenantId

PARTS_HEADER: Final = "Linestop-Parts"
CONCURRENT_PARTS_MAX: Final = 8
"""Parts of one blob that are in flight at the same time."""


class JetStreamBlobs:
    """Write-once payloads; see ``interfaces.Blobs``."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reader = Reader(wire, stream_names.BLOBS)

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Store ``data`` and return its digest; see ``interfaces.Blobs``."""
        if len(data) > BLOB_BYTES_MAX:
            raise TooLarge(
                f"A blob of {len(data)} bytes is over the limit of {BLOB_BYTES_MAX}: store less, or in pieces."
            )
        sha256 = await _digest(data)
        total = max(1, -(-len(data) // BLOB_PART_BYTES))

        async def put_part(part: int) -> None:
            chunk = data[part * BLOB_PART_BYTES : (part + 1) * BLOB_PART_BYTES]
            await self._put_part(subjects.blob(tenant, sha256, part=part), chunk, total=total)

        await _for_each_part(range(total - 1), put_part)
        await put_part(total - 1)
        return sha256

    async def get(self, tenant: TenantId, sha256: str) -> bytes:
        """Return the bytes of a blob, checked; see ``interfaces.Blobs``."""
        missing = NotFound(f"Blob {sha256} of tenant {tenant} is missing or incomplete: store it again.")
        first = await self._part(subjects.blob(tenant, sha256, part=0))
        if first is None:
            raise missing
        total = first.headers.get(PARTS_HEADER, "")
        if not total.isdecimal() or not 1 <= int(total) <= -(-BLOB_BYTES_MAX // BLOB_PART_BYTES):
            raise missing
        parts: dict[int, StreamMessage | None] = {0: first}

        async def get_part(part: int) -> None:
            parts[part] = await self._part(subjects.blob(tenant, sha256, part=part))

        await _for_each_part(range(1, int(total)), get_part)
        present = [part for index in range(int(total)) if (part := parts[index]) is not None]
        if len(present) < int(total):
            raise missing
        data = b"".join(part.payload for part in present)
        if await _digest(data) != sha256:
            raise NotFound(f"Blob {sha256} of tenant {tenant} is stored, but its bytes do not match its digest.")
        return data

    async def _put_part(self, subject: str, chunk: bytes, *, total: int) -> None:
        # Without a message id: if others could guess it, they could make the part look like a repetition.
        headers = header_block({PARTS_HEADER: str(total)})
        ack = await publish(self._wire, subject, chunk, headers=headers)
        if meaning(ack) == "stored":
            return
        existing = await self._reader.direct_last(subject)
        if existing is not None and existing.payload != chunk:
            raise Refused(
                f"The bytes stored under {subject} do not match its digest: find out who wrote them. "
                "They stay for 90 days, so change the text until then."
            )

    async def _part(self, subject: str) -> StreamMessage | None:
        # A replica may lag, and roles may not read BLOBS at the leader; the second read may reach another replica.
        return await self._reader.direct_last(subject) or await self._reader.direct_last(subject)


async def _digest(data: bytes) -> str:
    """Return the SHA-256 in hex, off the event loop: many megabytes take tens of milliseconds."""
    return await off_loop(len(data), lambda: hashlib.sha256(data).hexdigest())


async def _for_each_part(parts: Sequence[int], work: Callable[[int], Coroutine[None, None, None]]) -> None:
    """Run ``work`` for every part, a few at a time."""
    for start in range(0, len(parts), CONCURRENT_PARTS_MAX):
        try:
            async with anyio.create_task_group() as group:
                for part in parts[start : start + CONCURRENT_PARTS_MAX]:
                    group.start_soon(work, part)
        except ExceptionGroup as failures:
            # Parts fail for the same reason; callers expect that error, not a group.
            raise failures.exceptions[0] from failures
