"""Durable timers in memory: they belong to the broker, so they outlive the process that set them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from linestop.schemas import subjects
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.memory.faults import Faults, with_faults
from linestop.testing.memory.stream import MemoryStream


class Schedules:
    """The timers that are set at the broker. The clock may jump, so the date is checked again when a timer fires."""

    def __init__(self, stream: MemoryStream, now: Callable[[], datetime]) -> None:
        self._stream = stream
        self._now = now
        self._timers: dict[str, asyncio.TimerHandle] = {}

    @property
    def pending(self) -> list[str]:
        """The subjects of the timers that are set and have not fired."""
        return sorted(self._timers)

    def set(self, target: str, at: datetime) -> None:
        """Publish on ``target`` at ``at``, never earlier; replaces an earlier timer of that target."""
        self.cancel(target)
        delay_s = max(0.0, (at - self._now()).total_seconds())
        self._timers[target] = asyncio.get_running_loop().call_later(delay_s, self._fire, target, at)

    def cancel(self, target: str) -> None:
        """Cancel the timer of ``target``."""
        timer = self._timers.pop(target, None)
        if timer is not None:
            timer.cancel()

    def _fire(self, target: str, at: datetime) -> None:
        if self._now() < at:
            self.set(target, at)
            return
        del self._timers[target]
        self._stream.publish(target, b"")


class MemoryTimers:
    """Timers of runs; see ``interfaces.Timers``."""

    def __init__(self, schedules: Schedules, faults: Faults) -> None:
        self._schedules = schedules
        self._faults = faults

    async def set(self, tenant: TenantId, run: RunId, name: str, at: datetime) -> None:
        """(Re)set the run's timer ``name`` to ``at``; a time in the past fires at once."""
        async with with_faults(self._faults, "timers.set"):
            self._schedules.set(subjects.timer_fire(tenant, run, name=name), at)

    async def cancel(self, tenant: TenantId, run: RunId, name: str) -> None:
        """Remove the run's timer ``name``; harmless if there is none."""
        async with with_faults(self._faults, "timers.cancel"):
            self._schedules.cancel(subjects.timer_fire(tenant, run, name=name))
