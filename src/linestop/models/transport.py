"""One exchange with a provider: the SDK opens it, a reader judges what comes back, a deadline bounds it all.

The SDK is only a transport. It signs, sends and reports statuses; its own models of the answer are not used,
because they accept anything: an object without a single expected field becomes a message full of ``None``.
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

from linestop.models.failures import CAUGHT, of_error, retold
from linestop.models.sse import STREAM_BYTES_MAX, EventDecoder, ServerEvent
from linestop.models.start_freshness import require_fresh
from linestop.schemas.model_messages import NO_KEY, ModelFailed, ModelReply, ModelRequest, OnDelta, Usage

_EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_HEAD_BYTES = 6
"""So many bytes tell how a body begins."""

DRAIN_S = 1.0
"""How long the rest of a finished stream is waited for, so that its connection can be used again."""

CONNECT_S = 10.0
SECRET_CHARS_MIN = 8
"""A key is longer; what stands in for one where a server needs none is a word like any other."""

ERROR_BYTES_MAX = 64 * 1024
"""How much of an error's body is read, as it comes over the wire."""

_KEY_WANTED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_NO_KEY_SENT = "No key was sent; name the variable that holds this server's key in api_key_env."
_FIRST_BYTE = ".send_request_headers.started"
_START_BY: ContextVar[datetime | None] = ContextVar("start_by", default=None)


class HttpAnswer(Protocol):
    """What of an SDK's streaming response is used."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The response's headers, case-insensitive."""
        ...

    def iter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        """The body, decompressed, as it comes."""
        ...


class Reader(Protocol):
    """Judges one answer. Pure: no I/O, and one reader an answer."""

    @property
    def finished(self) -> bool:
        """Whether the terminal event has been seen."""
        ...

    def event(self, event: ServerEvent) -> str:
        """Take one event of a stream; return the text it adds for watchers."""
        ...

    def whole(self, body: bytes) -> str:
        """Take an answer that came as one JSON body; return its text."""
        ...

    def reply(self) -> ModelReply:
        """Return the answer, or raise ``ModelFailed`` if it is not one."""
        ...

    def reported(self) -> Usage | None:
        """What the provider has said so far the answer took; None where it did not."""
        ...


async def watch_start(request: httpx2.Request) -> None:
    """Have ``request`` look at the clock once it is connected, right before its first byte (a hook of httpx2)."""
    request.extensions["trace"] = _look_at_clock


async def bound_error(response: httpx2.Response) -> None:
    """Let no error of a server be longer than anybody reads; the SDKs would take it in whole (a hook of httpx2)."""
    if response.status_code >= HTTPStatus.MULTIPLE_CHOICES and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Beginning(response.stream)


class _Beginning(httpx2.AsyncByteStream):
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


async def _look_at_clock(name: str, info: dict[str, Any]) -> None:
    del info
    if name.endswith(_FIRST_BYTE):
        require_fresh(_START_BY.get())


HOOKS: dict[str, list[Callable[..., Any]]] = {"request": [watch_start], "response": [bound_error]}
"""What an adapter's HTTP client does besides carrying requests."""


async def within(request: ModelRequest, secret: str, call: Callable[[], Awaitable[ModelReply]]) -> ModelReply:
    """Run ``call`` under the request's ``start_by`` and deadline: connecting, waiting, reading and watchers together.

    The SDKs' timeouts are per read, so a stream that drips forever would never meet one. ``secret`` is the key,
    which no failure repeats.

    Raises:
        ModelFailed: ``availability``, possibly billed, when the deadline passes.
    """
    _START_BY.set(request.start_by)
    try:
        with anyio.move_on_after(request.deadline_s):
            return await call()
    except ModelFailed as failed:
        if secret == NO_KEY and failed.status in _KEY_WANTED:
            raise retold(failed, f"{failed} {_NO_KEY_SENT}") from None
        # Some proxies quote the request that they refuse, and what is said here is kept for ever.
        if len(secret) < SECRET_CHARS_MIN or secret not in str(failed):
            raise
        raise retold(failed, str(failed).replace(secret, "[key]")) from None
    raise ModelFailed(
        "availability",
        f"{request.model} gave no whole answer within {request.deadline_s:g} s; try again or raise model_deadline_s.",
        possibly_billed=True,
    )


