"""The floor: only the compare-and-appends that a turn makes, of the same sizes, and nothing else.

It has a broker of its own, of the same kind, with the stream of runs only, so that no process of linestop sees its
messages. A writer names the sequence of its last append and waits for each acknowledgement, as a run does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import msgspec
from bench.system.brokers import Broker, BrokerKind, running_broker
from bench.system.process_use import cpu_s, own_cpu_s

from linestop.bus import jetstream_api
from linestop.bus.connection import connect
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import streams
from linestop.bus.wire import Wire, header_block

TURNS_A_RUN: Final = 10


class FloorSample(msgspec.Struct, frozen=True, kw_only=True):
    """``times_s`` of single turns, turns and appends a second, and CPU ms a turn of writers and broker."""

    times_s: list[float]
    turns_s: float
    appends_s: float
    cpu_ms: float
    broker_cpu_ms: float


class Floor:
    """Writes bare turns whose appends have the given payload sizes."""

    def __init__(self, wire: Wire, broker: Broker, sizes: Sequence[int]) -> None:
        self._wire = wire
        self._broker = broker
        self._payloads = [b'{"pad":"' + b"x" * max(0, size - 10) + b'"}' for size in sizes]
        self._runs = 0

    async def measure(self, in_flight: int, seconds: float) -> FloorSample:
        """Let ``in_flight`` writers write for that long."""
        times: list[float] = []
        own, brokers, began = own_cpu_s(), cpu_s(self._broker.pids()), time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(in_flight):
                tasks.start_soon(self._write_until, began + seconds, times)
        took_s, turns = time.perf_counter() - began, len(times)
        return FloorSample(
            times_s=times,
            turns_s=turns / took_s,
            appends_s=turns * len(self._payloads) / took_s,
            cpu_ms=(own_cpu_s() - own) / turns * 1e3,
            broker_cpu_ms=(cpu_s(self._broker.pids()) - brokers) / turns * 1e3,
        )

    async def _write_until(self, deadline: float, times: list[float]) -> None:
        while time.perf_counter() < deadline:
            self._runs += 1
            run, n, head = f"floor-{self._runs}", 0, 0
            for _ in range(TURNS_A_RUN):
                began = time.perf_counter()
                for payload in self._payloads:
                    n += 1
                    headers = {
                        "Nats-Expected-Last-Subject-Sequence": str(head),
                        "Nats-Expected-Last-Subject-Sequence-Subject": f"runs.floor.{run}.>",
                    }
                    subject = f"runs.floor.{run}.operator.bare.{n}"
                    reply = await self._wire.request(subject, payload, headers=header_block(headers), timeout_s=30)
                    head = msgspec.json.decode(reply.data)["seq"]
                times.append(time.perf_counter() - began)


@asynccontextmanager
async def running_floor(kind: BrokerKind, sizes: Sequence[int]) -> AsyncGenerator[Floor]:
    """Start a broker that has the stream of runs, and a writer."""
    async with running_broker(kind) as broker:
        runs = next(spec for spec in streams(replicas=kind.replicas) if spec.name == stream_names.RUNS)
        async with await connect(broker.credential("bootstrap"), name="floor") as bootstrap:
            await bootstrap.api_request(jetstream_api.stream_create(runs.name), runs.config, timeout_s=30)
        async with await connect(broker.credential("operator"), name="floor") as operator:
            yield Floor(operator.wire, broker, sizes)
