"""Perform a plain function in a thread of its own.

A thread cannot be cancelled. When nobody waits for one any more it is left behind: it is a daemon, so that it
cannot keep the process from ending, and it counts against ``THREADS_MAX`` until it returns, so that hung
tools cannot pile up without bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from linestop.sandbox.failures import NotBegun

T = TypeVar("T")
THREADS_MAX = 512
"""More than a process makes calls at once: only threads that hang are ever that many."""

_slots = threading.BoundedSemaphore(THREADS_MAX)


async def run_in_thread(work: Callable[[], T]) -> T:
    """Return what ``work`` returns. If the waiting is cancelled, ``work`` goes on and its result is dropped.

    Raises:
        NotBegun: if too many threads are busy or none can be started.
    """
    if not _slots.acquire(blocking=False):
        message = f"all {THREADS_MAX} tool threads are busy; try again when one has returned"
        raise NotBegun(message)
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
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            failure = error
        finally:
            _slots.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=body, name="linestop tool", daemon=True).start()
    except RuntimeError as error:
        _slots.release()
        raise NotBegun(f"no thread could be started ({error})") from None
    return await done