async def exchange(
    opening: AbstractAsyncContextManager[HttpAnswer],
    reader: Reader,
    *,
    who: str,
    sdk_error: type[Exception],
    on_delta: OnDelta | None,
) -> ModelReply:
    """Send one request and read its answer to the end.

    Cancellation passes through: the caller knows better than we why it stopped.

    Raises:
        ModelFailed: for everything else that is not a whole, well-formed answer.
    """
    answering = False
    try:
        async with opening as answer:
            answering = True
            await _read(answer, reader, who=who, on_delta=_harmless(on_delta))
            return reader.reply()
    except (ModelFailed, sdk_error, *CAUGHT) as error:
        failed, usage = of_error(error, who, answering=answering), reader.reported()
        if usage is not None and failed.usage is None and failed.possibly_billed:
            failed.usage, failed.possibly_billed = usage, False
        raise failed from (None if failed is error else error)


async def _read(answer: HttpAnswer, reader: Reader, *, who: str, on_delta: OnDelta) -> None:
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    head, chunks = await _beginning(answer.iter_bytes())
    looks = head.lstrip()
    # Servers and proxies mislabel both forms, so what is there decides before its label does.
    if looks.startswith(b"{") or (media == "application/json" and not looks.startswith(_EVENT_FIELDS)):
        # A server that ignores `stream` answers whole: the same answer in another wrapping.
        text = reader.whole(await _joined(chunks, who))
        if text:
            await on_delta(text)
    elif media in ("text/event-stream", "") or looks.startswith(_EVENT_FIELDS):
        await _read_events(chunks, reader, on_delta)
    else:
        raise ModelFailed(
            "malformed",
            f"{who} answered with {media} instead of an event stream; check base_url and proxies.",
            possibly_billed=True,
        )


async def _beginning(chunks: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes of a body, without a byte order mark, and all of its chunks."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head.removeprefix(codecs.BOM_UTF8).lstrip()) >= _HEAD_BYTES or len(head) > ERROR_BYTES_MAX:
            break
    head = head.removeprefix(codecs.BOM_UTF8)

    async def whole() -> AsyncIterator[bytes]:
        if head:
            yield head
        async for chunk in chunks:
            yield chunk

    return head, whole()


async def _read_events(chunks: AsyncIterator[bytes], reader: Reader, on_delta: OnDelta) -> None:
    decoder = EventDecoder()
    async for chunk in chunks:
        for event in decoder.feed(chunk):
            if reader.finished:
                continue
            text = reader.event(event)
            if text:
                await on_delta(text)
        if reader.finished:
            break
    else:
        # The last event of some servers lacks its blank line; half of one is no JSON and says nothing.
        with contextlib.suppress(ValueError):
            if last := decoder.rest():
                await on_delta(reader.event(last))
        return
    with anyio.move_on_after(DRAIN_S):
        async for _ in chunks:
            pass


async def _joined(chunks: AsyncIterator[bytes], who: str) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > STREAM_BYTES_MAX:
            sentence = f"{who} answered with more than {STREAM_BYTES_MAX} bytes; lower output_tokens_max."
            raise ModelFailed("malformed", sentence, possibly_billed=True)
    return bytes(body)


def _harmless(on_delta: OnDelta | None) -> OnDelta:
    """Deltas are for watchers and lossy: a watcher that fails is left out, the answer goes on."""
    failed = on_delta is None

    async def deliver(text: str) -> None:
        nonlocal failed
        if failed or on_delta is None:
            return
        try:
            await on_delta(text)
        except Exception:  # noqa: BLE001 - whatever a watcher raises, it must not cost the answer
            failed = True

    return deliver
