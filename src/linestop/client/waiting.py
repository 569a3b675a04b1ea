"""Waiting for changes without a gap (subscribe first, then read), and receiving the replies of roles.

A republished message is only a hint that there is something to read. It may be lost (a slow reader, a reconnect), so
a read is also repeated after each reconnect and every ``POLL_S``.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Final

import anyio
import msgspec
from nats.aio.msg import Msg

from linestop.bus.connection import Connection
from linestop.bus.streams.stream_names import reply_inbox
from linestop.bus.wire import Wire
from linestop.client.token_stream import Piece
from linestop.schemas.messages import OFFSET_HEADER, Reply
from linestop.schemas.subject_filters import delta_filter
from linestop.schemas.subjects import RunId, TenantId, live_subject, parse_delta, run_filter

POLL_S: Final = 2.0
"""How long a change may go unnoticed when its hint is lost."""

PIECES_MAX: Final = 4_096
"""Pieces of a model's text that are buffered for a slow listener; the listener gets dropped ones from the log."""

LAG_S: Final = 0.05
"""How long to wait before reading a replica again that does not have the announced message yet."""


class Hints:
    """Wakes its waiter when a change is announced; ``seq`` is the newest stream sequence announced."""

    def __init__(self) -> None:
        self.seq = 0
        self._announced = asyncio.Event()

    def announce(self, seq: int = 0) -> None:
        """Announce a change; ``seq`` is its stream sequence if it is known."""
        self.seq = max(self.seq, seq)
        self._announced.set()

    async def wait(self, read_to: int = 0) -> None:
        """Return when there may be more to read than up to ``read_to``; at the latest after ``POLL_S``."""
        if self.seq > read_to:
            await anyio.sleep(LAG_S)
            return
        with anyio.move_on_after(POLL_S):
            await self._announced.wait()
        self._announced.clear()


@contextlib.asynccontextmanager
async def subscribed(wire: Wire, subject: str, receive: Callable[[Msg], None]) -> AsyncGenerator[None]:
    """Call ``receive`` with each message on ``subject``. The subscription reaches the server before any later read."""
    subscription = await wire.subscribe(subject, receive)
    try:
        yield
    finally:
        await wire.unsubscribe(subscription)


@contextlib.asynccontextmanager
async def watch_hints(wire: Wire, subject: str, target: Hints | None = None) -> AsyncGenerator[Hints]:
    """Announce each message on ``subject`` and each reconnect to ``target`` or to a new ``Hints``."""
    hints = target or Hints()

    def on_message(msg: Msg) -> None:
        seq = (msg.headers or {}).get("Nats-Sequence", "")
        hints.announce(int(seq) if seq.isdecimal() else 0)

    stop_watching = wire.watch(restored=hints.announce)
    try:
        async with subscribed(wire, subject, on_message):
            yield hints
    finally:
        stop_watching()


class TokenFeed(Hints):
    """The pieces of text that were received, and hints that the log has more. The oldest pieces are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: collections.deque[Piece] = collections.deque(maxlen=PIECES_MAX)
        self._read_at = 0.0

    def receive(self, msg: Msg) -> None:
        """Buffer a piece until it is taken."""
        subject = parse_delta(msg.subject)
        offset = (msg.headers or {}).get(OFFSET_HEADER, "")
        self._pieces.append(
            Piece(
                (subject.turn, subject.attempt),
                int(offset) if offset.isdecimal() else -1,
                msg.data.decode(errors="replace"),
            )
        )
        self.announce()

    def take(self) -> list[Piece]:
        """The pieces that were received since the last time."""
        taken = list(self._pieces)
        self._pieces.clear()
        return taken

    def should_read_log(self, read_to: int, *, now: bool) -> bool:
        """Whether to read the log: it has more, the caller needs it ``now``, or a hint may have been lost."""
        at = asyncio.get_running_loop().time()
        if not now and self.seq <= read_to and at - self._read_at < POLL_S:
            return False
        self._read_at = at
        return True


@contextlib.asynccontextmanager
async def token_feed(wire: Wire, tenant: TenantId, run: RunId) -> AsyncGenerator[TokenFeed]:
    """Subscribe to the text of the run's model and to its events, and listen to reconnects."""
    feed = TokenFeed()
    async with (
        subscribed(wire, delta_filter(tenant, run), feed.receive),
        watch_hints(wire, live_subject(run_filter(tenant, run)), feed),
    ):
        yield feed


class ReplyInbox:
    """The inbox for the replies of roles. It is opened when the first reply is requested."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = secrets.token_hex(8)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._opening = anyio.Lock()
        self._opened = False

    @contextlib.contextmanager
    def expect(self) -> Generator[tuple[str, asyncio.Future[Reply]]]:
        """Yield an inbox to name in ``Linestop-Reply`` and the future of its reply; call ``open`` first."""
        assert self._opened, "a reply cannot be received before the inbox is open"
        token = secrets.token_hex(8)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            yield reply_inbox(self._connection.credential.user, f"{self._token}.{token}"), future
        finally:
            del self._waiting[token]
            future.cancel()

    async def open(self) -> None:
        """Subscribe, once.

        Raises:
            PermissionDenied: this credential may not receive replies.
        """
        async with self._opening:
            if not self._opened:
                inbox = reply_inbox(self._connection.credential.user, f"{self._token}.*")
                await self._connection.subscribe(inbox, self._on_reply)
                self._opened = True

    async def _on_reply(self, msg: Msg) -> None:
        future = self._waiting.get(msg.subject.rpartition(".")[2])
        if future is None or future.done():
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            future.set_result(msgspec.json.decode(msg.data, type=Reply))


async def reply_within(future: asyncio.Future[Reply], wait_s: float) -> Reply | None:
    """The reply, or None if none comes in time."""
    await asyncio.wait((future,), timeout=wait_s)
    return future.result() if future.done() else None
