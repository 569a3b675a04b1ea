"""One exchange with a provider: the SDK opens it, a reader judges what comes back, a deadline bounds it all.

The SDK is only a transport. It signs, sends and reports statuses; its own models of the answer are not used,
because they accept anything: an object without a single expected field becomes a message full of ``None``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio

from linestop.models.failures import CAUGHT, of_error
from linestop.models.sse import STREAM_BYTES_MAX, EventDecoder, ServerEvent
from linestop.schemas.model import ModelFailed, ModelReply, OnDelta

DRAIN_S = 1.0
"""How long the rest of a finished stream is waited for, so that its connection can be used again."""

CONNECT_S = 10.0


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


async def within(deadline_s: float, who: str, call: Callable[[], Awaitable[ModelReply]]) -> ModelReply:
    """Run ``call`` under one deadline: connecting, waiting, reading and watchers together.

    The SDKs' timeouts are per read, so a stream that drips forever would never meet one.

    Raises:
        ModelFailed: ``availability``, possibly billed, when the deadline passes.
    """
    with anyio.move_on_after(deadline_s):
        return await call()
    raise ModelFailed(
        "availability",
        f"{who} gave no whole answer within {deadline_s:g} s; try again or raise model_deadline_s.",
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
    except (sdk_error, *CAUGHT) as error:
        raise of_error(error, who, answering=answering) from error


async def _read(answer: HttpAnswer, reader: Reader, *, who: str, on_delta: OnDelta) -> None:
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = answer.iter_bytes()
    if media == "application/json":
        # A server that ignores `stream` answers whole: the same answer in another wrapping.
        text = reader.whole(await _joined(chunks, who))
        if text:
            await on_delta(text)
    elif media in ("text/event-stream", ""):
        await _read_events(chunks, reader, on_delta)
    else:
        raise ModelFailed(
            "malformed",
            f"{who} answered with {media} instead of an event stream; check base_url and proxies.",
            possibly_billed=True,
        )


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
