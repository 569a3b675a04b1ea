"""A broker with streams and deployed agents, the processes of linestop, and a client that submits and watches."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from bench.system.brokers import SYNC_1S, Broker, BrokerKind, running_broker
from bench.system.linestop_processes import LinestopProcess, Separation, run_command, start_process
from bench.system.process_use import cpu_s, with_children
from bench.system.project_folder import Agent, write_project

from linestop.bus import jetstream_api
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.schemas.subjects import RunId, TenantId, parse_run_event

TENANT: Final = TenantId("bench")
USERS: Final = 50
SUBMITTED_AT_ONCE: Final = 64
DRAINED_WITHIN_S: Final = 120.0
WAIT_MAX_S: Final = 240.0


class TurnStart(msgspec.Struct, frozen=True):
    """A model start: a turn begins. ``n`` is the number of the event in its run."""

    run: str
    n: int
    at: float


class LoadSample(msgspec.Struct, frozen=True, kw_only=True):
    """What happened while runs were kept in flight; CPU ms and bytes are a turn's."""

    times_s: list[float]
    turns_s: float
    cpu_ms: float
    broker_cpu_ms: float
    stored_bytes: float


class RunningSystem:
    """Submits runs, watches their turns, and knows the processes that work on them."""

    def __init__(self, broker: Broker, operator: JetStream, project: Path) -> None:
        self.broker = broker
        self.operator = operator
        self.project = project
        self.processes: list[LinestopProcess] = []
        self.starts: list[TurnStart] = []
        self.asked = 0
        self._submitted = itertools.count(1)
        self._sealed: dict[str, anyio.Event] = {}

    @property
    def directory(self) -> Path:
        """The state folder of all processes."""
        return self.broker.directory

    @property
    def pids(self) -> list[int]:
        """The processes of linestop, with those that they have started."""
        return with_children(process.pid for process in self.processes)

    async def start(self, separation: Separation) -> None:
        """Start the processes of a separation, all at once."""

        async def one(args: tuple[str, ...]) -> None:
            self.processes.append(await start_process(args, self.project, self.directory))

        async with anyio.create_task_group() as tasks:
            for args in separation.commands:
                tasks.start_soon(one, args)

    async def end_processes(self) -> None:
        """Kill all processes of linestop."""
        for process in self.processes:
            await process.end()
        self.processes = []

    async def watch(self) -> None:
        """Subscribe to every model start, every question and every seal."""

        async def on_event(message: Any) -> None:  # noqa: ANN401 - nats-py's message
            *_, run, role, event, n = message.subject.split(".")
            if (role, event) == ("planner", "started"):
                self.starts.append(TurnStart(run, int(n), time.perf_counter()))
            elif event == "asked":
                self.asked += 1
            elif run in self._sealed:
                self._sealed.pop(run).set()

        nc = self.operator.connection.nc
        for event in ("planner.started", "approver.asked", "recorder.sealed"):
            await nc.subscribe(  # pyright: ignore[reportUnknownMemberType] - nats-py
                f"live.runs.*.*.{event}.*", cb=on_event
            )
        await nc.flush()

    async def submit(self, agent: Agent) -> tuple[str, anyio.Event]:
        """Submit one task; return its run id and an event that is set when the run is sealed."""
        number = next(self._submitted)
        run = f"run-{number}"
        sealed = self._sealed[run] = anyio.Event()
        body = msgspec.json.encode({"text": "go", "run": run, "user": f"user-{number % USERS}"})
        await self.operator.wire.request(f"tasks.{TENANT}.{agent.name}", body, timeout_s=30)
        return run, sealed

    async def submit_many(self, agent: Agent, runs: int) -> None:
        """Submit tasks, several at once, and return when the broker has stored them."""
        limiter = anyio.CapacityLimiter(SUBMITTED_AT_ONCE)

        async def one() -> None:
            async with limiter:
                await self.submit(agent)

        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(one)

    async def complete(self, agent: Agent, runs: int, *, in_flight: int = 64) -> list[TurnStart]:
        """Let that many runs complete, some at a time; return the starts of their turns."""
        first = len(self.starts)
        limiter = anyio.CapacityLimiter(in_flight)

        async def one() -> None:
            async with limiter:
                _, sealed = await self.submit(agent)
                await sealed.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                tasks.start_soon(one)
        return self.starts[first:]

    async def keep_busy(self, agent: Agent, in_flight: int, seconds: float, *, warm_s: float = 1.0) -> LoadSample:
        """Keep ``in_flight`` runs under way, each followed by the next, and measure between a warm-up and the end.

        Raises:
            TimeoutError: the runs under way are not over two minutes later.
        """
        over = anyio.Event()

        async def one_after_the_other() -> None:
            while not over.is_set():
                _, sealed = await self.submit(agent)
                await sealed.wait()

        samples: list[LoadSample] = []
        with anyio.fail_after(None) as drained:
            async with anyio.create_task_group() as tasks:
                for _ in range(in_flight):
                    tasks.start_soon(one_after_the_other)
                await anyio.sleep(warm_s)
                samples.append(await self._sample(seconds))
                over.set()
                drained.deadline = anyio.current_time() + DRAINED_WITHIN_S
        return samples[0]

    async def _sample(self, seconds: float) -> LoadSample:
        first, stored = len(self.starts), await self.stored_bytes()
        used, broker_used, began = cpu_s(self.pids), cpu_s(self.broker.pids()), time.perf_counter()
        await anyio.sleep(seconds)
        took_s = time.perf_counter() - began
        used, broker_used = cpu_s(self.pids) - used, cpu_s(self.broker.pids()) - broker_used
        starts, stored = self.starts[first:], await self.stored_bytes() - stored
        turns = max(1, len(starts))
        return LoadSample(
            times_s=[length for _, length in turn_lengths(starts)],
            turns_s=len(starts) / took_s,
            cpu_ms=used / turns * 1e3,
            broker_cpu_ms=broker_used / turns * 1e3,
            stored_bytes=stored / turns,
        )

    async def wait_until(self, is_reached: Callable[[], bool], *, within_s: float = WAIT_MAX_S) -> None:
        """Wait until something that ``watch`` sees has happened.

        Raises:
            TimeoutError: it has not happened in time; the error has what has been seen.
        """
        with anyio.move_on_after(within_s):
            while not is_reached():
                await anyio.sleep(0.01)
        if not is_reached():
            seen = f"{len(self.starts):,} turns have begun and {self.asked:,} questions were asked"
            raise TimeoutError(f"after {within_s:g} s {seen}")

    async def wait_for_starts(self, starts: int) -> None:
        """Wait until that many turns have begun since ``watch``."""
        await self.wait_until(lambda: len(self.starts) >= starts)

    async def stored_bytes(self, stream: str = stream_names.RUNS) -> int:
        """Bytes in a stream, by default in the run log."""
        return int((await self.stream_state(stream))["bytes"])

    async def stream_state(self, stream: str) -> dict[str, Any]:
        """What the broker says about the messages of a stream."""
        info: Any = await self.operator.connection.api_request(jetstream_api.stream_info(stream))
        state: dict[str, Any] = info["state"]
        return state

    async def event_sizes(self, agent: Agent) -> list[int]:
        """Payload sizes of the events of a turn in the middle of a run."""
        run, sealed = await self.submit(agent)
        await sealed.wait()
        messages = await self.operator.log().load(TENANT, RunId(run))
        names = [parse_run_event(message.subject) for message in messages]
        starts = [at for at, name in enumerate(names) if (name.role, name.event) == ("planner", "started")]
        middle = len(starts) // 2
        return [len(message.payload) for message in messages[starts[middle - 1] : starts[middle]]]


