"""Waiting without a gap: hear of changes first, then read; and hear the answers of roles.

What the server republishes is only a hint that there is something to read. It may be lost (a slow reader, a
reconnect), so a read is repeated after each reconnect and every ``POLL_S`` besides.
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
from linestop.bus.jetstream.wire import Wire
from linestop.bus.stream_names import reply_inbox
from linestop.client.token_stream import Piece
from linestop.schemas.messages import OFFSET_HEADER, Reply
from linestop.schemas.subject_filters import delta_filter
from linestop.schemas.subjects import RunId, TenantId, live_subject, parse_delta, run_filter

POLL_S: Final = 2.0
"""How long a change may go unnoticed when its hint is lost."""

PIECES_MAX: Final = 4_096
"""Pieces of a run's words that are kept for a slow listener; what is dropped it gets from the log."""

LAG_S: Final = 0.05
"""How long to leave a replica that has not got what was announced."""


class Hints:
    """Wakes whoever waits when something was announced; ``seq`` is the newest stream sequence announced."""

    def __init__(self) -> None:
        self.seq = 0
        self._announced = asyncio.Event()

    def announce(self, seq: int = 0) -> None:
        """Announce something."""
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
    """Listen on ``subject`` and to reconnects, and tell ``made`` or a new ``Hints``."""
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
    """The pieces of a run's words that were heard, and hints that its log has more. What is too much is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: collections.deque[Piece] = collections.deque(maxlen=PIECES_MAX)
        self._read_at = 0.0

    def receive(self, msg: Msg) -> None:
        """Keep a piece until it is taken."""
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
        """What was heard since the last time."""
        taken = list(self._pieces)
        self._pieces.clear()
        return taken

    def should_read_log(self, read_to: int, *, now: bool) -> bool:
        """Whether to read the log: it has more, it is to be read ``now``, or its hint may be lost."""
        at = asyncio.get_running_loop().time()
        if not now and self.seq <= read_to and at - self._read_at < POLL_S:
            return False
        self._read_at = at
        return True


@contextlib.asynccontextmanager
async def token_feed(wire: Wire, tenant: TenantId, run: RunId) -> AsyncGenerator[TokenFeed]:
    """Listen to the run's words and events, and to reconnects."""
    feed = TokenFeed()
    async with (
        subscribed(wire, delta_filter(tenant, run), feed.receive),
        watch_hints(wire, live_subject(run_filter(tenant, run)), feed),
    ):
        yield feed


class ReplyInbox:
    """The inbox that roles answer to. It is opened when the first answer is wanted."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = secrets.token_hex(8)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._opening = anyio.Lock()
        self._opened = False

    @contextlib.contextmanager
    def expect(self) -> Generator[tuple[str, asyncio.Future[Reply]]]:
        """Give an inbox to name in ``Linestop-Reply`` and the future of its answer; ``open`` comes first."""
        assert self._opened, "an answer cannot be heard before the inbox is open"
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
            PermissionDenied: this credential gets no answers.
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
    """The answer, or None if none comes in time."""
    await asyncio.wait((future,), timeout=wait_s)
    return future.result() if future.done() else None
