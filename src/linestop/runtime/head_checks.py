"""Asking whether runs have moved, in one request for many of them: before a late start, and at intervals.

The request is about the message with the next number: whatever comes next in a run has it, also a stop or a pause.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import anyio
import structlog

from linestop.bus.interfaces import Log, RunHead, RunKey
from linestop.errors import LinestopError
from linestop.runtime.run_cache import CachedRun, RunCache
from linestop.schemas.run.fold import Run

LOG = structlog.get_logger("linestop.shell")


@dataclass(slots=True)
class _Batch:
    """The heads of one request, and the runs that have moved once it is answered."""

    heads: set[RunHead] = field(default_factory=set[RunHead])
    moved: set[RunKey] | None = None


class HeadChecks:
    """Asks about the runs of one process: one request at a time, about all runs for which an answer is awaited.

    So the checks of many starts at once cost few requests, and the slower the broker is the fewer. A request is sent
    after each of its runs was added, so its answer proves that at that moment the run had no later event.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._next = _Batch()
        self._one_request = anyio.Lock()

    async def has_moved(self, run: Run) -> bool:
        """Whether the log has a message after the last event of ``run``; see ``moved``."""
        return (run.tenant, run.run) in await self.moved([run])

    async def moved(self, runs: Iterable[Run]) -> set[RunKey]:
        """Return the runs, of these and others, whose log has a message after their last event; asked after the call.

        Raises:
            LinestopError: the broker did not answer.
        """
        batch = self._next
        batch.heads.update((run.tenant, run.run, run.n) for run in runs)
        async with self._one_request:
            if self._next is batch:
                self._next = _Batch()
            if batch.moved is None:
                batch.moved = await self._log.moved(batch.heads)
        return batch.moved


async def watch_heads(
    cache: RunCache, every_s: float, refresh: Callable[[CachedRun], Awaitable[None]], checks: HeadChecks | None
) -> None:
    """Refresh the runs with work in progress that have moved, every ``every_s`` seconds, until cancelled.

    So a stop is found whose hint did not arrive. Without ``checks`` all of them are refreshed, as the replicas of a log
    require.
    """
    while True:
        await anyio.sleep(every_s)
        # The task that holds the lock appends or reads, and so learns of the head itself.
        entries = [entry for entry in cache.at_work() if not entry.lock.locked()]
        try:
            moved = await checks.moved(entry.run for entry in entries) if checks is not None and entries else None
        except LinestopError as error:
            LOG.warning("head_check_failed", runs=len(entries), error=str(error))
            continue
        for entry in entries:
            if (moved is None or entry.key in moved) and entry.performing and not entry.lock.locked():
                await _refresh_safely(entry, refresh)


async def _refresh_safely(entry: CachedRun, refresh: Callable[[CachedRun], Awaitable[None]]) -> None:
    try:
        async with entry.lock:
            await refresh(entry)
    except LinestopError as error:
        LOG.warning("head_check_failed", run=entry.run.run, error=str(error))