def turn_lengths(starts: Iterable[TurnStart]) -> list[tuple[int, float]]:
    """The number of the first event and the length in seconds of each turn that another one of its run follows."""
    by_run: dict[str, list[TurnStart]] = {}
    for start in starts:
        by_run.setdefault(start.run, []).append(start)
    return [(a.n, b.at - a.at) for each in by_run.values() for a, b in itertools.pairwise(each)]


@asynccontextmanager
async def running_system(
    agents: Sequence[Agent],
    separation: Separation | None,
    *,
    broker: BrokerKind = SYNC_1S,
    many_starts: bool = False,
) -> AsyncGenerator[RunningSystem]:
    """Set a broker and a project up, deploy the agents, and start the processes if a separation is given."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linestop-project-")))
        write_project(folder, agents, many_starts=many_starts)
        running = await stack.enter_async_context(running_broker(broker))
        async with await connect(running.credential("bootstrap"), name="bench") as bootstrap:
            await set_up(bootstrap, BusLayout(replicas=broker.replicas))
        await run_command(["deploy"], folder, running.directory)
        operator = await stack.enter_async_context(await connect(running.credential("operator"), name="bench"))
        system = RunningSystem(running, JetStream(operator), folder)
        await system.watch()
        stack.push_async_callback(system.end_processes)
        if separation is not None:
            await system.start(separation)
        yield system
