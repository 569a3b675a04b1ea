"""The rules for the requests of one call, and the record of these requests."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from datetime import datetime

import anyio
import httpcore2
import httpx2
import msgspec

from linestop.sandbox.http.addresses import Rule, address_error, host_error, matching_rule, parse_address, parse_allow
from linestop.sandbox.tools.failures import EgressDenied, EgressFailed, EgressTooLate
from linestop.schemas.defaults import (
    EGRESS_REDIRECTS_MAX,
    EGRESS_REQUEST_MAX_S,
    EGRESS_REQUESTS_MAX,
    EGRESS_RESPONSE_BYTES_MAX,
)
from linestop.schemas.start_deadline import reason_not_to_begin
from linestop.schemas.tool_contracts import Egress

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Returns all addresses of a host; replaceable, so that a test can play a lying name server."""

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = READ_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
_ADDRESSES_MAX = 4


class EgressPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts that a tool may reach, and how much it may receive.

    ``allow``: ``*`` any public host; ``api.example.com`` or ``*.example.com`` on ports 80 and 443, public
    addresses only; ``host:port`` exactly that port, also on a private or loopback address. Empty: nothing.
    """

    allow: tuple[str, ...] = ("*",)
    response_bytes_max: int = EGRESS_RESPONSE_BYTES_MAX
    redirects_max: int = EGRESS_REDIRECTS_MAX
    requests_max: int = EGRESS_REQUESTS_MAX
    request_s_max: float = EGRESS_REQUEST_MAX_S


async def resolve_host(host: str, port: int) -> list[str]:
    """Ask the system's resolver for all addresses of ``host``."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class EgressGuard:
    """The rules and the record of one client. ``writes`` counts the writes to the wire."""

    def __init__(self, policy: EgressPolicy, start_by: datetime | None, resolve: Resolver) -> None:
        self.policy = policy
        self.records: list[Egress] = []
        self.effect_sent = False
        self.writes = 0
        self._rules = parse_allow(policy.allow)
        self._start_by = start_by
        self._resolve = resolve
        self._begun = False

    def screen(self, request: httpx2.Request) -> None:
        """Refuse a request by its method and URL, before any name is resolved."""
        url = request.url
        host = url.raw_host.decode("ascii")
        netloc = netloc_of(url)
        if len(self.records) >= self.policy.requests_max:
            raise EgressDenied(f"more than {self.policy.requests_max} requests in one call")
        if url.scheme not in {"http", "https"}:
            raise self.denied(netloc, request.method, f"the scheme {url.scheme!r} is not http or https")
        if request.method not in METHODS:
            raise self.denied(netloc, request.method, "that method is not allowed")
        if url.userinfo:
            raise self.denied(netloc, request.method, "a URL with a user name is refused; send a header")
        if reason := host_error(host):
            raise self.denied(netloc, request.method, reason)
        if request.headers.get("host", "").encode() != url.netloc:
            raise self.denied(netloc, request.method, "the Host header names another host than the URL")
        if self._rule(host, port_of(url)) is None:
            raise self.denied(netloc, request.method, "host and port are not on the allow-list")
        self.check_may_leave(check_only=True)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolve once and return the addresses to connect to; one bad address refuses all of them."""
        rule = self._rule(host, port)
        if rule is None:
            raise EgressDenied(f"{host}:{port} is not on the allow-list")
        literal = parse_address(host)
        try:
            texts = [host] if literal is not None else await self._resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved ({error.strerror})") from None
        if not texts:
            raise httpcore2.ConnectError(f"{host} has no address")
        for text in texts:
            address = parse_address(text)
            reason = f"{text} is not an address" if address is None else address_error(address, private=rule.port != 0)
            if reason is not None:
                raise EgressDenied(f"request to {host} refused: {reason}")
        return texts[:_ADDRESSES_MAX]

    def check_may_leave(self, *, check_only: bool = False) -> None:
        """Raise if the first byte may not leave any more; later bytes belong to a request that has begun."""
        if self._begun:
            return
        if reason := reason_not_to_begin(self._start_by):
            raise EgressTooLate(reason)
        self._begun = not check_only

    def record(self, request: Egress) -> int:
        """Record a request that is about to be made; return its index for ``update``."""
        self.records.append(request)
        return len(self.records) - 1

    def update(self, index: int, **fields: int) -> None:
        """Add what is known of the response to the record of a request."""
        self.records[index] = msgspec.structs.replace(self.records[index], **fields)

    def denied(self, netloc: str, method: str, reason: str) -> EgressDenied:
        """Record a refused request and return the error to raise."""
        if len(self.records) < self.policy.requests_max:
            self.records.append(Egress(host=netloc, method=method))
        return EgressDenied(f"request to {netloc} refused: {reason}")

    def failed(self, reason: str) -> EgressFailed:
        """The error for a request that got no complete response."""
        return EgressFailed(f"request failed: {reason}", type="transient", retry_safe=not self.effect_sent)

    def unreadable(self, reason: str) -> EgressFailed:
        """The error for a response that will not be better next time."""
        return EgressFailed(f"request failed: {reason}", retry_safe=not self.effect_sent)

    def too_large(self, bytes_max: int) -> EgressFailed:
        """The error for a response over the limit."""
        return self.unreadable(f"the response is over {bytes_max} bytes; ask for less or for a page of it")

    def _rule(self, host: str, port: int) -> Rule | None:
        return matching_rule(self._rules, host, port)


def port_of(url: httpx2.URL) -> int:
    """The port of a URL, explicit or by its scheme."""
    if url.port is not None:
        return url.port
    return 443 if url.scheme == "https" else 80


def netloc_of(url: httpx2.URL) -> str:
    """The host of a URL, and its port unless that is the scheme's own, as it is recorded."""
    return url.netloc.decode("ascii", "replace")
