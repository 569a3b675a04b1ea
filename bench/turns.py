"""What the runtime adds to a turn with one tool call: model and tool answer at once, the log is real.

Everything is measured against a floor taken in the same run: as many bare compare-and-append calls as a turn has
appends, of the same payload sizes, over the same thin publishing path. These machines change their speed from
minute to minute, so only the ratios mean anything; floor and system alternate, and the medians are compared.

Prints a table on stderr and one JSON line on stdout. ``python bench/turns.py --help`` lists what can be chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from linestop.bus import layout
from linestop.bus.agents import AgentStore
from linestop.bus.backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.host import Host, HostConfig, make_role
from linestop.bus.init import set_up
from linestop.bus.jetstream import JetStream
from linestop.bus.ports import Append
from linestop.bus.server import EmbeddedServer, ServerOptions
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import ModelChoice
from linestop.schemas.limits import AccountLimits, Limits
from linestop.schemas.model import ModelReply, Price, ToolCall, Usage
from linestop.schemas.subjects import ACTORS, RunId, TenantId, parse_run_event
from linestop.schemas.tools import Contract, ToolResult
from linestop.schemas.work import CallWork, ModelWork

TENANT = TenantId("bench")
TURNS = 10
TEXT = "x" * 900
"""About 1 KB an answer and a result, as the measurements of the peers have (docs/performance.md)."""

SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False}


class InstantModel:
    """Answers at once: one call a turn, and the final answer in the last."""

    def __init__(self) -> None:
        self.moments: dict[str, list[float]] = {}
        self.hold: anyio.Event | None = None

    async def call(self, work: ModelWork) -> tuple[ModelReply, float]:
        self.moments.setdefault(work.run, []).append(time.perf_counter())
        if self.hold is not None:
            await self.hold.wait()
        calls: tuple[ToolCall, ...] = ()
        if work.turn < TURNS:
            calls = (ToolCall(id=f"c{work.turn}", name="look", args=json.dumps({"q": f"{work.turn} {TEXT}"})),)
        usage = Usage(fresh_in=300, out=50)
        text = "" if calls else "done"
        reply = ModelReply(
            text=text, calls=calls, stop_reason="calls" if calls else "end", usage=usage, usage_reported=True, model="stub"
        )
        return reply, 0.0


class InstantTool:
    """Gives back 1 KB at once."""

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        for work in works:
            yield work, ToolResult(outcome="succeeded", value=TEXT), 0.0


def agent() -> AgentVersion:
    """The agent under measurement: one read tool, limits out of the way."""
    limits = Limits(
        tokens_max=10_000_000, cost_max_micros=50_000_000, turns_max=10_000, calls_max=10_000,
        calls_per_tool_max=10_000, wall_s=86_400,
    )
    look = Contract(name="look", description="Look.", parameters=SCHEMA, tier="read")
    price = Price(input=100_000, output=500_000, table="bench")
    model = ModelChoice(model="playbook/stub", price=price, window_tokens=10_000_000)
    return AgentVersion(name="bench", prompt="Work.", model=model, tools=(look,), limits=limits)


class Bench:
    """One server with all streams, one process with all roles."""

    def __init__(self, server: EmbeddedServer, host: Host, model: InstantModel, operator: JetStream) -> None:
        self.server = server
        self.host = host
        self.model = model
        self.operator = operator
        self.count = 0

    async def start_run(self) -> str:
        """Submit one task; return its run id."""
        self.count += 1
        run = f"run-{os.getpid()}-{self.count}"
        body = msgspec.json.encode({"text": "go", "run": run, "user": f"user-{self.count % 50}"})
        await self.operator.wire.ask(f"tasks.{TENANT}.bench", body)
        return run

    async def finish(self, run: str) -> None:
        """Wait until a run is sealed."""
        while True:
            entry = self.host.shell.cache.peek(TENANT, RunId(run))
            if len(self.model.moments.get(run, ())) >= TURNS and (entry is None or entry.run.sealed):
                return
            await anyio.sleep(0.0005)

    async def system(self, in_flight: int, runs: int) -> tuple[list[float], float]:
        """Drive ``runs`` runs, ``in_flight`` at once; return the turn times in seconds and turns a second."""
        self.model.moments.clear()
        limiter = anyio.Semaphore(in_flight)
        began = time.perf_counter()

        async def one() -> None:
            await self.finish(await self.start_run())
            limiter.release()

        async with anyio.create_task_group() as tasks:
            for _ in range(runs):
                await limiter.acquire()
                tasks.start_soon(one)
        took = time.perf_counter() - began
        turns = [b - a for moments in self.model.moments.values() for a, b in zip(moments, moments[1:], strict=False)]
        return turns, runs * TURNS / took

    async def floor(self, in_flight: int, turns: int, sizes: list[int]) -> tuple[list[float], float]:
        """As many bare compare-and-appends as the turns would make, nothing else; times a turn and turns a second."""
        log = self.operator.log()
        times: list[float] = []
        limiter = anyio.Semaphore(in_flight)
        payloads = [b'{"id":"x","prev":"y","pad":"' + b"x" * max(0, size - 30) + b'"}' for size in sizes]

        async def one_run(count: int) -> None:
            self.count += 1
            run, head, n = RunId(f"floor-{os.getpid()}-{self.count}"), 0, 0
            for _ in range(count):
                began = time.perf_counter()
                for payload in payloads:
                    n += 1
                    head = await log.append(
                        Append(tenant=TENANT, run=run, role="operator", event="stopped", n=n, event_id=f"{run}{n}",
                               head_seq=head, payload=payload, headers=HEADERS)
                    )
                times.append(time.perf_counter() - began)
            limiter.release()

        began = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(max(1, turns // TURNS)):
                await limiter.acquire()
                tasks.start_soon(one_run, TURNS)
        return times, turns / (time.perf_counter() - began)


HEADERS = {
    "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "ce-specversion": "1.0", "ce-id": "0" * 36,
    "ce-source": "/linestop/validator", "ce-type": "io.linestop.run.validator.judged",
}


@asynccontextmanager
async def bench(sync: Any) -> AsyncIterator[Bench]:
    """Set everything up in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="linestop-bench-") as directory:
        async with EmbeddedServer(Path(directory), ServerOptions(sync_interval=sync)) as server:
            async with await connect(server.credential("bootstrap"), name="bench") as connection:
                await set_up(connection)
            backend = await JetStreamBackend.open({role: server.credential(role) for role in ACTORS}, name="bench")
            operator = await connect(server.credential("operator"), name="bench-operator")
            streams = await JetStream.open(operator)
            await AgentStore(streams.shared(layout.AGENTS_BUCKET)).deploy(agent())
            model = InstantModel()
            big = AccountLimits(user_day_micros=10**12, tenant_day_micros=10**12, system_hour_micros=10**12)
            config = HostConfig(worker="bench#1", accounts=big, chance=random.Random(1), sweeping=False)
            host = Host(backend, [make_role(role, caller=model, runner=InstantTool()) for role in ACTORS], config)
            async with host.running():
                yield Bench(server, host, model, streams)
            await operator.close()
            await backend.aclose()


