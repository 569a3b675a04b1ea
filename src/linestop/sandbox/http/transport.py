"""How a guarded request travels: over a connection to a checked address, its answer bounded."""

from __future__ import annotations

import codecs
import re
import ssl
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from email.message import Message
from typing import Any, cast

import anyio.lowlevel
import httpcore2
import httpx2

from linestop.sandbox.http.egress_guard import READS, Guard, netloc_of
from linestop.schemas.tool_contracts import Egress

_CORE_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
)
_CHARSETS = re.compile(
    r"ascii|utf-(?:8|16|32)\S*|iso8859-\d+|cp\d+|koi8-[ru]|mac-\w+|big5\w*|gb\w+|euc_\w+|shift_jis\w*"
)
"""Names, as Python has them, of the codecs in which text is written."""

_INFLATE_BYTES = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Screens, records and sends one request at a time; also each redirect, as a request of its own."""

    def __init__(self, guard: Guard, tls: ssl.SSLContext) -> None:
        self._guard = guard
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=_Backend(guard))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request`` and return its answer with a bounded, already decompressed body."""
        guard = self._guard
        guard.screen(request)
        index = guard.record(Egress(host=netloc_of(request.url), method=request.method))
        answer = await self._send(request)
        guard.update(index, status=answer.status)
        headers = httpx2.Headers(answer.headers)
        body = _Body(answer, headers, guard, index)
        for name in ("content-encoding", "content-length"):
            headers.pop(name, None)
        if (kind := headers.get("content-type")) is not None:
            headers["content-type"] = readable_type(kind)
        return httpx2.Response(answer.status, headers=headers, stream=body, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def _send(self, request: httpx2.Request) -> httpcore2.Response:
        guard = self._guard
        url = request.url
        assert isinstance(request.stream, AsyncIterable)
        sent = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
        )
        writes = guard.writes
        try:
            try:
                return await self._pool.handle_async_request(sent)
            finally:
                # Once a byte was written the host may have read it all, whatever becomes of the answer.
                if guard.writes != writes and request.method not in READS:
                    guard.effect_sent = True
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            raise guard.failed(f"{netloc_of(url)} cannot be reached ({error})") from None
        except _CORE_ERRORS as error:
            raise guard.failed(f"{netloc_of(url)} gave no proper answer ({error})") from None


def readable_type(content_type: str) -> str:
    """The content type with no charset but those that text is written in: what has none is read as UTF-8.

    A server may name any codec of Python, and some take quadratic time (``punycode``) or give no text (``zip``).
    """
    message = Message()
    message["content-type"] = content_type
    named = message.get_content_charset("utf-8")
    try:
        known = _CHARSETS.fullmatch(codecs.lookup(named).name) is not None
    except (LookupError, ValueError):
        known = False
    return content_type if known else message.get_content_type()


class _Body(httpx2.AsyncByteStream):
    """The answer's body, decompressed, at most ``response_bytes_max`` bytes before and after."""

    def __init__(self, answer: httpcore2.Response, headers: httpx2.Headers, guard: Guard, index: int) -> None:
        self._answer = answer
        self._coding = headers.get("content-encoding", "identity").strip().lower()
        self._guard = guard
        self._index = index

    async def __aiter__(self) -> AsyncIterator[bytes]:
        guard, most = self._guard, self._guard.policy.response_bytes_max
        inflate = _Inflate(guard, self._coding)
        received = given = 0
        assert isinstance(self._answer.stream, AsyncIterable)
        try:
            async for chunk in self._answer.stream:
                received += len(chunk)
                guard.update(self._index, bytes=received)
                for piece in inflate.pieces(chunk):
                    given += len(piece)
                    if max(given, received) > most:
                        raise guard.too_large(most)
                    yield piece
                    # A few bytes may unfold into megabytes, and nothing waits for the network meanwhile.
                    await anyio.lowlevel.checkpoint()
        except _CORE_ERRORS as error:
            raise guard.failed(f"the answer broke off ({error})") from None
        inflate.finish()

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Inflate:
    """Decompresses in small pieces, so that a bomb is noticed before it has unfolded."""

    def __init__(self, guard: Guard, coding: str) -> None:
        if coding not in {"identity", "", "gzip", "x-gzip"}:
            raise guard.unreadable(f"the answer is compressed as {coding[:20]!r}; only gzip is read")
        self._guard = guard
        self._plain = "gzip" not in coding
        self._decoder = zlib.decompressobj(_GZIP)
        self._seen = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._plain:
            yield data
            return
        self._seen = True
        try:
            while data:
                if self._decoder.eof:  # a gzip file may have several members
                    self._decoder = zlib.decompressobj(_GZIP)
                yield self._decoder.decompress(data, _INFLATE_BYTES)
                data = self._decoder.unconsumed_tail or self._decoder.unused_data
        except zlib.error as error:
            raise self._guard.unreadable(f"the answer is not valid gzip ({error})") from None

    def finish(self) -> None:
        if self._seen and not self._decoder.eof:
            raise self._guard.unreadable("the compressed answer broke off")


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._guard.addresses(host, port)
        refused: httpcore2.ConnectError | None = None
        for address in addresses:
            try:
                stream = await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                refused = error
            else:
                return _Stream(stream, self._guard)
        raise refused or httpcore2.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - the library's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - see timeout
    ) -> httpcore2.AsyncNetworkStream:
        raise self._guard.denied(path, "CONNECT", "Unix sockets are refused")


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that asks the guard before the first byte leaves and counts what was written."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, guard: Guard) -> None:
        self._stream = stream
        self._guard = guard

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._guard.leaving()
        self._guard.writes += 1
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
    ) -> httpcore2.AsyncNetworkStream:
        self._guard.leaving()
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._guard)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the library's signature
        return self._stream.get_extra_info(info)
