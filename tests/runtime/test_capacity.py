"""What one process works on at once: tasks stay where they are, starts wait their turn, stops do not."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import anyio
import msgspec
import pytest
from tests.builders import Story, at_work, call, contract, reply
from tests.builders import agent as desk
from tests.run_logs import AGENT, TENANT, InMemory, Tools

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.stores.worker_heartbeats import read_heartbeat
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.runtime.run_cache import Key
from linestop.runtime.workers.capacity import (
    LAG_VALID_S,
    RECHECK_AFTER_S,
    RECHECK_EVERY_S,
    RECHECKS_MAX,
    Capacity,
)
from linestop.schemas.defaults import HEARTBEAT_EVERY_S, PROCESS_TOOL_WEIGHT, Limits, WorkerLimits
from linestop.schemas.events import EffectStarted, ModelStarted
from linestop.schemas.model_messages import ModelReply, ToolCall, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import ACTORS, RunId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

PATIENT = msgspec.structs.replace(AGENT, limits=Limits(wall_s=36_000))


class ScheduledPasses:
    """Records the runs that are to be advanced, and whether their logs are to be read first."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.fresh: list[bool] = []

    def __call__(self, key: Key, *, fresh: bool) -> None:
        """Record it."""
        self.keys.append(key)
        self.fresh.append(fresh)


class SlowModel:
    """A model that takes time, asks a person if the task says so, and counts its simultaneous requests."""

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s
        self.concurrent = self.concurrent_max = self.calls = 0

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        self.calls += 1
        self.concurrent += 1
        self.concurrent_max = max(self.concurrent_max, self.concurrent)
        try:
            await anyio.sleep(self._takes_s)
        finally:
            self.concurrent -= 1
        asks = "pay" in work.request.messages[0].text and work.turn == 1
        calls = (ToolCall(id="c1", name="pay", args='{"q": "1"}'),) if asks else ()
        return reply(*calls, usage=Usage(fresh_in=10, out=5), model="x"), self._takes_s


class Process:
    """One process with all roles over a broker in memory."""

    def __init__(self, broker: MemoryBroker, model: SlowModel, actor_process: ActorProcess) -> None:
        self.broker, self.model, self.actor_process = broker, model, actor_process

    async def tasks(self, *texts: str) -> None:
        """Hand in tasks, which become the runs r0, r1 and so on."""
        for index, text in enumerate(texts):
            await self.broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": text, "run": f"r{index}"}))

    async def run(self, index: int) -> Run:
        """The run of one of them, from the log."""
        run = RunId(f"r{index}")
        found = await self.broker.log().load(TENANT, run)
        return fold_messages(TENANT, run, [(m.subject, m.payload, m.seq) for m in found])

    @property
    def queued(self) -> int:
        """Tasks that are still in their stream."""
        return len(self.broker.stream(stream_names.TASKS).matching(">"))


def with_process(
    scenario: Callable[[Process], Awaitable[None]], *, runs_max: int = 0, starts_max: int = 0, takes_s: float = 1.0
) -> None:
    """Run ``act`` beside a process with these bounds."""

    async def main() -> None:
        broker, model = MemoryBroker(virtual_now), SlowModel(takes_s)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(PATIENT)
        limits = WorkerLimits(runs_max=runs_max, starts_max=starts_max)
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1), limits=limits)
        roles = [make_role(role, requester=model, runner=Tools({})) for role in ACTORS]
        async with ActorProcess(InMemory(broker), roles, config).running() as actor_process:
            await scenario(Process(broker, model, actor_process))

    run_virtual(main)


def test_queued_tasks_stay_in_their_stream_and_all_are_done_once() -> None:
    """However many tasks there are: never more runs and starts at once than allowed, and no start without a result."""

    async def scenario(process: Process) -> None:
        await process.tasks(*["work"] * 300)
        await anyio.sleep(10)
        assert process.actor_process.shell.capacity.load.runs <= 8
        assert 300 - process.queued <= 8 * 11
        await anyio.sleep(60)
        assert (process.queued, process.model.concurrent_max, process.model.calls) == (0, 8, 300)
        runs = [await process.run(index) for index in range(300)]
        assert {run.sealed.status for run in runs if run.sealed} == {"completed"}
        assert all(run.sealed for run in runs)

    with_process(scenario, runs_max=8)


