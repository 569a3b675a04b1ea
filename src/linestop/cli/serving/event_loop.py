"""An event loop that its tasks cannot end: an exit that a tool left behind is logged, and the process continues.

``SystemExit`` and ``KeyboardInterrupt`` from a task or a callback end every other event loop. An exception of a tool
itself is caught where the tool is called, but not that of a task or callback that it left behind, or of its thread.
Signals do not come this way: they have handlers (``processes.run_process``).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_log = logging.getLogger("linestop.tools")


def make_event_loop() -> asyncio.AbstractEventLoop:
    """Make a loop (uvloop, if available) whose ``run_until_complete`` returns only when its future is done."""
    if sys.platform == "win32":
        loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
    else:
        import uvloop  # noqa: PLC0415 - there is none for Windows

        loop = uvloop.new_event_loop()
    once = loop.run_until_complete

    def run_until_complete(future: Awaitable[T]) -> T:
        return _to_its_end(asyncio.ensure_future(future, loop=loop), once)

    loop.run_until_complete = run_until_complete  # type: ignore[method-assign,assignment] # it is called with tasks only
    return loop


def _to_its_end(task: asyncio.Future[T], run: Callable[[asyncio.Future[T]], T]) -> T:
    while True:
        try:
            return run(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            _log.error(
                "a task or callback that a tool left behind raised %r: the process continues", error, exc_info=error
            )
