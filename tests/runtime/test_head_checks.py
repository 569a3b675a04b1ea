"""Starts whose acknowledgement came late: whether they may begin is asked for all of them at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, TENANT, InMemory, Tools

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import LiveMessage
from linestop.bus.stop_run import catch_up, stop_run
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.errors import Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.head_checks import HeadChecks
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import EFFECT_AFTER_ACK_S, WorkerLimits
from linestop.schemas.model_messages import ModelReply, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import ACTORS, RoleName, RunId
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

RUNS = 60


class SlowBroker(NoFaults):
    """Acknowledges every append late and answers other requests after a moment; counts them all."""

    def __init__(self, *, ack_after_s: float) -> None:
        self.requests: Counter[str] = Counter()
        self.on_stored: Callable[[], Awaitable[None]] | None = None
        self.unreachable = 0
        self._ack_after_s = ack_after_s

    async def before(self, op: str) -> None:
        """Count the request."""
        self.requests[op] += 1
        if op == "log.moved":
            await anyio.sleep(0.02)
            if self.unreachable:
                self.unreachable -= 1
                raise Unreachable("no reply")

    async def after(self, op: str) -> None:
        """Delay the acknowledgement."""
        if op == "log.append":
            if self.on_stored is not None:
                await self.on_stored()
            await anyio.sleep(self._ack_after_s)


class WithoutHints(InMemory):
    """No hint arrives."""

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """Yield nothing, for ever."""
        await anyio.sleep_forever()
        yield LiveMessage(subject=f"{role} {filters} {group}")


class CountedModel:
    """Answers at once."""

    def __init__(self) -> None:
        self.requests = 0

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Answer."""
        del work
        self.requests += 1
        usage = Usage(fresh_in=100, out=20)
        return ModelReply(text="done", calls=(), stop_reason="end", usage=usage, usage_reported=True, model="x"), 0.0


async def serve(
    faults: SlowBroker, model: CountedModel, *, runs: int, scenario: Callable[[MemoryBroker], None]
) -> None:
    """Serve so many tasks in one process."""
    broker = MemoryBroker(virtual_now, faults=faults)
    await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
    config = ProcessSettings(
        worker="w#1",
        now=virtual_now,
        random_source=random.Random(1),
        sweeping=False,
        limits=WorkerLimits(runs_max=1_000, starts_max=1_000),
    )
    roles = [make_role(role, requester=model, runner=Tools({})) for role in ACTORS]
    scenario(broker)
    async with ActorProcess(WithoutHints(broker), roles, config).running():
        for n in range(runs):
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "go", "run": f"r{n}"}))
        await anyio.sleep(30)


def test_many_late_starts_cost_few_requests() -> None:
    """Sixty starts that were acknowledged late ask in a few requests, and read no log."""
    faults, model = SlowBroker(ack_after_s=2 * EFFECT_AFTER_ACK_S), CountedModel()
    run_virtual(lambda: serve(faults, model, runs=RUNS, scenario=lambda _: None), seed=1)
    assert model.requests == RUNS
    assert 1 <= faults.requests["log.moved"] <= RUNS // 4
    assert faults.requests["log.load_leader"] == 0


def test_a_stop_that_is_stored_before_a_late_acknowledgement_keeps_the_start_from_beginning() -> None:
    """No hint of it arrives: the question about the next number finds it."""
    faults, model = SlowBroker(ack_after_s=2 * EFFECT_AFTER_ACK_S), CountedModel()

    def scenario(broker: MemoryBroker) -> None:
        stream = broker.stream(stream_names.RUNS)

        async def stop_after_start() -> None:
            faults.on_stored = stop_after_start
            if ".planner.started." not in stream.matching("runs.>")[-1].subject:
                return
            faults.on_stored = None
            run, log = Run(TENANT, RunId("r0")), broker.log(["operator"])
            await catch_up(log, run)
            encoder = EventEncoder(build="", blobs=broker.blobs(), random_source=random.Random(2), now=virtual_now)
            await stop_run(log, encoder, run, lambda at: stop_event(at, by="ann", why="enough"))

        faults.on_stored = stop_after_start

    run_virtual(lambda: serve(faults, model, runs=1, scenario=scenario), seed=1)
    assert faults.on_stored is None
    assert model.requests == 0


@pytest.mark.anyio
async def test_a_failed_request_is_made_again_for_those_who_still_wait() -> None:
    """The first one gets the error; the others ask again."""
    faults = SlowBroker(ack_after_s=0)
    broker = MemoryBroker(virtual_now, faults=faults)
    faults.unreachable = 1
    checks, answers = HeadChecks(broker.log()), list[bool | None]()

    async def ask(n: int) -> None:
        try:
            answers.append(await checks.has_moved(Run(TENANT, RunId(f"r{n}"))))
        except Unreachable:
            answers.append(None)

    async with anyio.create_task_group() as tasks:
        for n in range(3):
            tasks.start_soon(ask, n)
    assert answers == [None, False, False]
    assert faults.requests["log.moved"] == 2
