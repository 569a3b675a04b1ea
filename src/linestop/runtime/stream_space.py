"""Space for events that outsiders cause: refused tasks and stops of absent runs are written only below a mark.

The fill that the broker reports is old as soon as it is read: it may or may not include what is on its way, and other
processes write, too. So each such event takes a place with its bytes before it is written, and keeps it until its pass
is over. A place is given while the places of this process need at most an eighth of the space left below the mark:
then eight processes that know nothing of each other stay below it together. When less is left, such events are written
one at a time, each after the fill was read again; so each process can pass the mark by at most one of them.
The space above the mark is for open runs, whose events take no place.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import structlog

from linestop.actors.facts import Space
from linestop.bus.interfaces import Log
from linestop.errors import LinestopError
from linestop.runtime.fetch_facts import FactSource
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK, SPACE_TO_WATCH

LOG = structlog.get_logger("linestop.stream_space")
SPACE_AGE_MAX_S: Final = 0.25
"""Largest age of the figure while there is plenty of space."""

FULL_AGE_MAX_S: Final = 0.05
"""Largest age of the figure when there is no space at all: after that, space that was freed is seen."""

PLACE_BYTES: Final = 4 * 1024
"""Bytes that a refusal or a stop writes besides the message itself: two events, their headers and index entries."""

PROCESSES: Final = 8
"""How many processes may give places at the same time before they could pass the mark by more than one event each."""


class StreamSpace:
    """The places of one process."""

    def __init__(self, facts: FactSource) -> None:
        self._facts = facts
        self._turn = anyio.Lock()
        self._reading = anyio.Lock()
        self._bytes_in_flight = 0
        """Bytes that are being written."""
        self._bytes_since_reading = 0
        """Bytes of places that were given since the fill was read, or were in flight then."""
        self._ended = anyio.Event()
        self._failed_at = -math.inf

    @property
    def space(self) -> Space:
        """The space as it was read last."""
        return self._facts.space

    async def has_ample_space(self, log: Log) -> bool:
        """Whether there is so much space that it cannot be used up at once."""
        await self._read_fill(log, age_max_s=SPACE_AGE_MAX_S)
        return self.space.used < SPACE_TO_WATCH

    @asynccontextmanager
    async def place(self, log: Log, payload_bytes: int) -> AsyncGenerator[Space]:
        """Take a place while the block writes; if the yielded space is full, the block must write nothing."""
        size = payload_bytes + PLACE_BYTES
        taken = size if await self._take_place(log, size) else 0
        try:
            yield self.space
        finally:
            self._bytes_in_flight -= taken
            ended, self._ended = self._ended, anyio.Event()
            ended.set()

    async def _take_place(self, log: Log, size: int) -> bool:
        """Take a place; False if there is no space for it although this process is writing nothing."""
        await self._read_fill(log, age_max_s=SPACE_AGE_MAX_S)
        if not self._fits(size):
            # One after the other: the first to come gets the space that is left.
            async with self._turn:
                while not self._fits(size):
                    if not self._bytes_in_flight:
                        await self._read_fill(log, age_max_s=FULL_AGE_MAX_S if self._full else 0.0)
                        if self._full:
                            return False
                        break
                    await self._ended.wait()
                    await self._read_fill(log)
        self._bytes_in_flight += size
        self._bytes_since_reading += size
        return True

    @property
    def _full(self) -> bool:
        return self.space.used >= SPACE_FOR_NEW_WORK

    def _fits(self, size: int) -> bool:
        left = SPACE_FOR_NEW_WORK - self.space.used
        if not self._facts.space_bytes:
            return left > 0
        return self._bytes_since_reading + size <= left * self._facts.space_bytes / PROCESSES

    async def _read_fill(self, log: Log, *, age_max_s: float = 0.0) -> None:
        """Read the fill unless it was read just now; a failed reading holds nothing up."""
        clock = asyncio.get_running_loop().time
        async with self._reading:
            if self._facts.space_age_s < age_max_s or clock() - self._failed_at < SPACE_AGE_MAX_S:
                return
            before, self._bytes_since_reading = self._bytes_since_reading, self._bytes_in_flight
            try:
                await self._facts.read_space(log)
            except LinestopError as error:
                LOG.warning("space_not_read", error=str(error))
                self._failed_at, self._bytes_since_reading = clock(), max(before, self._bytes_since_reading)
