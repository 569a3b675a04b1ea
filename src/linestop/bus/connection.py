"""A connection to the bus with clear errors.

The client library reports a refused publish late and only to a general callback, so the publisher sees a timeout.
Here the caller that waits for that subject gets ``PermissionDenied``, which names the subject and the credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from types import TracebackType
from typing import Final, Self

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from linestop.bus import close_connection
from linestop.bus.access.credentials import Credential
from linestop.bus.jetstream_api import read_reply
from linestop.bus.nats_client import SigningClient
from linestop.bus.streams.stream_definitions import HEADER_BYTES_MAX
from linestop.bus.streams.stream_names import inbox_prefix
from linestop.bus.wire import FAILURES, NO_HEADERS, Wire, header_block
from linestop.errors import ConfigError, LinestopError, PermissionDenied, TooLarge, Unreachable
from linestop.schemas.broker_defaults import BROKER_CONNECT_TIMEOUT_S, BROKER_REQUEST_TIMEOUT_S
from linestop.schemas.defaults import MESSAGE_BYTES_MAX

RECONNECT_WAIT_S: Final = 0.25
PENDING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Outgoing bytes buffered while the server is away; more is refused."""

PAYLOAD_BYTES_MIN: Final = MESSAGE_BYTES_MAX + HEADER_BYTES_MAX
"""The largest message that linestop sends, with its headers."""

VIOLATIONS_MAX: Final = 64
PING_INTERVAL_S: Final = 20

