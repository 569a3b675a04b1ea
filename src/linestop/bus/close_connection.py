"""Closes a client of the library for good, whatever its state.

Without a server the library's ``close`` (2.16) fails halfway: over messages that it cannot send any more, or with the
``CancelledError`` of its own reconnection, which it cancels while that waits for the same transport. This module ends
the tasks and the socket that are then left. Only it and ``bus/wire.py`` use the internals of
``nats.aio.client.Client``.
"""

# ruff: noqa: SLF001 - see above
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import Any, Final

import anyio
from nats.aio.client import Client

CLOSE_WITHIN_S: Final = 2.0
"""How long to send the buffered messages: a server that accepts nothing must not delay the close."""

CANCEL_AGAIN_S: Final = 0.05
CANCELS_MAX: Final = 100


async def close(nc: Client) -> None:
    """Send the buffered messages if the server can be reached, and close. Raises only the caller's cancellation."""
    if nc.is_closed:
        return
    internals: Any = nc  # its internals have no types
    if not nc.is_connected:
        # These messages cannot be sent, and the library would fail over them.
        internals._pending, internals._pending_data_size = [], 0
    tasks: list[asyncio.Task[Any] | None] = [each._wait_for_msgs_task for each in internals._subs.values()]
    closing = asyncio.ensure_future(nc.close())
    try:
        await asyncio.wait((closing,), timeout=CLOSE_WITHIN_S)
    finally:
        with anyio.CancelScope(shield=True):
            await cancel_until_done(closing)
            tasks += [
                internals._reconnection_task,
                internals._reading_task,
                internals._ping_interval_task,
                internals._flusher_task,
            ]
            for task in tasks:
                if task is not None and task is not asyncio.current_task():
                    await cancel_until_done(task)
        if internals._transport is not None:
            internals._transport.close()
        # A reconnection that was in progress sets another status when it ends.
        internals._status = Client.CLOSED


async def cancel_until_done(task: asyncio.Future[Any]) -> None:
    """Cancel until it has ended: ``asyncio.wait_for`` of Python 3.11, in the client, may swallow a cancellation."""
    for _ in range(CANCELS_MAX):
        if task.done():
            break
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)
    if task.done() and not task.cancelled():
        # Retrieved, so that asyncio does not warn about an exception that was never retrieved.
        task.exception()
