"""The hot path: writes a message and waits for its reply, with as little work as possible in between.

``nats-py``'s own ``js.publish`` takes twice the time: it builds header dictionaries, an inbox and a ``wait_for`` for
each message, and passes every reply through a queue and a task. Here one inbox serves all requests of a connection,
replies are handed over inside the read loop, and messages are sent as bytes.

Only this module and ``bus/close_connection.py`` use the internals of ``nats.aio.client.Client`` (2.16):

- ``_pending``, ``_pending_data_size`` and ``_transport``: the buffer that the client's flusher writes to the
  socket, handed over here without the flusher's queue and task;
- ``subscribe(future=...)``: the client calls ``cancelled()`` and ``set_result(msg)`` for each message, at
  once, and never replaces the object, so our own sink receives every message without a task.

``tests/conformance/test_client_internals.py`` fails by name when one of these changes.
"""

# The client's internals are used here on purpose, as the docstring of this module says.
# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, cast

import anyio
import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from linestop.errors import InputError, PermissionDenied, TooLarge, Unreachable

FAILURES: Final = (nats_errors.Error, OSError)
"""The exceptions that the library raises when a request fails."""

REPLY_WITHIN_S: Final = 2.0
"""How long one request waits for its reply; a broker that is alive needs a few milliseconds."""

NO_HEADERS: Final = b""
_VERSION: Final = "NATS/1.0\r\n"
_NO_RESPONDERS: Final = "503"


class NoResponders(Unreachable):
    """Raised when the subject has no subscriber: the stream has no leader at the moment, or does not exist."""


class NoReply(Unreachable):
    """Raised when no reply arrived in time, although the connection seems to be open."""


class NotSent(Unreachable):
    """Raised when there is no connection, so that nothing was sent; not when a reply is lost."""


class _Sink:
    """Takes the place of the future that the client expects, and receives every message of a subscription."""

    def __init__(self, receive: Callable[[Msg], None]) -> None:
        self.set_result = receive

    def cancelled(self) -> bool:
        return False


class _Request:
    """One open request: its subject, and the replies so far."""

    __slots__ = ("future", "many", "replies", "subject")

    def __init__(self, subject: str, future: asyncio.Future[Msg], *, many: bool) -> None:
        self.subject = subject
        self.future = future
        self.many = many
        self.replies: list[Msg] = []


class _Hooks(msgspec.Struct, frozen=True, eq=False):
    """The callbacks of one watcher; compared by identity, because each is removed separately."""

    restored: Callable[[], None] | None
    denied: Callable[[str], None] | None


