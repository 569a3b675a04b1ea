"""The open runs of the log, listed once and then followed: a round costs what has changed.

The set may contain a run that is over, which costs the sweep one read of it. No open run is missing: each run that
begins is read from the log itself, in order, and not from a hint.
"""

from __future__ import annotations

from typing import Final

import anyio

from linestop.bus.interfaces import ChangesPosition, Log, RunKey

LIST_AGAIN_AFTER_S: Final = 3_600.0
"""How often all runs are listed again: a run whose first event expired leaves the log without a seal."""

FOLLOW_WITHIN_S: Final = 60.0
"""After a longer pause all runs are listed: that costs less than to read the first event of each that began since."""


class OpenRuns:
    """The open runs, as of the last ``read``."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._runs: dict[RunKey, None] = {}
        self._position: ChangesPosition | None = None
        self._listed_at = self._read_at = 0.0

    async def read(self) -> list[RunKey]:
        """Return the open runs as they are now.

        Raises:
            LinestopError: the log could not be read; what was known before is still known.
        """
        now = anyio.current_time()
        is_old = now - self._listed_at > LIST_AGAIN_AFTER_S or now - self._read_at > FOLLOW_WITHIN_S
        if self._position is None or is_old:
            # The position first: what changes during the listing is read again.
            position = (await self._log.run_changes(None)).position
            self._runs = dict.fromkeys(await self._log.open_runs())
            self._position, self._listed_at = position, now
        else:
            changes = await self._log.run_changes(self._position)
            self._runs.update(dict.fromkeys(changes.begun))
            for key in changes.sealed:
                self._runs.pop(key, None)
            self._position = changes.position
        self._read_at = now
        return list(self._runs)

    def remove(self, key: RunKey) -> None:
        """Remove a run that turned out to be over, or without an event."""
        self._runs.pop(key, None)
