"""The system of the benchmarks: a real server, all roles, and a model and a tool that return at once."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import structlog

from linestop.bus.access.credentials import credential_path, load_credential
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.interfaces import Append
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer, ServerOptions
from linestop.bus.server.nats_config import SyncInterval
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role, role_filters
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import AccountLimits, Limits, WorkerLimits
from linestop.schemas.events import ModelChoice
from linestop.schemas.model_messages import ModelReply, Price, ToolCall, Usage
from linestop.schemas.performer_interfaces import CallWork, ModelWork
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId
from linestop.schemas.tool_contracts import Contract, ToolResult

TENANT = TenantId("bench")
TURNS = 10
NO_SWEEP = "no-sweep"
TEXT = "x" * 900
"""About 1 KB per call and result, as in the measurements of the peers (docs/performance.md)."""

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False}
ACCOUNT_LIMITS = AccountLimits(user_day_micros=10**12, tenant_day_micros=10**12, system_hour_micros=10**12)
HEADERS = {
    "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "ce-specversion": "1.0", "ce-id": "0" * 36,
    "ce-source": "/linestop/validator", "ce-type": "io.linestop.run.validator.judged",
}  # fmt: skip


class InstantModel:
    """Replies at once: one call a turn, and the final answer in the last. ``wait`` makes it hang instead."""

    def __init__(self, *, wait: bool = False) -> None:
        self._wait = wait

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        if self._wait:
            await anyio.sleep_forever()
        calls: tuple[ToolCall, ...] = ()
        if work.turn < TURNS:
            calls = (ToolCall(id=f"c{work.turn}", name="look", args=json.dumps({"q": f"{work.turn} {TEXT}"})),)
        reply = ModelReply(
            text="" if calls else "done", calls=calls, stop_reason="calls" if calls else "end",
            usage=Usage(fresh_in=300, out=50), usage_reported=True, model="stub",
        )  # fmt: skip
        return reply, 0.0


class InstantTool:
    """Returns 1 KB at once."""

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        for work in works:
            yield work, ToolResult(outcome="succeeded", value=TEXT), 0.0


def agent() -> AgentVersion:
    """The measured agent: one read tool, and limits that it never reaches."""
    limits = Limits(
        tokens_max=10_000_000, cost_max_micros=50_000_000, turns_max=10_000, calls_max=10_000,
        calls_per_tool_max=10_000, wall_s=86_400,
    )  # fmt: skip
    lookup = Contract(name="look", description="Look.", parameters=SCHEMA, tier="read")
    price = Price(input=100_000, output=500_000, table="bench")
    model = ModelChoice(model="playbook/stub", price=price, window_tokens=10_000_000)
    return AgentVersion(name="bench", prompt="Work.", model=model, tools=(lookup,), limits=limits)


class BenchSystem:
    """A server with all streams, and an operator that submits, watches and measures turns and the floor."""

    def __init__(self, server: EmbeddedServer, operator: JetStream, directory: Path) -> None:
        self.server = server
        self.operator = operator
        self.directory = directory
        self.count = 0
        self.moments: dict[str, list[float]] = {}
        self._sealed: dict[str, anyio.Event] = {}

    async def watch(self) -> None:
        """Subscribe to every model start (a turn begins) and every seal."""

        async def on_event(message: Any) -> None:  # noqa: ANN401 - nats-py's message
            tokens = message.subject.split(".")
            run, role, event = tokens[3], tokens[4], tokens[5]
            if (role, event) == ("planner", "started"):
                self.moments.setdefault(run, []).append(time.perf_counter())
            elif event == "sealed" and run in self._sealed:
                self._sealed.pop(run).set()

        nc = self.operator.wire.connection.nc
        await nc.subscribe("live.runs.*.*.planner.started.*", cb=on_event)
        await nc.subscribe("live.runs.*.*.recorder.sealed.*", cb=on_event)
        await nc.flush()

    async def submit(self) -> tuple[str, anyio.Event]:
        """Submit one task; return its run id and an event that is set when the run is sealed."""
        self.count += 1
        run = f"run-{os.getpid()}-{self.count}"
        sealed = self._sealed[run] = anyio.Event()
        body = msgspec.json.encode({"text": "go", "run": run, "user": f"user-{self.count % 50}"})
        await self.operator.wire.request(f"tasks.{TENANT}.bench", body)
        return run, sealed

    async def measure_turns(self, in_flight: int, runs: int) -> tuple[list[float], float]:
        """Let ``runs`` runs complete, ``in_flight`` at a time; return the turn times in seconds and turns a second."""
        self.moments.clear()
        limiter = anyio.Semaphore(in_flight)
        began = time.perf_counter()

        async def one() -> None:
            _, sealed = await self.submit()
            await sealed.wait()
            limiter.release()

        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                await limiter.acquire()
                tasks.start_soon(one)
        took_s = time.perf_counter() - began
        turns = [b - a for times in self.moments.values() for a, b in itertools.pairwise(times)]
        return turns, runs * TURNS / took_s

    async def measure_floor(self, in_flight: int, runs: int, sizes: Sequence[int]) -> tuple[list[float], float]:
        """Make only the compare-and-appends that the turns would make; return as ``measure_turns``."""
        log = self.operator.log()
        times: list[float] = []
        limiter = anyio.Semaphore(in_flight)
        payloads = [b'{"id":"x","prev":"y","pad":"' + b"x" * max(0, size - 30) + b'"}' for size in sizes]

        async def one_run() -> None:
            self.count += 1
            # An event that wakes no role.
            run, head, n = RunId(f"floor-{os.getpid()}-{self.count}"), 0, 0
            for _ in range(TURNS):
                began = time.perf_counter()
                for payload in payloads:
                    n += 1
                    append = Append(
                        tenant=TENANT, run=run, role="operator", event="bare", n=n, event_id=f"{run}{n}",
                        head_seq=head, payload=payload, headers=HEADERS,
                    )  # fmt: skip
                    head = await log.append(append)
                times.append(time.perf_counter() - began)
            limiter.release()

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                await limiter.acquire()
                tasks.start_soon(one_run)
        return times, runs * TURNS / (time.perf_counter() - began)


@asynccontextmanager
async def bench_system(sync: SyncInterval, *, sweeping: bool = True) -> AsyncIterator[BenchSystem]:
    """Set a server up in a temporary directory."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linestop-bench-")))
        if not sweeping:
            (directory / NO_SWEEP).touch()
        server = await stack.enter_async_context(EmbeddedServer(directory, ServerOptions(sync_interval=sync)))
        async with await connect(server.credential("bootstrap"), name="bench") as bootstrap:
            wakes = {role: tuple(role_filters(make_role(role, requester=None, runner=None))) for role in ACTORS}
            await set_up(bootstrap, BusLayout(wakes=wakes))
        operator = await stack.enter_async_context(await connect(server.credential("operator"), name="bench"))
        bus = await JetStream.open(operator)
        await AgentStore(bus.bucket(stream_names.AGENTS_BUCKET)).deploy(agent())
        system = BenchSystem(server, bus, directory)
        await system.watch()
        yield system


