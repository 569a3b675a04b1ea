"""Run a plain function in a thread of its own.

A thread cannot be cancelled. When nobody waits for one any more it is left behind: it is a daemon, so that it cannot
keep the process from ending, and it counts until it returns, so that hung functions cannot pile up without bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoThreadError(Exception):
    """No thread can be started: the system refuses one."""


class AllBusyError(NoThreadError):
    """All threads of this kind are busy."""


class DaemonThreads:
    """Threads of one kind, at most ``most`` at a time; ``name`` is what the system calls them."""

    def __init__(self, name: str, *, threads_max: int) -> None:
        self._name = name
        self._slots = threading.BoundedSemaphore(threads_max)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns. If the waiting is cancelled, ``work`` goes on and its result is dropped.

        Raises:
            AllBusyError: too many threads have not returned yet.
            NoThreadError: none can be started.
        """
        if not self._slots.acquire(blocking=False):
            raise AllBusyError
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type] # without an error there is a result

        def body() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = context.run(work)
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                failure = error
            finally:
                self._slots.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, failure)

        try:
            threading.Thread(target=body, name=self._name, daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            raise NoThreadError(str(error)) from None
        return await done
