"""One exchange with a provider: the SDK opens it, a reader reads the answer, and a deadline bounds both.

The SDK is only a transport: it signs, sends and reports statuses. Its classes for answers are not used, because
they accept anything: an object without a single expected field becomes a message full of ``None``.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from datetime import datetime
from http import HTTPStatus
from typing import Any, Protocol

import anyio
import httpx2

from linestop.models.failures import ERRORS_TO_CLASSIFY, failure_of_error, reworded
from linestop.models.may_still_begin import require_fresh
from linestop.models.sse import STREAM_BYTES_MAX, EventDecoder, SseEvent
from linestop.schemas.defaults import SECRET_CHARS_MIN
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import NO_KEY, ModelFailed, ModelReply, ModelRequest, OnDelta, Usage

_EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_PEEK_BYTES = 6
"""The number of bytes that show how a body begins."""

DRAIN_S = 1.0
"""How long to wait for the rest of a finished stream, so that its connection can be used again."""

ERROR_BYTES_MAX = 64 * 1024
"""How much of the body of an error is read, in bytes on the wire."""

_KEY_REJECTED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_NO_KEY_SENT = "No key was sent; name the variable that holds this server's key in api_key_env."
_FIRST_BYTE = ".send_request_headers.started"
_START_BY: ContextVar[datetime | None] = ContextVar("start_by", default=None)


class HttpResponse(Protocol):
    """The part of an SDK's streaming response that is used."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response, case-insensitive."""
        ...

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The body, decompressed, as it comes."""
        ...


class ReplyReader(Protocol):
    """Reads one answer. Pure: no I/O, and one reader per answer."""

    @property
    def finished(self) -> bool:
        """Whether the terminal event has been seen."""
        ...

    def take_event(self, event: SseEvent) -> str:
        """Read one event of a stream; return the text that it adds for watchers."""
        ...

    def take_body(self, body: bytes) -> str:
        """Read an answer that came as one JSON body; return its text."""
        ...

    def reply(self) -> ModelReply:
        """Return the answer, or raise ``ModelFailed`` if it is not one."""
        ...

    def reported_usage(self) -> Usage | None:
        """The usage that the provider has reported so far, or None."""
        ...


async def check_start_when_connected(request: httpx2.Request) -> None:
    """Have ``request`` check ``start_by`` once connected, right before its first byte (a hook of httpx2)."""
    request.extensions["trace"] = _check_start_by


async def bound_error_body(response: httpx2.Response) -> None:
    """Bound the body of a server's error, which the SDKs would read whole (a hook of httpx2)."""
    if response.status_code >= HTTPStatus.MULTIPLE_CHOICES and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _BoundedBody(response.stream)


class _BoundedBody(httpx2.AsyncByteStream):
    """The first bytes of a body."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ERROR_BYTES_MAX
        async for chunk in self._stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _check_start_by(name: str, info: JsonObject) -> None:
    del info
    if name.endswith(_FIRST_BYTE):
        require_fresh(_START_BY.get())


HOOKS: dict[str, list[Callable[..., Any]]] = {"request": [check_start_when_connected], "response": [bound_error_body]}
"""The hooks of an adapter's HTTP client."""


async def with_deadline(request: ModelRequest, secret: str, send: Callable[[], Awaitable[ModelReply]]) -> ModelReply:
    """Run ``send`` under the request's ``start_by`` and deadline: connecting, waiting, reading and watchers together.

    The SDKs' timeouts are per read, so a stream that drips without end would never reach one. ``secret`` is the key,
    which no failure repeats.

    Raises:
        ModelFailed: ``availability``, possibly billed, when the deadline passes.
    """
    _START_BY.set(request.start_by)
    try:
        with anyio.move_on_after(request.deadline_s):
            return await send()
    except ModelFailed as failed:
        if secret == NO_KEY and failed.status in _KEY_REJECTED:
            raise reworded(failed, f"{failed} {_NO_KEY_SENT}") from None
        # Some proxies quote the request that they refuse, and this sentence is stored in the log.
        if len(secret) < SECRET_CHARS_MIN or secret not in str(failed):
            raise
        raise reworded(failed, str(failed).replace(secret, "[key]")) from None
    raise ModelFailed(
        "availability",
        f"{request.model} gave no whole answer within {request.deadline_s:g} s; try again or raise model_deadline_s.",
        possibly_billed=True,
    )


