"""Reading the heads of runs with work in progress at intervals, which finds a stop whose hint did not arrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from linestop.errors import LinestopError
from linestop.runtime.run_cache import CachedRun, RunCache

LOG = structlog.get_logger("linestop.shell")


async def watch_heads(cache: RunCache, every_s: float, refresh: Callable[[CachedRun], Awaitable[None]]) -> None:
    """Refresh all runs with work in progress every ``every_s`` seconds, until cancelled; the live hint is faster."""
    while True:
        await anyio.sleep(every_s)
        for entry in cache.at_work():
            if not entry.performing or entry.lock.locked():
                # The task that holds the lock appends or reads, and so learns of the head itself.
                continue
            try:
                async with entry.lock:
                    await refresh(entry)
            except LinestopError as error:
                LOG.warning("head_check_failed", run=entry.run.run, error=str(error))
