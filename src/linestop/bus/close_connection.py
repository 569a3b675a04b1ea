"""Closing a client of the library for good, whatever state it is in.

Where the server is gone, the library's ``close`` (2.16) fails halfway: over what it cannot send any more, or with the
``CancelledError`` of its own reconnection, which it cancels while that waits for the same transport. What it then
leaves behind (tasks, a socket) is ended here. This module and ``jetstream/publish.py`` are the only ones that touch the
inside of ``nats.aio.client.Client``.
"""

# ruff: noqa: SLF001 - see above
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import Any, Final

import anyio
from nats.aio.client import Client

CLOSE_WITHIN_S: Final = 2.0
"""How long to send what is waiting: a server that takes nothing holds nobody up."""

CANCEL_AGAIN_S: Final = 0.05
CANCELS_MAX: Final = 100


async def close(nc: Client) -> None:
    """Send what is waiting, if the server is there, and close. Raises nothing but its caller's own cancellation."""
    if nc.is_closed:
        return
    internals: Any = nc  # its inside has no types
    if not nc.is_connected:
        # Nobody takes it, and the library would fail over it.
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
        # A reconnection that was under way says otherwise at its end.
        internals._status = Client.CLOSED


async def cancel_until_done(task: asyncio.Future[Any]) -> None:
    """Cancel until it has ended: ``asyncio.wait_for`` of Python 3.11, in the client, may swallow a cancellation."""
    for _ in range(CANCELS_MAX):
        if task.done():
            break
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)
    if task.done() and not task.cancelled():
        # Looked at, so that nobody is told of an exception that was never retrieved.
        task.exception()
