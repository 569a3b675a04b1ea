"""Extends the acknowledgement time of deliveries that take long.

The deliveries of a killed process go to another one after ``ack_wait``, so that is short. A process that is still
handling a delivery tells the broker in time; otherwise several processes would handle the same message at once, all
waiting for the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Final

import anyio

from linestop.bus.interfaces import Delivery

HANDLING_MAX_S: Final = 30.0
"""Longest time for which a delivery is extended: a handler that hangs must not keep it from other processes."""


class AckExtender:
    """The deliveries of one queue that are being handled."""

    def __init__(self, ack_wait_s: float) -> None:
        self._every_s = ack_wait_s / 2
        self._deliveries: dict[int, tuple[Delivery, float]] = {}
        self._has_deliveries = asyncio.Event()

    @contextlib.contextmanager
    def extending(self, delivery: Delivery) -> Generator[None]:
        """Extend this delivery while the block runs."""
        own = self._deliveries[delivery.seq] = (delivery, asyncio.get_running_loop().time())
        self._has_deliveries.set()
        try:
            yield
        finally:
            if self._deliveries.get(delivery.seq) is own:
                del self._deliveries[delivery.seq]

    async def run(self) -> None:
        """Tell the broker, at intervals, which deliveries are still being handled."""
        while True:
            if not self._deliveries:
                self._has_deliveries.clear()
            await self._has_deliveries.wait()
            await anyio.sleep(self._every_s)
            now = asyncio.get_running_loop().time()
            for delivery, since in list(self._deliveries.values()):
                if now - since < HANDLING_MAX_S:
                    await delivery.in_progress()
