"""The only HTTP client of a tool: it reaches only the hosts that its policy allows.

A name is resolved once, each of its addresses must be public (or the operator named host and port), and the
connection goes to the address that was checked, so a name that resolves differently later gains nothing. Each
redirect is a new request under the same rules. Nothing is taken from the environment: no proxy, no netrc.
Responses are bounded in bytes after decompression and in total time. Every request is recorded, also one
that was refused (status 0).
"""

from __future__ import annotations

import ssl
from datetime import datetime
from functools import cache
from types import TracebackType
from typing import Self, TypedDict, Unpack

import anyio
import httpx2

from linestop import clock
from linestop.sandbox.http.egress_guard import (
    READ_METHODS,
    EgressGuard,
    EgressPolicy,
    Resolver,
    netloc_of,
    resolve_host,
)
from linestop.sandbox.http.transport import GuardedTransport
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.tool_contracts import Egress

__all__ = ["EgressClient", "EgressPolicy", "RequestOptions", "Resolver", "resolve_host"]

_HEADERS_FOR_OTHER_HOSTS = frozenset({"accept", "accept-encoding", "accept-language", "host", "user-agent"})


class RequestOptions(TypedDict, total=False):
    """The options of a request; they mean the same as in httpx."""

    headers: dict[str, str]
    params: dict[str, str | int | float | bool | None]
    json: JsonValue  # any JSON value
    data: JsonObject  # form fields
    content: bytes | str


class EgressClient:
    """An HTTP client for one call of a tool. Use it in ``async with``, or call ``aclose``.

    ``deadline`` bounds every request; ``start_by`` is checked right before the first byte of the first one
    leaves. ``requests`` lists every request; ``effect_sent`` tells whether any request that is not a read
    may have reached its host.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        deadline: datetime,
        start_by: datetime | None = None,
        resolve: Resolver = resolve_host,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.policy = policy
        self._guard = EgressGuard(policy, start_by, resolve)
        self._deadline = deadline
        self._tls = tls
        self._client: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def requests(self) -> tuple[Egress, ...]:
        """All requests so far, refused ones and redirects included."""
        return tuple(self._guard.records)

    @property
    def effect_sent(self) -> bool:
        """Whether a request that is not a read may have reached its host."""
        return self._guard.effect_sent

    async def get(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a GET; see ``request``."""
        return await self.request("GET", url, **options)

    async def head(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a HEAD; see ``request``."""
        return await self.request("HEAD", url, **options)

    async def post(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a POST; see ``request``."""
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a PUT; see ``request``."""
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a PATCH; see ``request``."""
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a DELETE; see ``request``."""
        return await self.request("DELETE", url, **options)

    async def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> httpx2.Response:
        """Send a request, follow its redirects, and return the whole response whatever its status.

        Raises:
            EgressDenied: if the guard refuses the request or one of its redirects.
            EgressFailed: if there was no complete response in time, or it is over a limit.
            EgressTooLate: if ``start_by`` passed before the first byte left.
        """
        seconds = min((self._deadline - clock.now()).total_seconds(), self.policy.request_s_max)
        client = self._open()
        try:
            with anyio.fail_after(max(seconds, 0.0)):
                try:
                    request = client.build_request(method.upper(), url, **options)
                except httpx2.InvalidURL as error:
                    raise self._guard.denied("invalid", method, f"the URL is not valid ({error})") from None
                if reason := _wrong_length_reason(request):
                    raise self._guard.denied(netloc_of(request.url), method, reason)
                return await self._follow(client, request)
        except TimeoutError:
            raise self._guard.failed(f"no complete response within {seconds:.1f} s") from None
        except httpx2.HTTPError as error:
            raise self._guard.failed(f"{type(error).__name__}: {error}") from None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _open(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                transport=GuardedTransport(self._guard, self._tls or _default_tls()),
                trust_env=False,
                follow_redirects=False,
                timeout=None,  # the deadline bounds the whole exchange, gaps included
                headers={"User-Agent": "linestop", "Accept-Encoding": "gzip"},
            )
        return self._client

    async def _follow(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        for _ in range(self.policy.redirects_max + 1):
            response = await client.send(request)
            next_request = response.next_request
            if next_request is None:
                if response.has_redirect_location:
                    raise self._guard.denied("invalid", request.method, "the redirect's URL is not valid")
                return response
            request = self._checked_redirect(request, next_request)
        raise self._guard.denied(
            netloc_of(request.url), request.method, f"more than {self.policy.redirects_max} redirects"
        )

    def _checked_redirect(self, request: httpx2.Request, next_request: httpx2.Request) -> httpx2.Request:
        """Send another host neither headers, which may hold a key, nor a body that was meant for the first."""
        if _origin(request.url) == _origin(next_request.url):
            return next_request
        if next_request.method not in READ_METHODS:
            raise self._guard.denied(
                netloc_of(next_request.url), next_request.method, "a redirect would carry the body to another host"
            )
        for name in [name for name in next_request.headers if name.lower() not in _HEADERS_FOR_OTHER_HOSTS]:
            del next_request.headers[name]
        return next_request


def _wrong_length_reason(request: httpx2.Request) -> str:
    """What is wrong with the caller's Content-Length, which would break the request halfway, or ""."""
    declared = request.headers.get("content-length")
    if declared is None:
        return ""
    try:
        size = len(request.content)
    except httpx2.RequestNotRead:
        return "a Content-Length cannot be given for a body that is made on the way; leave it out"
    if declared.strip() == str(size):
        return ""
    return f"the Content-Length is {declared[:20]!r}, but the body has {size} bytes; leave the header out"


def _origin(url: httpx2.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host, url.port


@cache
def _default_tls() -> ssl.SSLContext:
    # Created once: reading the certificates takes tens of milliseconds.
    return httpx2.create_ssl_context(trust_env=False)