@asynccontextmanager
async def actor_process(
    directory: Path, roles: Sequence[RoleName], worker: str, *, wait: bool = False
) -> AsyncIterator[ActorProcess]:
    """Run ``roles`` in this process."""
    credentials: dict[RoleName, Any] = {role: load_credential(credential_path(directory, role)) for role in roles}
    backend = await JetStreamBackend.open(credentials, name="bench")
    role_actors = [make_role(role, requester=InstantModel(wait=wait), runner=InstantTool()) for role in roles]
    # The floor's runs are bare appends that no role seals: the sweep would load them again and again.
    sweeping = not (directory / NO_SWEEP).exists()
    # The benchmarks need many runs that wait for a model.
    limits = WorkerLimits(runs_max=100_000, starts_max=100_000) if wait else WorkerLimits()
    settings = ProcessSettings(
        worker=worker,
        account_limits=ACCOUNT_LIMITS,
        random_source=random.Random(1),
        drain_s=0.2,
        sweeping=sweeping,
        limits=limits,
    )
    async with ActorProcess(backend, role_actors, settings).running() as running:
        yield running
    await backend.aclose()


@asynccontextmanager
async def processes(
    directory: Path, groups: Sequence[Sequence[RoleName]], *, wait: bool = False
) -> AsyncIterator[list[int]]:
    """Run each group of roles in its own process; yield the process ids."""
    children: list[anyio.abc.Process] = []
    try:
        for number, group in enumerate(groups):
            mode = "wait" if wait else "go"
            command = [sys.executable, __file__, str(directory), ",".join(group), f"w{number}#1", mode]
            children.append(await anyio.open_process(command, stdin=-1, stdout=-1, stderr=None))
        for child in children:
            assert child.stdout is not None
            await child.stdout.receive()
        yield [child.pid for child in children]
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
            await child.aclose()


async def serve(directory: str, roles: str, worker: str, mode: str) -> None:
    """Run as one of ``processes``."""
    names: list[Any] = roles.split(",")
    async with actor_process(Path(directory), names, worker, wait=mode == "wait"):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    directory, roles, worker, mode = sys.argv[1:5]
    anyio.run(serve, directory, roles, worker, mode, backend_options={"use_uvloop": True})