def cpu_of(pid: int) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def sizes_of(bench_: Bench) -> tuple[list[int], int]:
    """Payload sizes of the events of a turn in the middle of a run, and the number of events of a run."""
    run = await bench_.start_run()
    await bench_.finish(run)
    await anyio.sleep(0.2)
    messages = await bench_.operator.log().load(TENANT, RunId(run))
    names = [parse_run_event(m.subject) for m in messages]
    starts = [i for i, name in enumerate(names) if (name.role, name.event) == ("planner", "started")]
    middle = messages[starts[4] : starts[5]]
    return [len(m.payload) for m in middle], len(messages)


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Alternate floor and system; return medians and ratios."""
    async with bench(args.sync) as b:
        sizes, events = await sizes_of(b)
        await b.system(1, 3)
        rounds: list[dict[str, float]] = []
        for _ in range(args.rounds):
            floor_one, _ = await b.floor(1, args.alone * TURNS, sizes)
            alone, _ = await b.system(1, args.alone)
            _, floor_many = await b.floor(16, args.many * TURNS, sizes)
            before = time.process_time(), cpu_of(b.server.pid)
            _, many = await b.system(16, args.many)
            after = time.process_time(), cpu_of(b.server.pid)
            turns = args.many * TURNS
            rounds.append({
                "floor_ms": statistics.median(floor_one) * 1e3, "turn_ms": statistics.median(alone) * 1e3,
                "floor_turns_s": floor_many, "turns_s": many,
                "cpu_ms": (after[0] - before[0]) / turns * 1e3, "server_cpu_ms": (after[1] - before[1]) / turns * 1e3,
            })
        middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        info = await b.operator.log().space_used()
        return {
            **{key: round(value, 3) for key, value in middle.items()},
            "ratio_alone": round(middle["turn_ms"] / middle["floor_ms"], 3),
            "ratio_many": round(middle["turns_s"] / middle["floor_turns_s"], 3),
            "appends_a_turn": len(sizes), "payload_bytes_a_turn": sum(sizes), "events_a_run": events,
            "space": info, "sync": args.sync,
        }


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=10, help="runs measured one at a time, a round")
    parser.add_argument("--many", type=int, default=64, help="runs measured 16 at a time, a round")
    parser.add_argument("--sync", default="1s", choices=["1s", "always"])
    args = parser.parse_args()
    result = anyio.run(measure, args, backend_options={"use_uvloop": True})
    for key, value in result.items():
        print(f"{key:24} {value}", file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