_VIOLATION = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"]+)"', re.IGNORECASE)


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal by the broker. ``subject`` is in lower case, as the client library reports it."""

    action: str
    subject: str


class Connection:
    """One credential's connection, opened by ``connect`` and closed by ``close`` or ``async with``."""

    def __init__(self, credential: Credential, nc: Client) -> None:
        self.credential = credential
        self.nc = nc
        self.violations: deque[Violation] = deque(maxlen=VIOLATIONS_MAX)
        self._refusal_waiters: dict[tuple[str, str], set[asyncio.Future[None]]] = {}
        self.wire = Wire(nc, unreachable_reason=lambda: self.unreachable_reason, denied=self.denied)
        self._credential_refused = asyncio.Event()
        self._last_error = "no answer"

    @property
    def closed(self) -> bool:
        """Whether the connection is closed for good; one that is being restored is not."""
        return self.nc.is_closed

    @property
    def unreachable_reason(self) -> str:
        """The reason why the server cannot be reached, in a sentence."""
        return f"The broker at {self.credential.url} cannot be reached ({self._last_error}); try again later."

    @property
    def connected(self) -> bool:
        """Whether the server can be reached now."""
        return self.nc.is_connected

    def require_payload(self) -> None:
        """Require a broker that accepts the largest message a role may have to send.

        Raises:
            ConfigError: the broker's ``max_payload`` is too small, so a result could be lost.
        """
        if self.nc.max_payload < PAYLOAD_BYTES_MIN:
            raise ConfigError(
                f"the broker at {self.credential.url} takes messages of at most {self.nc.max_payload:,} bytes, and "
                f"linestop needs {PAYLOAD_BYTES_MIN:,}: set `max_payload: 1MB` in its configuration and restart it."
            )

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = BROKER_REQUEST_TIMEOUT_S,
    ) -> Msg:
        """Send a request and return the first reply; a connection that is being restored is waited for.

        Raises:
            PermissionDenied: if this credential may not publish there; raised at once, not after the timeout.
            Unreachable: if no reply arrives in time. It is unknown whether the request arrived.
            TooLarge: if the server takes no message of that size.
        """
        block = header_block(dict(headers)) if headers else NO_HEADERS
        await self.wire.wait_connected(within_s=timeout_s)
        return await self.wire.request(subject, payload, headers=block, timeout_s=timeout_s)

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply_to: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message and do not wait; a refusal appears in ``violations`` only.

        Raises:
            Unreachable: if the connection is closed, or its send buffer is full.
            TooLarge: if the server takes no message of that size.
        """
        try:
            await self.nc.publish(subject, payload, reply=reply_to, headers=dict(headers or {}) or None)
        except FAILURES as error:
            raise self._explain(error, subject, 0) from None

    async def publish_checked(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = BROKER_REQUEST_TIMEOUT_S,
    ) -> None:
        """Send a message and return when the server has accepted it; whether any subscriber received it is unknown.

        Raises:
            PermissionDenied: if this credential may not publish there.
            Unreachable: if the server does not answer in time.
        """
        with self.watch_refusal(subject) as refused:
            await self.publish(subject, payload, headers=headers)
            await self._flush(subject, timeout_s)
            if refused.done():
                raise self.denied("publish to", subject)

    async def subscribe(
        self,
        subject: str,
        callback: Callable[[Msg], Awaitable[None]],
        *,
        queue: str = "",
        timeout_s: float = BROKER_REQUEST_TIMEOUT_S,
    ) -> Subscription:
        """Subscribe and return when the server has accepted it.

        Raises:
            PermissionDenied: if this credential may not subscribe there.
            Unreachable: if the server does not answer in time.
        """
        with self.watch_refusal(subject, action="subscription") as refused:
            try:
                subscription = await self.nc.subscribe(  # pyright: ignore[reportUnknownMemberType]
                    subject, queue=queue, cb=callback
                )
            except FAILURES as error:
                raise self._explain(error, subject, timeout_s) from None
            await self._flush(subject, timeout_s)
            if refused.done():
                with contextlib.suppress(*FAILURES):
                    await subscription.unsubscribe()
                raise self.denied("subscribe to", subject)
        return subscription

    async def api_request(
        self, subject: str, body: object = None, *, timeout_s: float = BROKER_REQUEST_TIMEOUT_S
    ) -> dict[str, object]:
        """Send a JSON request to the JetStream API and return its JSON reply.

        Raises:
            ApiError: if JetStream refuses; ``PermissionDenied`` and ``Unreachable`` as ``request`` does.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        return read_reply(subject, (await self.request(subject, payload, timeout_s=timeout_s)).data)

    @contextlib.contextmanager
    def watch_refusal(self, subject: str, *, action: str = "publish") -> Generator[asyncio.Future[None]]:
        """Give a future that is done once ``action`` on ``subject`` is refused; for callers without ``request``."""
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = (action, subject.lower())
        self._refusal_waiters.setdefault(key, set()).add(refused)
        try:
            yield refused
        finally:
            self._refusal_waiters[key].discard(refused)
            if not self._refusal_waiters[key]:
                del self._refusal_waiters[key]
            refused.cancel()

    def denied(self, action: str, subject: str) -> PermissionDenied:
        """Build the error for a refused subject."""
        return PermissionDenied(
            f"credential {self.credential.user!r} may not {action} {subject!r}: "
            "use the credential that docs/permissions.md lists for it."
        )

    async def close(self) -> None:
        """Send the buffered messages if the server can be reached, and close for good; never raises."""
        await close_connection.close(self.nc)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, *, name: str, timeout_s: float) -> None:
        """Open the connection; ``connect`` calls this method."""
        attempt = asyncio.ensure_future(
            self.nc.connect(
                servers=self.credential.servers,
                # Never both: a server that sends no nonce to sign would receive the password.
                nkeys_seed_str=self.credential.seed or None,
                user=self.credential.user if not self.credential.seed else None,
                password=self.credential.password if not self.credential.seed else None,
                name=name,
                inbox_prefix=inbox_prefix(self.credential.user),
                # The library's default closes a client for good after two minutes without a server.
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
                ping_interval=PING_INTERVAL_S,
                pending_size=PENDING_BYTES_MAX,
                error_cb=self._on_error,
                reconnected_cb=self._reconnected,
                disconnected_cb=self._disconnected,
            )
        )
        refused = asyncio.ensure_future(self._credential_refused.wait())
        try:
            await asyncio.wait((attempt, refused), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if failure := self._open_failure(attempt, timeout_s):
                raise failure
            await self.wire.open()
        finally:
            refused.cancel()
            await close_connection.cancel_until_done(attempt)

    def _open_failure(self, attempt: asyncio.Task[None], timeout_s: float) -> LinestopError | None:
        """The reason why the first attempt failed, None if it succeeded."""
        if self._credential_refused.is_set():
            return PermissionDenied(
                f"the broker at {self.credential.url} refuses credential {self.credential.user!r}: "
                "the server does not know its key; take the file from the server's own directory, or give an "
                "outside server the configuration that `linestop bus init` prints."
            )
        if not attempt.done():
            return Unreachable(
                f"no broker answers at {self.credential.url} within {timeout_s:g} s "
                f"({self._last_error}): start it, or correct the address."
            )
        # The other side may not be a broker at all, and the library fails over that in many ways.
        error = asyncio.CancelledError("closed") if attempt.cancelled() else attempt.exception()
        if error is None or isinstance(error, LinestopError):
            return error
        return Unreachable(f"the broker at {self.credential.url} cannot be used: {_reason(error)}.")

    async def _flush(self, subject: str, timeout_s: float) -> None:
        try:
            # The library's ping overtakes messages that it has not written yet; a second ping cannot.
            for _ in range(2):
                await self.nc.flush(timeout=timeout_s)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        except FAILURES as error:
            raise self._explain(error, subject, timeout_s) from None

    def _explain(self, error: Exception, subject: str, timeout_s: float) -> LinestopError:
        match error:
            case nats_errors.MaxPayloadError():
                return TooLarge(f"message to {subject!r} is over the {self.nc.max_payload} bytes the broker takes.")
            case nats_errors.TimeoutError():
                return Unreachable(
                    f"no answer on {subject!r} from {self.credential.url} within {timeout_s:g} s; "
                    "it is unknown whether the message arrived."
                )
            case _:
                return Unreachable(f"{subject!r} cannot be sent to {self.credential.url}: {error}.")

    async def _on_error(self, error: Exception) -> None:
        """Handle an error that the library reports to its callback; without one it prints tracebacks to stderr."""
        self._last_error = _reason(error)
        violation = _VIOLATION.search(self._last_error)
        if violation is not None:
            action, subject = violation[1].lower(), violation[2].lower()
            self.violations.append(Violation(action=action, subject=subject))
            for future in self._refusal_waiters.get((action, subject), ()):
                if not future.done():
                    future.set_result(None)
            if action == "publish":
                self.wire.on_denied(subject)
        elif "authorization violation" in self._last_error.lower():
            self._credential_refused.set()

    async def _reconnected(self) -> None:
        self.wire.on_restored()

    async def _disconnected(self) -> None:
        self.wire.fail_all()


def _reason(error: BaseException) -> str:
    """The reason of a failed attempt as text, without the numbers and addresses that the event loop adds."""
    if isinstance(error, OSError) and error.errno:
        # A failed name look-up has its own error numbers, below zero.
        return os.strerror(error.errno) if error.errno > 0 else error.strerror or str(error)
    return str(error) or type(error).__name__


async def connect(credential: Credential, *, name: str, timeout_s: float = BROKER_CONNECT_TIMEOUT_S) -> Connection:
    """Connect to the bus as ``credential``.

    The connection later restores itself without a limit; only the first attempt is bounded.

    Args:
        credential: The credential, which names the servers too.
        name: Shown in the server's monitoring, e.g. ``planner@host``.
        timeout_s: How long to wait for a server that does not answer.

    Raises:
        Unreachable: if no server answers in time.
        PermissionDenied: if the server refuses the credential; raised at once.
    """
    if credential.seed and credential.password:
        # A credential of an older linestop, whose new key the server may not know yet.
        with contextlib.suppress(PermissionDenied):
            return await _connect(msgspec.structs.replace(credential, password=""), name=name, timeout_s=timeout_s)
        return await _connect(msgspec.structs.replace(credential, seed=""), name=name, timeout_s=timeout_s)
    return await _connect(credential, name=name, timeout_s=timeout_s)


async def _connect(credential: Credential, *, name: str, timeout_s: float) -> Connection:
    connection = Connection(credential, SigningClient())
    try:
        await connection.open(name=name, timeout_s=timeout_s)
    except BaseException:
        await connection.close()
        raise
    return connection
