"""Turns a decided event into the message that is appended: envelope, blobs, headers.

Ids are UUIDv7 (time-ordered).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime

import anyio
import msgspec

from linestop.bus.interfaces import Append, Blobs
from linestop.logger import Logger
from linestop.off_loop import off_loop
from linestop.schemas.defaults import INLINE_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.events import (
    EVENT_NAMES,
    Accepted,
    Answered,
    AnyEvent,
    BlobRef,
    Cue,
    Edited,
    Judged,
    Proposed,
    Resolved,
    Text,
    encode,
)
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RoleName, TenantId
from linestop.schemas.trace_context import event_traceparent

LOG = Logger("linestop.event_message")
STORE_FULL_RESULT_WITHIN_S = 1.5
"""How long a result may wait until its full text is stored: less than the 2 s until another process takes over."""

EVENT_BYTES_MAX = MESSAGE_BYTES_MAX - 1_024
"""The maximum size of an event without its envelope."""

CROWDED_BYTES_MAX = 256
"""The longest text that stays in an event whose texts together are too long for it."""


def uuid7(now: datetime, random_bits: int) -> str:
    """Build a UUIDv7 from a time and 74 random bits."""
    millis = int(now.timestamp() * 1_000) & ((1 << 48) - 1)
    high, low = (random_bits >> 62) & 0xFFF, random_bits & ((1 << 62) - 1)
    digits = f"{(millis << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class EventEncoder:
    """Builds the appends of one process. ``sampled`` says whether the spans of a run are recorded, if tracing is on."""

    def __init__(
        self,
        *,
        build: str,
        blobs: Blobs,
        random_source: random.Random,
        now: Callable[[], datetime],
        sampled: Callable[[Run, AnyEvent], bool] | None = None,
    ) -> None:
        self._build = build
        self._blobs = blobs
        self._random_source = random_source
        self._now = now
        self._sampled = sampled

    async def encode(
        self, run: Run, role: RoleName, event: AnyEvent, cue: Cue, *, at: datetime | None = None
    ) -> Append:
        """Build the append of ``event`` as the next event of ``run``; long texts are stored as blobs first.

        ``at`` is the time of the decision, the present if none was taken. A replay decides again at that same time.
        """
        if self.is_short(event):
            return self.encode_short(run, role, event, cue, at=at)
        spilled = await self._spill(run.tenant, event, INLINE_BYTES_MAX)
        if isinstance(event, Proposed | Judged) and len(encode(spilled)) > EVENT_BYTES_MAX:
            # Each text fits by itself, but all of them together do not.
            spilled = await self._spill(run.tenant, event, CROWDED_BYTES_MAX)
        return self.encode_short(run, role, spilled, cue, at=at)

    @staticmethod
    def is_short(event: AnyEvent) -> bool:
        """Whether the texts of the event together certainly need no blob."""
        return sum(len(text) for text in _texts(event) if isinstance(text, str)) * 4 <= INLINE_BYTES_MAX

    def encode_short(
        self, run: Run, role: RoleName, event: AnyEvent, cue: Cue, *, at: datetime | None = None
    ) -> Append:
        """Build the append of an event that is short, or whose long texts are already stored as blobs."""
        now = at or self._now()
        event_id = uuid7(now, self._random_source.getrandbits(74))
        trace = event_traceparent(run, event, sampled=self._sampled(run, event) if self._sampled else None)
        enveloped = msgspec.structs.replace(
            event, id=event_id, prev=run.head, at=max(now, run.at), cue=cue, build=self._build, trace=trace
        )
        name = EVENT_NAMES[type(event)]
        return Append(
            tenant=run.tenant,
            run=run.run,
            role=role,
            event=name,
            n=run.n + 1,
            head_seq=run.head_seq,
            payload=encode(enveloped),
        )

    async def store_full_result(self, tenant: TenantId, result: LongResult) -> AnyEvent:
        """Build the event of a truncated result; the full text is stored first, and the event refers to it.

        The result matters more than its full text: if that cannot be stored, the event has no reference.
        """
        data = await off_loop(result.event.result_bytes, result.full_text.encode)
        try:
            with anyio.fail_after(STORE_FULL_RESULT_WITHIN_S):
                sha256 = await self._blobs.put(tenant, data)
        except Exception as error:  # noqa: BLE001 - the result itself must be appended in any case
            LOG.warning("result_not_kept", tenant=tenant, call=result.event.call, bytes=len(data), error=repr(error))
            return result.event
        return msgspec.structs.replace(
            result.event, result_ref=BlobRef(sha256=sha256, bytes=len(data), type=result.type)
        )

    async def _spill(self, tenant: TenantId, event: AnyEvent, bytes_max: int) -> AnyEvent:
        """Replace texts over ``bytes_max`` bytes by blob references."""

        async def text(value: Text, kind: str = "application/json") -> Text:
            return await self._text_or_blob(tenant, value, bytes_max, kind=kind)

        match event:
            case Proposed():
                calls = tuple([msgspec.structs.replace(c, args=await text(c.args)) for c in event.calls])
                spilled_text, blocks = await text(event.text, "text/plain"), await text(event.blocks)
                return msgspec.structs.replace(event, text=spilled_text, blocks=blocks, calls=calls)
            case Judged():
                judged = tuple([msgspec.structs.replace(c, args=await text(c.args)) for c in event.calls])
                return msgspec.structs.replace(event, calls=judged)
            case Accepted() | Answered():
                return msgspec.structs.replace(event, answer=await text(event.answer, "text/plain"))
            case Edited():
                return msgspec.structs.replace(event, args=await text(event.args))
            case Resolved():
                return msgspec.structs.replace(event, result=await text(event.result))
            case _:
                return event

    async def _text_or_blob(self, tenant: TenantId, text: Text, bytes_max: int, *, kind: str) -> Text:
        if isinstance(text, BlobRef) or len(text) * 4 <= bytes_max:
            return text
        data = text.encode()
        if len(data) <= bytes_max:
            return text
        return BlobRef(sha256=await self._blobs.put(tenant, data), bytes=len(data), type=kind)


def _texts(event: AnyEvent) -> Sequence[Text]:
    """The texts of an event that may become blobs."""
    match event:
        case Proposed():
            return (event.text, event.blocks, *(call.args for call in event.calls))
        case Judged():
            return [call.args for call in event.calls]
        case Accepted() | Answered():
            return (event.answer,)
        case Edited():
            return (event.args,)
        case Resolved():
            return (event.result,)
        case _:
            return ()