async def exchange(
    opening: AbstractAsyncContextManager[HttpResponse],
    reader: ReplyReader,
    *,
    requested_model: str,
    sdk_error: type[Exception],
    on_delta: OnDelta | None,
) -> ModelReply:
    """Send one request and read its answer to the end.

    Cancellation passes through: the caller knows why it stopped.

    Raises:
        ModelFailed: for everything else that is not a whole, well-formed answer.
    """
    has_response = False
    try:
        async with opening as response:
            has_response = True
            await _read(response, reader, requested_model=requested_model, on_delta=_ignoring_failures(on_delta))
            return reader.reply()
    except (ModelFailed, sdk_error, *ERRORS_TO_CLASSIFY) as error:
        failed, usage = failure_of_error(error, requested_model, has_response=has_response), reader.reported_usage()
        if usage is not None and failed.usage is None and failed.possibly_billed:
            failed.usage, failed.possibly_billed = usage, False
        raise failed from (None if failed is error else error)


async def _read(response: HttpResponse, reader: ReplyReader, *, requested_model: str, on_delta: OnDelta) -> None:
    media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    head, chunks = await _peek(response.iter_bytes())
    body_start = head.lstrip()
    # Servers and proxies mislabel both forms, so the content decides before its label.
    if body_start.startswith(b"{") or (media == "application/json" and not body_start.startswith(_EVENT_FIELDS)):
        # A server that ignores `stream` sends the same answer as one body.
        text = reader.take_body(await _whole_body(chunks, requested_model))
        if text:
            await on_delta(text)
    elif media in ("text/event-stream", "") or body_start.startswith(_EVENT_FIELDS):
        await _read_events(chunks, reader, on_delta)
    else:
        raise ModelFailed(
            "malformed",
            f"{requested_model} answered with {media} instead of an event stream; check base_url and proxies.",
            possibly_billed=True,
        )


async def _peek(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes of a body, without a byte order mark, and all of its chunks."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head.removeprefix(codecs.BOM_UTF8).lstrip()) >= _PEEK_BYTES or len(head) > ERROR_BYTES_MAX:
            break
    head = head.removeprefix(codecs.BOM_UTF8)

    async def whole_body() -> AsyncIterator[bytes]:
        if head:
            yield head
        async for chunk in chunks:
            yield chunk

    return head, whole_body()


async def _read_events(chunks: AsyncIterator[bytes], reader: ReplyReader, on_delta: OnDelta) -> None:
    decoder = EventDecoder()
    async for chunk in chunks:
        for event in decoder.feed(chunk):
            if reader.finished:
                continue
            text = reader.take_event(event)
            if text:
                await on_delta(text)
        if reader.finished:
            break
    else:
        # Some servers omit the blank line of the last event; half an event is not JSON and is dropped.
        with contextlib.suppress(ValueError):
            if last := decoder.flush():
                await on_delta(reader.take_event(last))
        return
    with anyio.move_on_after(DRAIN_S):
        async for _ in chunks:
            pass


async def _whole_body(chunks: AsyncIterator[bytes], requested_model: str) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > STREAM_BYTES_MAX:
            sentence = f"{requested_model} answered with more than {STREAM_BYTES_MAX} bytes; lower output_tokens_max."
            raise ModelFailed("malformed", sentence, possibly_billed=True)
    return bytes(body)


def _ignoring_failures(on_delta: OnDelta | None) -> OnDelta:
    """Deltas are for watchers and may be lost: a watcher that fails gets no more, and the answer continues."""
    has_failed = on_delta is None

    async def deliver(text: str) -> None:
        nonlocal has_failed
        if has_failed or on_delta is None:
            return
        try:
            await on_delta(text)
        except Exception:  # noqa: BLE001 - whatever a watcher raises, it must not cost the answer
            has_failed = True

    return deliver
