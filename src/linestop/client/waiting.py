"""Waiting without a gap: hear of changes first, then read; and hear the answers of roles.

What the server republishes is only a hint that there is something to read. It may be lost (a slow reader, a
reconnect), so a read is repeated after each reconnect and every ``POLL_S`` besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Generator
from typing import Final

import anyio
import msgspec
from nats.aio.msg import Msg

from linestop.bus.connection import Connection
from linestop.bus.jetstream.publish import Wire
from linestop.bus.layout import answer_inbox
from linestop.schemas.messages import Reply

POLL_S: Final = 2.0
"""How long a change may go unnoticed when its hint is lost."""

LAG_S: Final = 0.05
"""How long to leave a replica that has not got what was announced."""


class Hints:
    """Wakes whoever waits when something was announced; ``seq`` is the newest stream sequence announced."""

    def __init__(self) -> None:
        self.seq = 0
        self._news = asyncio.Event()

    def tell(self, seq: int = 0) -> None:
        """Announce something."""
        self.seq = max(self.seq, seq)
        self._news.set()

    async def wait(self, read_to: int = 0) -> None:
        """Return when there may be more to read than up to ``read_to``; at the latest after ``POLL_S``."""
        if self.seq > read_to:
            await anyio.sleep(LAG_S)
            return
        with anyio.move_on_after(POLL_S):
            await self._news.wait()
        self._news.clear()


@contextlib.asynccontextmanager
async def hints(wire: Wire, subject: str) -> AsyncGenerator[Hints]:
    """Listen on ``subject`` and to reconnects. The subscription reaches the server before any later read."""
    made = Hints()

    def heard(msg: Msg) -> None:
        seq = (msg.headers or {}).get("Nats-Sequence", "")
        made.tell(int(seq) if seq.isdecimal() else 0)

    subscription = await wire.subscribe(subject, heard)
    forget = wire.watch(restored=made.tell)
    try:
        yield made
    finally:
        forget()
        await wire.unsubscribe(subscription)


class Answers:
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
            yield answer_inbox(self._connection.credential.user, f"{self._token}.{token}"), future
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
                inbox = answer_inbox(self._connection.credential.user, f"{self._token}.*")
                await self._connection.subscribe(inbox, self._heard)
                self._opened = True

    async def _heard(self, msg: Msg) -> None:
        future = self._waiting.get(msg.subject.rpartition(".")[2])
        if future is None or future.done():
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            future.set_result(msgspec.json.decode(msg.data, type=Reply))


async def answer_within(future: asyncio.Future[Reply], wait_s: float) -> Reply | None:
    """The answer, or None if none comes in time."""
    await asyncio.wait((future,), timeout=wait_s)
    return future.result() if future.done() else None
