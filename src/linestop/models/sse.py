"""Server-sent events: bytes in, events out, every buffer bounded.

The SDKs have their own decoders, but hide the facts that decide whether an answer is complete: OpenAI's ``[DONE]``
never reaches the caller, and a stream that ends early raises nothing in either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from linestop.schemas.model_messages import ModelFailed

STREAM_BYTES_MAX = 32 * 1024 * 1024
"""The largest answer that is read, in bytes; far above any output limit of a provider."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\n|\Z)")
EVENT_BYTES_MAX = 8 * 1024 * 1024


class SseEvent(msgspec.Struct, frozen=True):
    """One event: its name (may be empty) and its data, lines joined by a newline."""

    name: str
    data: bytes


class EventDecoder:
    """Turns the bytes of a stream into events; an event without its blank line is never yielded."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._name = ""
        self._data: list[bytes] = []
        self._bytes_read = 0
        self._pending_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """Yield the events that ``chunk`` completes.

        Raises:
            ModelFailed: ``malformed`` when an event or the whole stream is over its bound.
        """
        self._bytes_read += len(chunk)
        if self._bytes_read > STREAM_BYTES_MAX:
            raise _too_large("The model's answer", STREAM_BYTES_MAX)
        self._buffer += chunk
        lines: list[bytes] = []
        # Only new bytes are searched: a long line in small pieces would otherwise take quadratic time.
        if b"\n" in chunk or b"\r" in chunk:
            # A carriage return alone also ends a line; at the end of a chunk its line feed may still follow.
            *lines, rest = _LINE_END.split(bytes(self._buffer))
            self._buffer[:] = rest
        for line in lines:
            event = self._line(line)
            if event is not None:
                yield event
        if len(self._buffer) + self._pending_bytes > EVENT_BYTES_MAX:
            raise _too_large("One event of the model's answer", EVENT_BYTES_MAX)

    def flush(self) -> SseEvent | None:
        """The last event of a stream that ended without a blank line, or None."""
        event = None
        for line in (*bytes(self._buffer).splitlines(), b""):
            event = self._line(line) or event
        self._buffer.clear()
        return event

    def _line(self, line: bytes) -> SseEvent | None:
        if not line:
            event = SseEvent(self._name, b"\n".join(self._data)) if self._data else None
            self._name, self._data, self._pending_bytes = "", [], 0
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._pending_bytes += len(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None


def _too_large(what: str, limit: int) -> ModelFailed:
    sentence = f"{what} is over {limit} bytes; lower output_tokens_max."
    return ModelFailed("malformed", sentence, possibly_billed=True)
