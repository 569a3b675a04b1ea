"""Reading the heads of runs that are being performed for, now and then: a stop that was not heard is found so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from linestop.errors import LinestopError
from linestop.runtime.run_cache import CachedRun, RunCache

LOG = structlog.get_logger("linestop.shell")


async def watch_heads(cache: RunCache, every_s: float, refresh: Callable[[CachedRun], Awaitable[None]]) -> None:
    """Refresh for ever, every so many seconds, the runs that are being performed for; ``live`` only is faster."""
    while True:
        await anyio.sleep(every_s)
        for entry in cache.entries():
            if not entry.performing or entry.lock.locked():
                # Whoever holds the lock appends or reads, and so learns of the head himself.
                continue
            try:
                async with entry.lock:
                    await refresh(entry)
            except LinestopError as error:
                LOG.warning("head_check_failed", run=entry.run.run, error=str(error))