def test_starts_wait_their_turn_without_an_event() -> None:
    """Runs are opened, and their calls begin one after the other, in their order."""

    async def scenario(process: Process) -> None:
        await process.tasks(*["work"] * 6)
        await anyio.sleep(0.5)
        load = process.actor_process.shell.capacity.load
        assert (load.runs, load.starts, load.waiting, load.is_overloaded) == (6, 2, 4, True)
        assert [(await process.run(index)).n for index in range(6)] == [3, 3, 2, 2, 2, 2]
        await anyio.sleep(2.6)
        assert process.model.concurrent_max == 2
        assert all([(await process.run(index)).sealed for index in range(6)])
        assert process.actor_process.shell.capacity.load.is_overloaded is False

    with_process(scenario, starts_max=2)


def test_the_heartbeats_of_a_worker_show_when_its_overload_begins_and_ends() -> None:
    """Within one heartbeat: so `workers`, `doctor` and `show` can name it."""

    async def scenario(process: Process) -> None:
        async def shown() -> list[tuple[bool, int]]:
            found = await process.broker.bucket(stream_names.BEATS_BUCKET).values("")
            beats = [beat for value in found if (beat := read_heartbeat(value)) is not None]
            assert len(beats) == len(ACTORS)
            return sorted({(beat.is_overloaded, beat.load.waiting) for beat in beats if beat.load is not None})

        assert await shown() == [(False, 0)]
        await process.tasks(*["work"] * 6)
        await anyio.sleep(HEARTBEAT_EVERY_S + 0.5)
        assert await shown() == [(True, 4)]
        await anyio.sleep(20 + HEARTBEAT_EVERY_S)
        assert await shown() == [(False, 0)]

    with_process(scenario, starts_max=2, takes_s=5.0)


def test_a_run_that_waits_for_a_place_for_minutes_is_not_stuck() -> None:
    """The sweep advances it again and again, and does not count that."""

    async def scenario(process: Process) -> None:
        await process.tasks("work", "work", "work")
        await anyio.sleep(310)
        assert [(await process.run(index)).sealed is not None for index in range(3)] == [True, True, True]
        assert [(await process.run(index)).stopped for index in range(3)] == [None, None, None]

    with_process(scenario, starts_max=1, takes_s=100.0)


def test_a_run_that_waits_for_a_person_lets_others_in() -> None:
    """Its place is free from the question to the reply."""

    async def scenario(process: Process) -> None:
        await process.tasks("pay it", "work", "work")
        await anyio.sleep(3.5)
        assert (await process.run(0)).phase == "waiting"
        assert all([(await process.run(index)).sealed for index in (1, 2)])
        assert process.actor_process.shell.capacity.load.runs == 0

    with_process(scenario, runs_max=1)


def test_a_full_process_carries_out_a_stop() -> None:
    """At once, for a run that waits for its turn and for one in progress; and its place goes to the next."""

    async def scenario(process: Process) -> None:
        await process.tasks(*["work"] * 4)
        await anyio.sleep(0.5)
        for index in (0, 3):
            await process.broker.publish(f"control.{TENANT}.r{index}.stop", b'{"by": "ann", "why": "enough"}')
        await anyio.sleep(0.05)
        assert all([(await process.run(index)).sealed for index in (0, 3)])
        assert process.actor_process.shell.capacity.load.starts == 1
        assert len((await process.run(1)).open_attempts) == 1
        assert (await process.run(3)).attempts == {}

    with_process(scenario, starts_max=1)


def test_a_run_that_another_process_ended_gives_its_place_back() -> None:
    """Even without a hint: when all places are taken, the oldest runs are advanced."""

    async def main() -> None:
        scheduled = ScheduledPasses()
        capacity = Capacity(WorkerLimits(runs_max=1, starts_max=1), scheduled)
        run = at_work(call("drop")).run
        capacity.pass_ended(at_work(call("look")).run, run.at, is_ours=True)
        assert (capacity.free(), scheduled.keys) == (0, [])
        await anyio.sleep(RECHECK_AFTER_S + 1)
        assert (capacity.free(), scheduled.keys, scheduled.fresh) == (0, [(run.tenant, run.run)], [True])
        freed: list[int] = []
        forget = capacity.watch(lambda: freed.append(1))
        capacity.pass_ended(run, run.at, is_ours=True)
        assert (capacity.free(), freed) == (1, [1])
        forget()

    run_virtual(main)


