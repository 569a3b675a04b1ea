"""Workers whose clocks are wrong, or are set while they work: the times of events are what counts."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns, Tools

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

PATIENT = msgspec.structs.replace(AGENT, limits=msgspec.structs.replace(AGENT.limits, wall_s=600))
HOUR_S = 3_600.0
WAIT_S = 90
WAITS = [[("wait.until", str(WAIT_S))]]
CLEARED = [[("mail", "wait")]]
"""A call that needs the approver, with a value from the task."""


class Wall:
    """A wall clock that is wrong by ``wrong_s``."""

    def __init__(self, wrong_s: float = 0.0) -> None:
        self.wrong_s = wrong_s

    def now(self) -> datetime:
        """The time it shows."""
        return virtual_now() + timedelta(seconds=self.wrong_s)


class World:
    """A broker, and the processes on it."""

    def __init__(self, broker: MemoryBroker, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.began = virtual_now()
        self._stack = stack

    async def process(
        self, name: str, roles: Sequence[RoleName], wall: Wall, *, turns: Sequence[Sequence[tuple[str, str]]] = WAITS
    ) -> ActorProcess:
        """Start a process."""
        made = [make_role(role, requester=ScriptedTurns(turns), runner=Tools({})) for role in roles]
        config = ProcessSettings(worker=f"{name}#1", now=wall.now, random_source=random.Random(name))
        return await self._stack.enter_async_context(ActorProcess(InMemory(self.broker), made, config).running())

    async def task(self) -> None:
        """Submit a task, once the processes have begun to listen."""
        await anyio.sleep(1)
        self.began = virtual_now()
        await self.broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "wait", "run": RUN}))

    async def run(self) -> Run:
        """The run folded from its log."""
        found = await self.broker.log().load(TENANT, RUN)
        return fold_messages(TENANT, RUN, [(m.subject, m.payload, m.seq) for m in found])

    def alerts(self, kind: str) -> list[dict[str, str]]:
        """The alerts of one kind."""
        found = self.broker.stream(stream_names.ALERTS).matching(f"alerts.*.{kind}")
        return [msgspec.json.decode(message.payload) for message in found]

    def at(self, run: Run, event: str) -> float:
        """Seconds from the beginning until this event of the run."""
        found = next(e.event for e in run.entries if f"{e.role}.{e.name}" == event and e.event is not None)
        return (found.at - self.began).total_seconds()


def in_world(main: Callable[[World], Awaitable[None]]) -> None:
    """Run ``main`` over a new broker under virtual time."""

    async def outer() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(PATIENT)
        async with AsyncExitStack() as stack:
            await main(World(broker, stack))

    run_virtual(outer, seed=1)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_wall_clock_set_in_the_middle_of_a_wait_changes_nothing(step_s: float) -> None:
    """The wait ends at its time, and the run completes."""

    async def main(world: World) -> None:
        wall = Wall()
        await world.process("w", ACTORS, wall)
        await world.task()
        await anyio.sleep(10)
        wall.wrong_s = step_s
        await anyio.sleep(WAIT_S)
        run = await world.run()
        assert run.sealed is not None
        assert run.sealed.status == "completed"
        assert world.at(run, "executor.finished") == pytest.approx(WAIT_S, abs=0.05)

    in_world(main)


@pytest.mark.parametrize("wrong_s", [300, -300])
@pytest.mark.parametrize("role", ["executor", "approver", "planner", "validator"])
def test_a_worker_five_minutes_off_decides_nothing_and_another_does_its_work(role: RoleName, wrong_s: int) -> None:
    """The run proceeds as if the wrong worker did not exist, and the worker reports why it does nothing."""

    async def main(world: World) -> None:
        for name in ACTORS:
            await world.process(name, [name], Wall())
        wrong = await world.process(f"wrong-{role}", [role], Wall(wrong_s))
        await world.task()
        await anyio.sleep(WAIT_S + 10)
        run = await world.run()
        assert run.sealed is not None
        assert run.sealed.status == "completed", run.sealed.why
        assert world.at(run, "executor.finished") == pytest.approx(WAIT_S, abs=0.1)
        assert world.at(run, "recorder.sealed") == pytest.approx(WAIT_S, abs=5.5)
        assert "300 s" in wrong.clock.refusal
        assert [alert["worker"] for alert in world.alerts("clock-off")] == [f"wrong-{role}#1"]

    in_world(main)


@pytest.mark.parametrize("wrong_s", [300, -300])
@pytest.mark.parametrize("role", ["executor", "approver", "planner", "validator"])
def test_a_worker_continues_when_its_clock_is_right_again(role: RoleName, wrong_s: int) -> None:
    """Its role decides nothing for two minutes, nothing fails because of that, and then the run continues."""

    async def main(world: World) -> None:
        wall = Wall(wrong_s)
        await world.process(role, [role], wall)
        turns = CLEARED if role == "approver" else WAITS
        await world.process("others", [name for name in ACTORS if name != role], Wall(), turns=turns)
        await world.task()
        await anyio.sleep(150)
        assert not any(entry.role == role for entry in (await world.run()).entries)
        wall.wrong_s = 0.0
        right_s = (virtual_now() - world.began).total_seconds()
        await anyio.sleep(WAIT_S + 20)
        run = await world.run()
        assert run.sealed is not None
        assert run.sealed.status == "completed", run.sealed.why
        first = next(e.event for e in run.entries if e.role == role and e.event is not None)
        assert right_s <= (first.at - world.began).total_seconds() < right_s + 5

    in_world(main)


@pytest.mark.parametrize("stream", ["control", "clients"])
def test_a_stop_needs_no_clock(stream: str) -> None:
    """The only worker's clock is five minutes off, and yet a person's or client's stop is stored within a second."""

    async def main(world: World) -> None:
        await world.process("w", ACTORS, Wall(-300))
        await anyio.sleep(10)
        await world.broker.publish(f"{stream}.{TENANT}.r2.stop", b'{"by": "ann", "why": "enough"}')
        await anyio.sleep(1)
        assert any("r2" in m.subject for m in world.broker.stream(stream_names.RUNS).matching("runs.*.r2.*.stopped.*"))

    in_world(main)
