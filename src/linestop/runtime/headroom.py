"""Room for what outsiders cause: refused tasks and stops of absent runs are written below the mark only.

The fill that the broker tells is old as soon as it is read: what is on its way when it is read may be in it or not, and
other processes write, too. So each such event takes a place with its bytes before it is written, and has it until its
look is over. A place is given while the places of this process need at most an eighth of what is left below the mark:
then eight processes that know nothing of each other stay below it together. Where so little is left, they are
written one at a time, each after a look at the fill of that moment; so each process can pass the mark by one of them.
What is left above the mark is for open runs, whose events take no place.
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
from linestop.schemas.defaults import SPACE_FOR_NEW_WORK, SPACE_TO_WATCH

LOG = structlog.get_logger("linestop.headroom")
SPACE_AGE_MAX_S: Final = 0.25
"""How old the figure of the space may be while there is plenty."""

FULL_AGE_MAX_S: Final = 0.05
"""How old it may be when there is no room at all: room that has just been made is seen after that."""

PLACE_BYTES: Final = 4 * 1024
"""What a refusal or a stop writes besides what was sent: two events, their headers and their places in an index."""

PROCESSES: Final = 8
"""How many processes may let in at the same time before they could pass the mark by more than an event each."""


class Headroom:
    """The places of one process."""

    def __init__(self, facts: FactSource) -> None:
        self._facts = facts
        self._turn = anyio.Lock()
        self._reading = anyio.Lock()
        self._under_way = 0
        """Bytes that are being written."""
        self._since = 0
        """Bytes of places given since the fill was read, and of those that were under way then."""
        self._ended = anyio.Event()
        self._failed_at = -math.inf

    @property
    def space(self) -> Space:
        """How much room there was when it was read last."""
        return self._facts.space

    async def at_ease(self, log: Log) -> bool:
        """Whether there is so much room that nobody can use it up at once."""
        await self._look(log, age_max_s=SPACE_AGE_MAX_S)
        return self.space.used < SPACE_TO_WATCH

    @asynccontextmanager
    async def place(self, log: Log, payload_bytes: int) -> AsyncGenerator[Space]:
        """Hold a place while the block writes; without room the space says so, and the block must write nothing."""
        size = payload_bytes + PLACE_BYTES
        held = size if await self._given(log, size) else 0
        try:
            yield self.space
        finally:
            self._under_way -= held
            ended, self._ended = self._ended, anyio.Event()
            ended.set()

    async def _given(self, log: Log, size: int) -> bool:
        """Take a place; False if there is no room for it although nothing of this process is under way."""
        await self._look(log, age_max_s=SPACE_AGE_MAX_S)
        if not self._fits(size):
            # One after the other: who comes first gets the room that is left.
            async with self._turn:
                while not self._fits(size):
                    if not self._under_way:
                        await self._look(log, age_max_s=FULL_AGE_MAX_S if self._full else 0.0)
                        if self._full:
                            return False
                        break
                    await self._ended.wait()
                    await self._look(log)
        self._under_way += size
        self._since += size
        return True

    @property
    def _full(self) -> bool:
        return self.space.used >= SPACE_FOR_NEW_WORK

    def _fits(self, size: int) -> bool:
        left = SPACE_FOR_NEW_WORK - self.space.used
        if not self._facts.space_bytes:
            return left > 0
        return self._since + size <= left * self._facts.space_bytes / PROCESSES

    async def _look(self, log: Log, *, age_max_s: float = 0.0) -> None:
        """Read the fill unless it was read just now; a figure that cannot be had holds nothing up."""
        clock = asyncio.get_running_loop().time
        async with self._reading:
            if self._facts.space_age_s < age_max_s or clock() - self._failed_at < SPACE_AGE_MAX_S:
                return
            before, self._since = self._since, self._under_way
            try:
                await self._facts.read_space(log)
            except LinestopError as error:
                LOG.warning("space_not_read", error=str(error))
                self._failed_at, self._since = clock(), max(before, self._since)