def test_a_full_process_looks_for_ended_runs_once_a_second_however_often_it_is_asked() -> None:
    """However often it is asked, it looks at its runs once a second, and advances a few of them then."""

    async def main() -> None:
        looks: list[int] = []
        for runs in (10, 1_000):
            scheduled = ScheduledPasses()
            capacity = Capacity(WorkerLimits(runs_max=1, starts_max=1), scheduled)
            run = at_work(call("look")).run
            for n in range(runs):
                run.run = RunId(f"r{n}")
                capacity.pass_ended(run, run.at, is_ours=True)
            await anyio.sleep(RECHECK_AFTER_S + 1)
            for _ in range(100):
                assert capacity.free() == 0
            looks.append(len(scheduled.keys))
            await anyio.sleep(RECHECK_EVERY_S)
            assert capacity.free() == 0
            looks.append(len(scheduled.keys))
        assert looks == [10, 10, RECHECKS_MAX, 2 * RECHECKS_MAX]

    run_virtual(main)


def test_a_process_that_lags_takes_no_new_task_for_a_while() -> None:
    """Unless it has no runs at all: then the cause of the lag is over."""

    async def main() -> None:
        await anyio.sleep(5)
        capacity = Capacity(WorkerLimits(runs_max=10), ScheduledPasses())
        run = at_work(call("look")).run
        capacity.record_lag(2.0)
        assert capacity.free() == 10
        capacity.pass_ended(run, run.at, is_ours=True)
        assert (capacity.free(), capacity.load.is_overloaded, capacity.load.lag_s) == (0, True, 2.0)
        await anyio.sleep(LAG_VALID_S)
        assert (capacity.free(), capacity.load.lag_s) == (9, 0.0)

    run_virtual(main)


@pytest.mark.parametrize(("kind", "weight"), [("async", 1), ("process", PROCESS_TOOL_WEIGHT)])
def test_a_tool_in_a_process_of_its_own_takes_more_places(kind: str, weight: int) -> None:
    """And a tool that takes more places than there are begins alone, however low the bound."""

    async def main() -> None:
        story = at_work(call("look"), version=desk(tools=(contract("look", kind=kind),)))
        capacity = Capacity(WorkerLimits(starts_max=2), ScheduledPasses())
        started = story.last(EffectStarted)
        assert capacity.reserve(story.run, started)
        capacity.begin(story.run, started)
        assert capacity.load.starts == weight
        other = Run(TENANT, RunId("other"))
        assert capacity.reserve(other, story.last(ModelStarted)) is (weight == 1)
        capacity.end((story.run.tenant, story.run.run), story.run.n)
        assert capacity.reserve(other, story.last(ModelStarted))

    run_virtual(main)


def test_a_reservation_that_does_not_become_a_start_goes_to_the_next_run() -> None:
    """In the order in which they came; no run overtakes."""

    async def main() -> None:
        scheduled = ScheduledPasses()
        capacity = Capacity(WorkerLimits(starts_max=1), scheduled)
        started = at_work(call("look")).last(ModelStarted)
        runs = [Run(TENANT, RunId(f"r{index}")) for index in range(3)]
        assert [capacity.reserve(run, started) for run in runs] == [True, False, False]
        capacity.release((TENANT, RunId("r0")))
        assert scheduled.keys == [(TENANT, "r1")]
        assert [capacity.reserve(run, started) for run in runs] == [False, True, False]
        assert capacity.is_waiting((TENANT, RunId("r1")))
        capacity.release((TENANT, RunId("r1")))
        assert scheduled.keys[1:] == [(TENANT, "r2")]

    run_virtual(main)


def test_the_defaults_come_from_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than four cores do not help one process; configured values take precedence."""
    found: list[int] = []
    for cores in (1, 2, 64):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        found.append(WorkerLimits().resolved().runs_max)
    assert found == [64, 128, 256]
    assert WorkerLimits(runs_max=5, starts_max=7).resolved() == WorkerLimits(runs_max=5, starts_max=7)


def test_a_run_that_retries_later_does_not_count() -> None:
    """A run that waits for a far date is not work; one whose turn comes in a moment is."""

    async def main() -> None:
        capacity = Capacity(WorkerLimits(), ScheduledPasses())
        story = at_work(call("look"))
        capacity.pass_ended(story.run, story.now, is_ours=True)
        assert capacity.load.runs == 1
        capacity.pass_ended(story.run, story.now + timedelta(days=1), is_ours=False)
        assert capacity.load.runs == 0

    run_virtual(main)


def test_a_run_that_waits_for_money_does_not_count_in_a_process_with_budget() -> None:
    """A process without budget cannot know that: for it the run is in progress."""

    async def main() -> None:
        story = Story().open_run()
        for has_budget, runs in ((False, 1), (True, 0)):
            capacity = Capacity(WorkerLimits(), ScheduledPasses())
            capacity.has_budget = has_budget
            capacity.pass_ended(story.run, story.now, is_ours=True)
            assert capacity.load.runs == runs

    run_virtual(main)
