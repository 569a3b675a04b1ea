"""The parts shared by all events: the envelope, texts that may be blobs, and moments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

NEVER = datetime(1970, 1, 1, tzinfo=UTC)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A moment with its zone: a moment without one cannot be compared with others, so it is not accepted."""


class BlobRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text or value that is stored once under its digest, because it is over ``INLINE_BYTES_MAX``."""

    sha256: str
    bytes: int
    type: str = "application/json"


Text = str | BlobRef


def text_or_size(text: Text) -> str:
    """Return the text, or in its place the size of one that is stored elsewhere, for a line that a person reads."""
    return f"[{text.bytes} bytes]" if isinstance(text, BlobRef) else text


class Cue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The cause of a pass over the run: an event's number, or the id of a task, control message or timer.

    All events that are appended in one pass carry the cue that began it.
    """

    kind: Literal["event", "task", "control", "timer", "sweep"]
    id: str = ""
    n: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope of all events. The shell fills it in when it appends; decisions leave it empty.

    ``prev`` is the SHA-256 of (subject, NUL, payload) of the event before; ``at`` is never before that
    event's; ``build`` is package version and configuration digest; ``trace`` a W3C traceparent.
    """

    id: str = ""
    prev: str = ""
    at: Moment = NEVER
    cue: Cue = Cue(kind="sweep")
    build: str = ""
    trace: str = ""
