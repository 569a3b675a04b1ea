"""P2 and P3 on the real processes: whatever is killed at whatever event, every run ends by itself, once.

A cell of the matrix is one run of the script, one victim and one moment: a role's process right before or right
after (before it acts on it) its own event is acknowledged, or when another role's event is stored; the broker
while it is asked to store an event and right after it has; the executor while its request is at the tool's server.
A person is played only for effects whose fate nobody else can know, and says the truth.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import anyio
import pytest
from tests.e2e.processes import Broker, Processes, World, running
from tests.e2e.role_process import Setup, Trigger
from tests.e2e.scene import BOOK, Scene, agent, described, names, operating

from linestop.schemas.events import EffectStarted, Finished, Proposed
from linestop.schemas.run import Run
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.testing.playbook import PlaybookServer
from linestop.testing.playbook.script import parse_playbook
from linestop.testing.rigs import until

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

EVENTS = (
    ("validator", "opened", 1), ("budget", "held", 1),
    ("planner", "started", 1), ("planner", "proposed", 1), ("validator", "judged", 1), ("approver", "cleared", 1),
    ("executor", "started", 1), ("executor", "finished", 1),
    ("planner", "started", 2), ("planner", "proposed", 2), ("validator", "judged", 2), ("approver", "cleared", 2),
    ("executor", "started", 2), ("executor", "finished", 2), ("executor", "finished", 3),
    ("planner", "started", 3), ("planner", "proposed", 3), ("validator", "accepted", 1),
    ("budget", "settled", 1), ("recorder", "sealed", 1),
)  # fmt: skip
"""The events of an undisturbed run, in order: (role, event, which of that name)."""

CELL_WITHIN_S = 30.0
EVENTS_OF_CALLS = tuple(event for event in EVENTS if event[:2] == ("executor", "finished"))


class Stage:
    """Everything a cell needs, shared by all cells of this module."""

    def __init__(self, directory: Path, scene: Scene, world: World, processes: Processes, broker: Broker) -> None:
        self.directory = directory
        self.scene = scene
        self.world = world
        self.processes = processes
        self.broker = broker
        self.numbers = itertools.count(1)

    async def sealed(self, run: str) -> Run:
        """Wait until the run is sealed, resolving as a person what nobody else can know."""

        def settled_or_asked(state: Run) -> bool:
            asked = state.proposal is not None and any(call.asked_doubt for call in state.proposal.calls)
            return state.sealed is not None or (asked and state.n > answered)

        answered = 0
        with anyio.fail_after(CELL_WITHIN_S):
            while (state := await self.scene.until(run, settled_or_asked, within_s=CELL_WITHIN_S)).sealed is None:
                await self.scene.resolve(state, lambda tool: self.world.requests[tool, run] > 0)
                answered = state.n
        return state

    def check(self, state: Run) -> None:
        """The promises: the run is complete, nothing in it was void, and every effect happened once."""
        assert state.sealed is not None
        assert state.sealed.status == "completed", described(state)
        assert not [entry for entry in state.entries if entry.ignored], described(state)
        assert set(EVENTS) <= set(names(state)), described(state)
        assert self.world.effects("keyed", state.run) == 1, described(state)
        assert self.world.requests["bare", state.run] == 1, described(state)


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Stage]:
    """A broker, a scripted model, the tools' server, and one process a role."""
    assert anyio_backend == "asyncio"
    directory = tmp_path_factory.mktemp("matrix")
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World())
        model = await stack.enter_async_context(PlaybookServer(parse_playbook(BOOK)))
        broker = await stack.enter_async_context(Broker(directory))
        scene = await stack.enter_async_context(operating(broker.credential("operator")))
        await scene.deploy(agent(model.url))
        setup = Setup(directory=str(directory), world=world.url, processes={role: (role,) for role in ACTORS})
        processes = await stack.enter_async_context(running(setup))
        yield Stage(directory, scene, world, processes, broker)


async def test_an_undisturbed_run_has_the_events_of_the_matrix(stage: Stage) -> None:
    """The matrix covers every event of the script, so a change of the script must change it."""
    await stage.scene.task("undisturbed")
    state = await stage.sealed("undisturbed")
    stage.check(state)
    assert sorted(names(state)) == sorted(EVENTS)


@pytest.mark.parametrize("victim", ACTORS)
async def test_a_role_killed_at_any_event_leaves_every_run_to_end_once(stage: Stage, victim: RoleName) -> None:
    """Each run ends complete although the role's process was killed at one of its events."""
    for role, event, count in EVENTS:
        if role == victim:
            await _own_event_cell(stage, Trigger(when="before", role=role, event=event, count=count, victim=victim))
            await _own_event_cell(stage, Trigger(when="after", role=role, event=event, count=count, victim=victim))
        else:
            await _others_event_cell(stage, victim, role, event, count)


async def _fired(directory: Path, run: str) -> int:
    """The id of the process that was killed (or frozen) for this run; its mark may come after the last event."""
    mark = directory / "fired" / run

    async def there() -> bool:
        return mark.exists()

    await until(there)
    return int(mark.read_text())


async def _own_event_cell(stage: Stage, trigger: Trigger) -> None:
    """The victim kills itself right before or after its own event is acknowledged."""
    run = trigger.run(next(stage.numbers))
    await stage.processes.all_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.check(state)
    await stage.processes.killed(await _fired(stage.directory, run))
    await stage.scene.outcome(run)


