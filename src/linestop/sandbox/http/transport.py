"""Sends guarded requests over connections to checked addresses; responses are bounded."""

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

from linestop.sandbox.http.egress_guard import READ_METHODS, EgressGuard, netloc_of
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
"""Python's names of the codecs that text is written in."""

_PIECE_BYTES = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Screens, records and sends one request at a time; each redirect is a separate request."""

    def __init__(self, guard: EgressGuard, tls: ssl.SSLContext) -> None:
        self._guard = guard
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=_Backend(guard))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send ``request`` and return its response with a bounded, already decompressed body."""
        guard = self._guard
        guard.screen(request)
        index = guard.record(Egress(host=netloc_of(request.url), method=request.method))
        response = await self._send(request)
        guard.update(index, status=response.status)
        headers = httpx2.Headers(response.headers)
        body = _Body(response, headers, guard, index)
        for name in ("content-encoding", "content-length"):
            headers.pop(name, None)
        if (content_type := headers.get("content-type")) is not None:
            headers["content-type"] = readable_content_type(content_type)
        return httpx2.Response(response.status, headers=headers, stream=body, request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def _send(self, request: httpx2.Request) -> httpcore2.Response:
        guard = self._guard
        url = request.url
        assert isinstance(request.stream, AsyncIterable)
        core_request = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
        )
        writes_before = guard.writes
        try:
            try:
                return await self._pool.handle_async_request(core_request)
            finally:
                # Once a byte was written the host may have read the whole request, with or without a response.
                if guard.writes != writes_before and request.method not in READ_METHODS:
                    guard.effect_sent = True
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            raise guard.failed(f"{netloc_of(url)} cannot be reached ({error})") from None
        except _CORE_ERRORS as error:
            raise guard.failed(f"{netloc_of(url)} gave no valid response ({error})") from None


def readable_content_type(content_type: str) -> str:
    """The content type, without a charset that text is not written in; without a charset a body is read as UTF-8.

    A server may name any codec of Python, and some take quadratic time (``punycode``) or give no text (``zip``).
    """
    message = Message()
    message["content-type"] = content_type
    charset = message.get_content_charset("utf-8")
    try:
        is_text_charset = _CHARSETS.fullmatch(codecs.lookup(charset).name) is not None
    except (LookupError, ValueError):
        is_text_charset = False
    return content_type if is_text_charset else message.get_content_type()


class _Body(httpx2.AsyncByteStream):
    """The body of the response, decompressed, at most ``response_bytes_max`` bytes before and after."""

    def __init__(self, response: httpcore2.Response, headers: httpx2.Headers, guard: EgressGuard, index: int) -> None:
        self._response = response
        self._coding = headers.get("content-encoding", "identity").strip().lower()
        self._guard = guard
        self._index = index

    async def __aiter__(self) -> AsyncIterator[bytes]:
        guard, bytes_max = self._guard, self._guard.policy.response_bytes_max
        decompressor = _Decompressor(guard, self._coding)
        received_bytes = decompressed_bytes = 0
        assert isinstance(self._response.stream, AsyncIterable)
        try:
            async for chunk in self._response.stream:
                received_bytes += len(chunk)
                guard.update(self._index, bytes=received_bytes)
                for piece in decompressor.pieces(chunk):
                    decompressed_bytes += len(piece)
                    if max(decompressed_bytes, received_bytes) > bytes_max:
                        raise guard.too_large(bytes_max)
                    yield piece
                    # A few bytes may become megabytes, and decompressing them never waits for the network.
                    await anyio.lowlevel.checkpoint()
        except _CORE_ERRORS as error:
            raise guard.failed(f"the response broke off ({error})") from None
        decompressor.finish()

    async def aclose(self) -> None:
        await self._response.aclose()


class _Decompressor:
    """Decompresses in small pieces, so that a bomb is noticed before it is unpacked."""

    def __init__(self, guard: EgressGuard, coding: str) -> None:
        if coding not in {"identity", "", "gzip", "x-gzip"}:
            raise guard.unreadable(f"the response is compressed as {coding[:20]!r}; only gzip is read")
        self._guard = guard
        self._is_uncompressed = "gzip" not in coding
        self._decoder = zlib.decompressobj(_GZIP)
        self._has_data = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self._is_uncompressed:
            yield data
            return
        self._has_data = True
        try:
            while data:
                if self._decoder.eof:  # a gzip file may have several members
                    self._decoder = zlib.decompressobj(_GZIP)
                yield self._decoder.decompress(data, _PIECE_BYTES)
                data = self._decoder.unconsumed_tail or self._decoder.unused_data
        except zlib.error as error:
            raise self._guard.unreadable(f"the response is not valid gzip ({error})") from None

    def finish(self) -> None:
        if self._has_data and not self._decoder.eof:
            raise self._guard.unreadable("the compressed response broke off")


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects only to addresses that were checked."""

    def __init__(self, guard: EgressGuard) -> None:
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
        last_error: httpcore2.ConnectError | None = None
        for address in addresses:
            try:
                stream = await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                last_error = error
            else:
                return _Stream(stream, self._guard)
        raise last_error or httpcore2.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - the library's signature
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - see timeout
    ) -> httpcore2.AsyncNetworkStream:
        raise self._guard.denied(path, "CONNECT", "Unix sockets are refused")


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that asks the guard before the first byte leaves, and counts the writes."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, guard: EgressGuard) -> None:
        self._stream = stream
        self._guard = guard

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._guard.check_may_leave()
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
        self._guard.check_may_leave()
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._guard)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - the library's signature
        return self._stream.get_extra_info(info)
