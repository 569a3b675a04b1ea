"""Perform a plain function in its own thread; the number of threads, hung ones included, is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from linestop.daemon_threads import AllBusyError, DaemonThreads, NoThreadError
from linestop.sandbox.tools.failures import NotBegun
from linestop.schemas.defaults import TOOL_THREADS_MAX

T = TypeVar("T")

_threads = DaemonThreads("linestop tool", threads_max=TOOL_THREADS_MAX)


async def run_in_thread(work: Callable[[], T]) -> T:
    """Return the result of ``work``. If the wait is cancelled, ``work`` continues and its result is dropped.

    Raises:
        NotBegun: if too many threads are busy or none can be started.
    """
    try:
        return await _threads.run(work)
    except AllBusyError:
        message = f"all {TOOL_THREADS_MAX} tool threads are busy; try again when one has returned"
        raise NotBegun(message) from None
    except NoThreadError as error:
        raise NotBegun(f"no thread could be started ({error})") from None