async def _others_event_cell(stage: Stage, victim: str, role: str, event: str, count: int) -> None:
    """The victim is killed when another role's event is heard of."""
    run = f"o{next(stage.numbers)}-{role}-{event}-{count}-{victim}"
    pids: list[int] = []

    def heard(who: str, what: str, which: int) -> None:
        if (who, what, which) == (role, event, count):
            pids.append(stage.processes.kill(victim))

    stage.scene.watch(run, heard)
    await stage.processes.all_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.check(state)
    assert len(pids) == 1
    await stage.processes.killed(pids[0])
    await stage.scene.outcome(run)


@pytest.mark.parametrize("tool", ["keyed", "bare"])
async def test_an_executor_killed_with_its_request_on_the_wire_does_the_effect_once(stage: Stage, tool: str) -> None:
    """A keyed effect is repeated under its key; one without is asked about and not repeated."""
    run = f"wire-{tool}"
    pids: list[int] = []

    async def kill(what: str, of: str) -> None:
        if (what, of) == (tool, run) and not pids:
            pids.append(stage.processes.kill("executor"))
            await stage.processes.killed(pids[0])

    stage.world.hold = kill
    await stage.processes.all_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.world.hold = None
    stage.check(state)
    assert len(pids) == 1
    assert list(stage.world.keys[tool, run].values()) == [2 if tool == "keyed" else 1]
    assert tool == "keyed" or ("approver", "resolved", 1) in names(state)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_broker_killed_at_any_event_loses_nothing(stage: Stage, when: Literal["before", "after"]) -> None:
    """Each run ends complete although the broker was killed while or right after it stored one of its events."""
    for role, event, count in EVENTS:
        trigger = Trigger(when=when, role=role, event=event, count=count, victim="broker")
        run = trigger.run(next(stage.numbers))
        killed = stage.broker.kills
        await stage.processes.all_ready()
        await stage.scene.task(run)
        state = await stage.sealed(run)
        stage.check(state)
        # The seal may be read before the process that stored it has fired.
        assert await _fired(stage.directory, run)
        await stage.broker.killed(killed + 1)
        await stage.scene.outcome(run)


@pytest.fixture
async def pair(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Stage]:
    """As ``stage``, with two executors and two planners."""
    assert anyio_backend == "asyncio"
    kinds: dict[str, tuple[RoleName, ...]] = {role: (role,) for role in ACTORS}
    kinds |= {"executor-2": ("executor",), "planner-2": ("planner",)}
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(World())
        model = await stack.enter_async_context(PlaybookServer(parse_playbook(BOOK)))
        broker = await stack.enter_async_context(Broker(tmp_path))
        scene = await stack.enter_async_context(operating(broker.credential("operator")))
        await scene.deploy(agent(model.url))
        processes = await stack.enter_async_context(
            running(Setup(directory=str(tmp_path), world=world.url, processes=kinds, sweep_every_s=1.0))
        )
        yield Stage(tmp_path, scene, world, processes, broker)


async def test_an_executor_frozen_past_its_time_adds_its_results_as_facts(pair: Stage) -> None:
    """Another executor repeats what has a key and asks about what has none; the late results settle the rest."""
    run = Trigger(when="freeze", role="executor", event="finished", count=2, victim="executor").run(1)

    def taken_over(state: Run) -> bool:
        calls = {call.tool: call for call in state.calls.values()}
        return "keyed" in calls and calls["keyed"].answer_n > 0 and calls["bare"].asked_doubt

    await pair.scene.task(run)
    state = await pair.scene.until(run, taken_over)
    started = next(entry.event for entry in state.entries if isinstance(entry.event, EffectStarted) and entry.n > 10)
    assert state.at > started.calls[0].done_by
    os.kill(await _fired(pair.directory, run), signal.SIGCONT)

    def facts(state: Run) -> dict[str, list[tuple[int, str]]]:
        told: dict[str, list[tuple[int, str]]] = {"keyed": [], "bare": [], "look": []}
        for entry in state.entries:
            if isinstance(entry.event, Finished) and not entry.ignored:
                told[state.calls[entry.event.call].tool].append((entry.event.attempt, entry.event.outcome))
        return told

    state = await pair.scene.until(run, lambda s: s.sealed is not None and (1, "succeeded") in facts(s)["keyed"])
    assert state.sealed is not None
    assert state.sealed.status == "completed", described(state)
    assert facts(state)["keyed"] == [(2, "succeeded"), (1, "succeeded")]
    assert facts(state)["bare"] == [(1, "unknown"), (1, "succeeded")]
    assert pair.world.requests["bare", run] == 1
    assert list(pair.world.keys["keyed", run].values()) == [2]


async def test_a_planner_frozen_past_its_time_adds_its_answer_as_a_fact(pair: Stage) -> None:
    """Another planner asks the model again; the late answer is charged and changes nothing else."""
    run = Trigger(when="freeze", role="planner", event="proposed", count=2, victim="planner").run(2)
    await pair.scene.task(run)
    await pair.scene.until(run, lambda s: s.sealed is not None)
    os.kill(await _fired(pair.directory, run), signal.SIGCONT)
    state = await pair.scene.until(run, lambda s: s.amended is not None)
    assert state.sealed is not None
    assert state.sealed.status == "completed", described(state)
    late = [e for e in state.entries if isinstance(e.event, Proposed) and (e.event.turn, e.event.attempt) == (2, 1)]
    assert [entry.ignored for entry in late] == [""]
    assert late[0].n > state.sealed_n
    assert len(state.calls) == len(EVENTS_OF_CALLS)
    assert pair.world.requests["bare", run] == 1
    assert list(pair.world.keys["keyed", run].values()) == [1]
