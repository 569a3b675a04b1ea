"""A run log without space: it refuses in a sentence and loses nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.bus_fixtures import planner_append

from linestop.bus.connection import connect
from linestop.bus.disk_space import MIB
from linestop.bus.interfaces import Append, Log
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer, ServerOptions
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.stream_definitions import StreamSizes
from linestop.errors import TooLarge
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

SPACE = StreamSizes(runs=2 * MIB)
TENANT, RUN = TenantId("t"), RunId("r")


def event(n: int, *, head_seq: int) -> Append:
    """A unique event of the maximum size."""
    return planner_append(
        TENANT, RUN, event="proposed", n=n, head_seq=head_seq, payload=bytes([n]) * (MESSAGE_BYTES_MAX - n)
    )


async def fill(log: Log) -> None:
    """Append large events until the log refuses; check the stored ones."""
    stored = 0

    async def append_for_ever() -> None:
        nonlocal stored
        head_seq = 0
        for n in range(1, 100):
            head_seq = await log.append(event(n, head_seq=head_seq))
            stored = n

    with pytest.raises(TooLarge, match=r"no space.*max_bytes"):
        await append_for_ever()
    assert stored > 5
    assert (await log.fullest()).used > 0.8
    assert len(await log.load(TENANT, RUN)) == stored


@pytest.mark.anyio
@pytest.mark.broker
@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="function")
async def test_a_full_server_refuses_and_keeps_what_it_has(tmp_path: Path, anyio_backend: str) -> None:
    """The error names the stream's limit, and every event stored before is still there."""
    assert anyio_backend == "asyncio"
    async with EmbeddedServer(tmp_path, ServerOptions(sizes=SPACE)) as server:
        async with await connect(server.credential("bootstrap"), name="test") as bootstrap:
            await set_up(bootstrap, BusLayout(sizes=SPACE))
        async with await connect(server.credential("planner"), name="test") as connection:
            await fill(JetStream(connection).log())


@pytest.mark.anyio
@pytest.mark.broker
@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="function")
async def test_long_texts_without_room_count_as_a_full_log(tmp_path: Path, anyio_backend: str) -> None:
    """A run needs both, so new tasks are refused when either is nearly full."""
    assert anyio_backend == "asyncio"
    space = StreamSizes(blobs=2 * MIB)
    async with EmbeddedServer(tmp_path, ServerOptions(sizes=space)) as server:
        async with await connect(server.credential("bootstrap"), name="test") as bootstrap:
            await set_up(bootstrap, BusLayout(sizes=space))
        async with await connect(server.credential("planner"), name="test") as connection:
            bus = JetStream(connection)
            assert (await bus.log().fullest()).used < 0.1
            for _ in range(9):
                await bus.blobs().put(TENANT, os.urandom(200_000))
            assert (await bus.log().fullest()).used > 0.8


def test_a_full_memory_refuses_and_keeps_what_it_has() -> None:
    """The same in memory."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        broker.stream("RUNS").bytes_max = SPACE.runs
        await fill(broker.log())

    run_virtual(main)
