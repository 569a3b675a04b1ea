"""Perform a plain function in a thread of its own; hung tools cannot pile up without bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from linestop.daemon_threads import AllBusyError, DaemonThreads, NoThreadError
from linestop.sandbox.tools.failures import NotBegun

T = TypeVar("T")
THREADS_MAX = 512
"""More than a process makes calls at once: only threads that hang are ever that many."""

_threads = DaemonThreads("linestop tool", threads_max=THREADS_MAX)


async def run_in_thread(work: Callable[[], T]) -> T:
    """Return what ``work`` returns. If the waiting is cancelled, ``work`` goes on and its result is dropped.

    Raises:
        NotBegun: if too many threads are busy or none can be started.
    """
    try:
        return await _threads.run(work)
    except AllBusyError:
        message = f"all {THREADS_MAX} tool threads are busy; try again when one has returned"
        raise NotBegun(message) from None
    except NoThreadError as error:
        raise NotBegun(f"no thread could be started ({error})") from None
