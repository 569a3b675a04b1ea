"""Events that outsiders cause are written only below the mark, however many are in flight in several processes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import anyio
import pytest

from linestop.bus.interfaces import Fill, Log
from linestop.errors import Unreachable
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.stream_space import PLACE_BYTES, PROCESSES, StreamSpace
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK
from linestop.testing.virtual_time import run_virtual

ANSWER_S = 0.01
LIMIT = 1024 * 1024


class SlowLog:
    """A stream whose fill is old by the time it is reported."""

    def __init__(self, used: int = 0) -> None:
        self.used = used
        self.reads = 0
        self.unreachable = False

    async def fullest(self) -> Fill:
        """As ``Log``."""
        self.reads += 1
        if self.unreachable:
            raise Unreachable("The broker does not answer.")
        await anyio.sleep(ANSWER_S)
        reported = Fill(stream="RUNS", used=self.used / LIMIT, bytes_max=LIMIT)
        await anyio.sleep(ANSWER_S)
        return reported


def stream_space() -> StreamSpace:
    """The stream_space of a process, with facts that contain only the space."""
    missing = cast("Any", None)
    return StreamSpace(FactSource(agents=missing, ledger=None, blobs=missing, switches=missing, worker="validator#1"))


async def _write(room: StreamSpace, log: SlowLog, after_s: float) -> bool:
    """Write slowly what a place was taken for, if there is space."""
    async with room.place(cast("Log", log), 0) as space:
        if space.used >= SPACE_FOR_NEW_WORK:
            return False
        await anyio.sleep(after_s)
        log.used += PLACE_BYTES
        await anyio.sleep(after_s)
        return True


@pytest.mark.parametrize("processes", [1, 3, PROCESSES])
@pytest.mark.parametrize("begins", [0.0, 0.45, 0.85])
def test_each_process_passes_the_mark_by_one_event_at_most(processes: int, begins: float) -> None:
    """With 64 events in flight in each; and the space below the mark is used up."""

    async def main() -> None:
        log = SlowLog(int(begins * LIMIT))
        rooms = [stream_space() for _ in range(processes)]

        async def one(n: int) -> None:
            for _ in range(8):
                await _write(rooms[n % processes], log, ANSWER_S * (n % 7))

        await asyncio.gather(*(one(n) for n in range(64 * processes)))
        mark = SPACE_FOR_NEW_WORK * LIMIT
        assert mark <= log.used < mark + processes * PLACE_BYTES

    run_virtual(main, seed=1)


def test_with_plenty_of_space_the_fill_is_read_rarely_and_nothing_waits() -> None:
    """A thousand places at a time, at ten moments, take ten readings."""

    async def main() -> None:
        log, room = SlowLog(), stream_space()
        log.used = -100 * LIMIT
        for _ in range(10):
            await asyncio.gather(*(_write(room, log, 0.0) for _ in range(1_000)))
            await anyio.sleep(1.0)
        assert log.reads == 10

    run_virtual(main, seed=1)


def test_a_fill_that_cannot_be_read_holds_nothing_up() -> None:
    """Least of all a stop: the last figure counts."""

    async def main() -> None:
        log, room = SlowLog(), stream_space()
        log.unreachable = True
        assert all(await asyncio.gather(*(_write(room, log, 0.0) for _ in range(100))))

    run_virtual(main, seed=1)
