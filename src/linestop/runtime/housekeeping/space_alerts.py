"""Alerts a person while there is still space: when a stream or the disk of the state folder is three quarters full.

Once for each mark, not at every check: a fill that goes to and fro around a mark causes no second alert before some
space has become free.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import anyio
import structlog

from linestop.bus import run_outcomes_and_alerts
from linestop.bus.disk_space import used_share
from linestop.bus.interfaces import Log, Publisher
from linestop.bus.jetstream.log import ESSENTIAL_STREAMS
from linestop.bus.streams.stream_definitions import streams
from linestop.errors import LinestopError
from linestop.runtime.workers.worker_names import host_name
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK, SPACE_HYSTERESIS, SPACE_TO_WARN
from linestop.schemas.defaults import SPACE_CHECK_EVERY_S

LOG = structlog.get_logger("linestop.space")
THRESHOLDS: Final = (SPACE_FOR_NEW_WORK, SPACE_TO_WARN)
"""The higher ones first."""

DISK_LABEL: Final = f"disk of {host_name()}"
REFUSES_WHEN_FULL: Final = "when it is full, what is sent to it is refused"
_CONSEQUENCES: Final = {
    DISK_LABEL: "when it is full, everything stops",
    **{spec.name: "when it is full, its oldest messages go" for spec in streams() if spec.config["discard"] == "old"},
    **dict.fromkeys(ESSENTIAL_STREAMS, f"from {SPACE_FOR_NEW_WORK:.0%} new work is refused"),
}


class SpaceWatch:
    """Checks how full the streams and the disk are. ``directory`` None: no disk is checked."""

    def __init__(self, log: Log, publisher: Publisher, directory: Path | None, now: Callable[[], datetime]) -> None:
        self._log = log
        self._publisher = publisher
        self._directory = directory
        self._now = now
        self._alerted_threshold: dict[str, float] = {}

    async def run_for_ever(self) -> None:
        """Check now, then every ``SPACE_CHECK_EVERY_S`` seconds."""
        while True:
            try:
                await self.check()
            except LinestopError as error:
                LOG.warning("space_not_checked", error=str(error))
            except Exception:
                LOG.exception("space_not_checked")
            await anyio.sleep(SPACE_CHECK_EVERY_S)

    async def check(self) -> None:
        """Check once, and alert a person to everything that has passed a mark since the last check."""
        used = {fill.stream: fill.used for fill in await self._log.fills()}
        if self._directory is not None:
            used[DISK_LABEL] = used_share(self._directory)
        for what, share in used.items():
            alerted = self._alerted_threshold.get(what, 0.0)
            if (threshold := _threshold(share)) > alerted:
                await self._alert(what, share, threshold)
                self._alerted_threshold[what] = threshold
            else:
                self._alerted_threshold[what] = min(alerted, _threshold(share + SPACE_HYSTERESIS))

    async def _alert(self, what: str, share: float, threshold: float) -> None:
        name = f"The disk with {self._directory}" if what == DISK_LABEL else f"The stream {what}"
        why = (
            f"{name} is {share:.0%} full; {_CONSEQUENCES.get(what, REFUSES_WHEN_FULL)}. Make room (docs/operations.md)."
        )
        LOG.warning("space_short", what=what, used=round(share, 3), sentence=why)
        alert = run_outcomes_and_alerts.space_alert(what, round(threshold * 100), why, at=self._now())
        await self._publisher.alert(run_outcomes_and_alerts.SYSTEM_TENANT, alert.kind, alert.payload, alert.headers)


def _threshold(share: float) -> float:
    """Return the highest mark that this share has reached, 0.0 if none."""
    return next((threshold for threshold in THRESHOLDS if share >= threshold), 0.0)
