"""Run a plain function in its own thread.

A thread cannot be cancelled. When no caller waits for one any more it is abandoned: it is a daemon, so that it cannot
keep the process from ending, and it counts until it returns, so that hung functions cannot accumulate without limit.
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
    """Raised when the system refuses to start a thread."""


class AllBusyError(NoThreadError):
    """Raised when all threads of this kind are busy."""


class DaemonThreads:
    """Threads of one kind, at most ``threads_max`` at a time; ``name`` is their name in the system."""

    def __init__(self, name: str, *, threads_max: int) -> None:
        self._name = name
        self._slots = threading.BoundedSemaphore(threads_max)

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of ``work``. If the waiting is cancelled, ``work`` continues and its result is dropped.

        Raises:
            AllBusyError: too many threads have not returned yet.
            NoThreadError: no thread can be started.
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
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits any more
                loop.call_soon_threadsafe(settle, result, failure)

        try:
            threading.Thread(target=body, name=self._name, daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            raise NoThreadError(str(error)) from None
        return await done
