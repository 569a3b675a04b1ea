"""Three replicas whose nodes are killed under load, one at a time: each ends with every acknowledged message."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import anyio
import pytest

from linestop.bus import layout
from linestop.bus.connection import connect
from linestop.bus.init import BusLayout, set_up
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.ports import Append
from linestop.bus.streams import MIB, Space
from linestop.cli.doctor import replicas
from linestop.errors import LinestopError, Unreachable
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import NODES, Cluster

SPACE = Space(runs=256 * MIB, forks=MIB, blobs=16 * MIB, tasks=MIB, outcomes=MIB, small=MIB)
TENANT = TenantId("t")
WRITERS = 6
ACKED_BETWEEN = 150
"""Messages that must be acknowledged before the next fault."""

WITHIN_S = 60.0


class _Load:
    """Writers that append for ever; ``acked`` has every message whose acknowledgement came."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acked: dict[int, bytes] = {}
        self._changed = asyncio.Event()

    async def more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        wanted = len(self.acked) + count
        with anyio.fail_after(WITHIN_S):
            while len(self.acked) < wanted:
                self._changed.clear()
                await self._changed.wait()

    async def write(self, writer: int) -> None:
        """Append to one run; text that compresses, as JSON does, and a random part."""
        async with await connect(self._cluster.credential("planner"), name=f"writer {writer}") as connection:
            log = (await JetStream.open(connection)).log()
            head_seq, n = 0, 1
            while True:
                payload = b'{"text":"%s%s"}' % (b"the same words again " * 40, os.urandom(40).hex().encode())
                append = Append(
                    tenant=TENANT, run=RunId(f"w-{writer}"), role="planner", event="proposed", n=n,
                    event_id=f"e{n}", head_seq=head_seq, payload=payload,
                )  # fmt: skip
                try:
                    head_seq = await log.append(append)
                except Unreachable:
                    continue
                self.acked[head_seq] = payload
                self._changed.set()
                n += 1


async def _current(cluster: Cluster) -> None:
    """Wait until ``doctor`` says that every copy of every stream is current."""
    with anyio.fail_after(WITHIN_S):
        while True:
            try:
                async with await connect(cluster.credential("bootstrap"), name="look") as connection:
                    assert await replicas(connection) == "3 copies of each stream, all current"
            except LinestopError:
                await anyio.sleep(0.1)
            else:
                return


async def _alone(cluster: Cluster, index: int) -> dict[int, bytes]:
    """What one node has of RUNS, read from it while no other runs."""
    for other in set(range(NODES)) - {index}:
        await cluster.kill(other)
    async with await connect(cluster.credential("planner", node=index), name="compare") as connection:
        reader = Reader((await JetStream.open(connection)).wire, layout.RUNS)
        found = {item.seq: item.payload for item in await reader.walk("runs.>")}
    await asyncio.gather(*(cluster.restart(other) for other in set(range(NODES)) - {index}))
    return found


@pytest.mark.anyio
@pytest.mark.broker
@pytest.mark.cluster
@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="function")
async def test_no_replica_loses_what_was_acknowledged(tmp_path: Path, anyio_backend: str) -> None:
    """``doctor`` sees the node that is away; when all are back, their copies are equal message by message."""
    assert anyio_backend == "asyncio"
    async with Cluster(tmp_path, space=SPACE) as cluster:
        async with await connect(cluster.credential("bootstrap"), name="set up") as bootstrap:
            (await set_up(bootstrap, BusLayout(space=SPACE, replicas=NODES))).require_no_differences()
        await _current(cluster)
        load = _Load(cluster)
        async with anyio.create_task_group() as writers:
            for writer in range(WRITERS):
                writers.start_soon(load.write, writer)
            for node in range(NODES):
                await load.more(ACKED_BETWEEN)
                await cluster.kill(node)
                await load.more(ACKED_BETWEEN)
                async with await connect(cluster.credential("bootstrap"), name="look") as connection:
                    with pytest.raises(LinestopError, match=f" on node-{node} is |has no leader"):
                        await replicas(connection)
                await cluster.restart(node)
                await _current(cluster)
            writers.cancel_scope.cancel()
        await _current(cluster)
        for node in range(NODES):
            held = await _alone(cluster, node)
            lost = {seq for seq, payload in load.acked.items() if held.get(seq) != payload}
            assert (node, len(load.acked) > 2 * NODES * ACKED_BETWEEN, lost) == (node, True, set())
            assert max(Counter(held).values()) == 1
            await _current(cluster)