class Wire:
    """Requests and plain messages over one connection (``Connection.wire``); one serves all callers.

    ``unreachable_reason`` says in a sentence why the server cannot be reached; ``denied`` builds the error for a
    refused action and subject.
    """

    def __init__(
        self, nc: Client, *, unreachable_reason: Callable[[], str], denied: Callable[[str, str], PermissionDenied]
    ) -> None:
        self.denied = denied
        self._nc = nc
        self._unreachable_reason = unreachable_reason
        self._requests: dict[str, _Request] = {}
        self._counter = 0
        self._inbox = ""
        self._token_at = 0
        self._flushing = False
        self._restored = asyncio.Event()
        self._hooks: list[_Hooks] = []

    async def open(self) -> None:
        """Subscribe to the inbox that receives all replies; the connection calls this once it is open."""
        self._inbox = self._nc.new_inbox()
        self._token_at = len(self._inbox) + 1
        await self.subscribe(f"{self._inbox}.*", self._receive)

    def new_inbox(self) -> str:
        """Return a new subject on which only this credential may subscribe."""
        return self._nc.new_inbox()

    async def wait_connected(self, *, within_s: float) -> bool:
        """Wait for the connection; return whether it is open."""
        if not (self._nc.is_connected or self._nc.is_closed):
            with anyio.move_on_after(within_s):
                await self._restored.wait()
        return self._nc.is_connected

    def watch(
        self, *, restored: Callable[[], None] | None = None, denied: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """Call the hooks when the connection is back or a publish is refused, until the returned function is called."""
        hooks = _Hooks(restored, denied)
        self._hooks.append(hooks)

        def stop_watching() -> None:
            self._hooks.remove(hooks)

        return stop_watching

    async def is_responding(self, *, within_s: float = REPLY_WITHIN_S) -> bool:
        """Whether the broker itself replies, whatever the state of its streams."""
        try:
            await self._nc.flush(timeout=within_s)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        except FAILURES:
            return False
        return True

    async def subscribe(self, subject: str, receive: Callable[[Msg], None], *, group: str = "") -> Subscription:
        """Call ``receive`` with each message, inside the read loop: it must be quick and must not raise.

        Of all subscriptions with the same ``group``, one receives each message.
        """
        sink = cast("asyncio.Future[Msg]", _Sink(receive))
        try:
            return await self._nc.subscribe(  # pyright: ignore[reportUnknownMemberType]
                subject, queue=group, future=sink
            )
        except FAILURES as error:
            raise NotSent(f"{self._unreachable_reason()} ({error})") from None

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; harmless if the connection is gone."""
        with contextlib.suppress(*FAILURES):
            await subscription.unsubscribe()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: bytes = NO_HEADERS,
        timeout_s: float = REPLY_WITHIN_S,
        on_sent: Callable[[], None] | None = None,
    ) -> Msg:
        """Send a request and return its one reply. ``headers`` come from ``header_block``.

        ``on_sent`` is called after the request was sent and before its reply arrives.

        Raises:
            NoResponders: the subject has no subscriber.
            NotSent: there is no connection.
            Unreachable: no reply arrived, so it is unknown whether the request did.
            TooLarge: the message is over the broker's limit.
            PermissionDenied: the broker refuses this subject to this credential.
        """
        request = _Request(subject, asyncio.get_running_loop().create_future(), many=False)
        return await self._exchange(request, payload, headers=headers, timeout_s=timeout_s, on_sent=on_sent)

    async def request_many(
        self, subject: str, payload: bytes, *, timeout_s: float = REPLY_WITHIN_S
    ) -> tuple[list[Msg], Msg]:
        """Send a request whose reply is any number of messages and a status; raises as ``request`` does."""
        request = _Request(subject, asyncio.get_running_loop().create_future(), many=True)
        end = await self._exchange(request, payload, headers=NO_HEADERS, timeout_s=timeout_s)
        return request.replies, end

    def send(self, subject: str, payload: bytes, *, reply_to: str = "", headers: bytes = NO_HEADERS) -> None:
        """Send without waiting; a lost message is not repeated. While disconnected, messages are dropped."""
        if self._nc.is_connected:
            self._write(subject, payload, reply_to=reply_to, headers=headers)

    async def _exchange(
        self,
        request: _Request,
        payload: bytes,
        *,
        headers: bytes,
        timeout_s: float,
        on_sent: Callable[[], None] | None = None,
    ) -> Msg:
        nc = self._nc
        if not nc.is_connected:
            raise NotSent(self._unreachable_reason())
        size = len(headers) + len(payload)
        if size > nc.max_payload:
            raise TooLarge(
                f"A message of {size} bytes for {request.subject} is over the broker's {nc.max_payload}; "
                "store long texts as blobs."
            )
        self._counter += 1
        token = str(self._counter)
        self._requests[token] = request
        timer = asyncio.get_running_loop().call_later(timeout_s, _fail_expired, request, timeout_s)
        try:
            self._write(request.subject, payload, reply_to=f"{self._inbox}.{token}", headers=headers)
            if on_sent is not None:
                # One turn of the loop, in which the written bytes are sent.
                await asyncio.sleep(0)
                on_sent()
            reply = await request.future
        finally:
            timer.cancel()
            del self._requests[token]
        if reply.headers and reply.headers.get("Status") == _NO_RESPONDERS:
            raise NoResponders(f"{request.subject} has no subscriber: its stream has no leader or is missing.")
        return reply

    def _write(self, subject: str, payload: bytes, *, reply_to: str, headers: bytes) -> None:
        if headers:
            size = len(headers)
            line = f"HPUB {subject} {reply_to} {size} {size + len(payload)}\r\n"
        else:
            line = f"PUB {subject} {reply_to} {len(payload)}\r\n"
        command = b"".join((line.encode(), headers, payload, b"\r\n"))
        nc = self._nc
        nc._pending.append(command)
        nc._pending_data_size += len(command)
        # All bytes written in one turn of the loop are sent together in the next one: this makes the batches.
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Hand the pending bytes to the socket, as the client's flusher does, but without its queue and task."""
        self._flushing = False
        nc = self._nc
        if nc._pending and nc.is_connected and nc._transport is not None:
            pending, nc._pending, nc._pending_data_size = nc._pending, [], 0
            # A closing transport refuses; the read loop notices the loss and fails the open requests.
            with contextlib.suppress(OSError, RuntimeError):
                nc._transport.writelines(pending)

    def _receive(self, msg: Msg) -> None:
        request = self._requests.get(msg.subject[self._token_at :])
        if request is None or request.future.done():
            return
        if request.many and not (msg.headers and "Status" in msg.headers):
            request.replies.append(msg)
            return
        request.future.set_result(msg)

    def fail_all(self) -> None:
        """Fail all open requests: their replies were lost with the connection."""
        self._restored.clear()
        for request in self._requests.values():
            if not request.future.done():
                request.future.set_exception(
                    Unreachable(f"The connection was lost before {request.subject} was answered.")
                )

    def on_restored(self) -> None:
        """Tell everybody who waits for the connection that it is back."""
        self._restored.set()
        for hooks in tuple(self._hooks):
            if hooks.restored is not None:
                hooks.restored()

    def on_denied(self, subject: str) -> None:
        """Fail the requests that the broker refused; it names the subject separately, in lower case."""
        for hooks in tuple(self._hooks):
            if hooks.denied is not None:
                hooks.denied(subject)
        for request in self._requests.values():
            if request.subject.lower() == subject and not request.future.done():
                request.future.set_exception(self.denied("publish to", request.subject))


def header_block(headers: dict[str, str]) -> bytes:
    """Return the headers in the form of the NATS protocol.

    Raises:
        InputError: a name or value contains a line break, which would add a header.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise InputError(f"A header contains a line break; send it without: {sorted(headers)}.")
    return f"{_VERSION}{lines}\r\n".encode()


def _fail_expired(request: _Request, timeout_s: float) -> None:
    if not request.future.done():
        request.future.set_exception(NoReply(f"The broker did not answer on {request.subject} within {timeout_s:g} s."))
