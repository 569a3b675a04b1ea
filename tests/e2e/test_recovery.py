"""Recovery after a crash: by the sweep alone, at once, and under a worker name that only one process has."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from msgspec import structs
from tests.e2e.processes import Broker, Processes, ToolServer, running
from tests.e2e.role_process import Setup, registry
from tests.e2e.scene import PLAYBOOK, OperatorView, agent, log_lines, operator_view
from tests.e2e.triggers import Trigger

from linestop.errors import ConfigError
from linestop.models.playbook import PlaybookServer
from linestop.models.playbook.script import parse_playbook
from linestop.runtime.workers.worker_names import lock_name
from linestop.schemas.defaults import Limits
from linestop.schemas.events import EffectStarted, ModelStarted
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ACTORS, RoleName

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

EVENTS = (
    ("validator", "opened", 1),
    ("budget", "held", 1),
    ("planner", "started", 1),
    ("planner", "proposed", 1),
    ("validator", "judged", 1),
    ("executor", "started", 1),
    ("executor", "finished", 1),
    ("approver", "cleared", 1),
    ("planner", "started", 3),
    ("validator", "accepted", 1),
    ("budget", "settled", 1),
)
"""The events at which a process of all roles is killed; without the bare effect, which would wait for a person."""

LONG = Limits(model_deadline_s=30.0)
"""A deadline so far away that a quick recovery cannot have waited for it."""


class System:
    """The objects that a test of this module uses."""

    def __init__(
        self, directory: Path, broker: Broker, scene: OperatorView, world: ToolServer, processes: Processes
    ) -> None:
        self.directory = directory
        self.broker = broker
        self.scene = scene
        self.world = world
        self.processes = processes

    def check(self, state: Run) -> None:
        """The run is complete and each effect happened once."""
        assert state.sealed is not None
        assert state.sealed.status == "completed", log_lines(state)
        assert self.world.effects("keyed", state.run) == 1
        assert self.world.requests["bare", state.run] == 1

    async def sealed(self, run: str) -> Run:
        """The run when it is sealed."""
        return await self.scene.until(run, lambda state: state.sealed is not None)


@asynccontextmanager
async def system(
    directory: Path,
    names: Mapping[str, Literal["all", "sweep", "sweep_only"]],
    *,
    limits: Limits | None = None,
    timeout_s: float = 0.0,
) -> AsyncGenerator[System]:
    """Processes of all roles, each woken as ``names`` says; ``timeout_s`` is the timeout of the tools."""
    all_roles: tuple[RoleName, ...] = ACTORS
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(ToolServer())
        model = await stack.enter_async_context(PlaybookServer(parse_playbook(PLAYBOOK)))
        broker = await stack.enter_async_context(Broker(directory))
        scene = await stack.enter_async_context(operator_view(broker.credential("operator")))
        tools = [structs.replace(tool, timeout_s=timeout_s or tool.timeout_s) for tool in registry().contracts()]
        await scene.deploy(agent(model.url, limits=limits, tools=tools))
        setup = Setup(
            directory=str(directory),
            world=world.url,
            processes=dict.fromkeys(names, all_roles),
            paths=dict(names),
            sweep_every_s=0.3,
        )
        processes = await stack.enter_async_context(running(setup))
        yield System(directory, broker, scene, world, processes)


async def test_the_sweep_at_the_start_recovers_a_run_killed_at_any_event(tmp_path: Path) -> None:
    """With no live stops, no wakes of roles and no alarms, the sweep of the next process is enough."""
    async with system(tmp_path, {"all": "sweep"}) as running_system:
        for number, (role, event, count) in enumerate(EVENTS):
            run = Trigger(when="after", role=role, event=event, count=count, victim=role).run(number)
            await running_system.processes.wait_until_ready()
            await running_system.scene.task(run)
            running_system.check(await running_system.sealed(run))
            await running_system.processes.wait_until_killed(int((tmp_path / "fired" / run).read_text()))


async def test_the_sweep_of_another_process_finishes_the_work_of_a_dead_one(tmp_path: Path) -> None:
    """A process that has only its sweep takes the run over after the dead one's deadline, and ends it."""
    async with system(tmp_path, {"intake": "sweep", "sweeper": "sweep_only"}) as running_system:
        stopping: list[asyncio.Task[None]] = []

        def on_event(role: str, event: str, count: int) -> None:
            if (role, event, count) == ("planner", "started", 2):
                stopping.append(asyncio.create_task(running_system.processes.stop("intake")))

        running_system.scene.watch("orphan", on_event)
        await running_system.scene.task("orphan")
        state = await running_system.sealed("orphan")
        await stopping[0]
        running_system.check(state)
        workers = [e.event.worker.partition("#")[0] for e in state.entries if isinstance(e.event, ModelStarted)]
        assert workers[0] in {"intake", "sweeper"}
        assert workers[-1] == "sweeper"


async def test_work_continues_after_a_kill_without_waiting_for_the_deadline(tmp_path: Path) -> None:
    """The next incarnation of the same name takes an open model request over long before its ``done_by``."""
    async with system(tmp_path, {"all": "all"}, limits=LONG) as running_system:
        run = Trigger(when="after", role="planner", event="started", count=2, victim="planner").run(1)
        await running_system.scene.task(run)
        state = await running_system.sealed(run)
        running_system.check(state)
        # On a busy machine a request that was not begun in time is started again, so the attempts are not counted here.
        starts = [e.event for e in state.entries if isinstance(e.event, ModelStarted)]
        place = next(i for i, start in enumerate(starts) if start.worker == "all#2")
        killed, takeover = starts[place - 1], starts[place]
        assert killed.worker == "all#1"
        assert (takeover.turn, takeover.attempt) == (killed.turn, killed.attempt + 1)
        assert takeover.at < killed.done_by


async def test_work_of_a_dead_process_is_taken_over_long_before_its_deadline(tmp_path: Path) -> None:
    """No process gets its name; another concludes from missing heartbeats that it is dead, and records that."""
    async with system(tmp_path, {"one": "all", "two": "all"}, timeout_s=300.0) as running_system:
        killed: list[str] = []

        async def kill(tool: str, run: str) -> None:
            if tool != "keyed" or killed:
                return
            killed.append("")
            # A call without a key is never repeated, so it must have ended.
            state = await running_system.scene.until(run, lambda state: _has_ended(state, "bare"))
            killed[0] = state.open_attempts[0].worker
            await running_system.processes.stop(killed[0].partition("#")[0])

        running_system.world.before_reply = kill
        await running_system.scene.task("left")
        state = await running_system.sealed("left")
        running_system.check(state)
        starts = [e.event for e in state.entries if isinstance(e.event, EffectStarted)]
        abandoned = next(start for start in starts if start.worker == killed[0] and len(start.calls) == 2)
        takeover = next(start for start in starts if start.dead_workers)
        assert takeover.dead_workers == (abandoned.worker,)
        assert takeover.worker != abandoned.worker
        assert takeover.at < min(line.done_by for line in abandoned.calls)


def _has_ended(state: Run, tool: str) -> bool:
    calls = [call for call in state.calls.values() if call.tool == tool]
    return bool(calls) and all(call.stage is Stage.ENDED for call in calls)


async def test_a_broker_that_restarts_during_a_tool_call_loses_neither_result_nor_run(tmp_path: Path) -> None:
    """The result is appended when the broker is back, and the effect is not repeated."""
    async with system(tmp_path, {"all": "all"}) as running_system:
        killed = running_system.broker.kills

        async def restart(tool: str, run: str) -> None:
            if tool == "keyed" and running_system.world.requests[tool, run] == 1:
                os.kill(running_system.broker.pid, signal.SIGKILL)
                await running_system.broker.wait_until_restarted(killed + 1)

        running_system.world.before_reply = restart
        await running_system.scene.task("interrupted")
        state = await running_system.sealed("interrupted")
        running_system.check(state)
        assert running_system.broker.kills == killed + 1
        assert running_system.world.requests["keyed", "interrupted"] == 1


async def test_a_worker_name_belongs_to_one_process_until_it_dies(tmp_path: Path) -> None:
    """No other process can lock it; a process that gets it after a kill is a new incarnation."""
    async with system(tmp_path, {"all": "all"}) as running_system:
        processes = running_system.processes
        with pytest.raises(ConfigError, match="held by process"), lock_name(tmp_path, "all"):
            pytest.fail("two processes have one name")
        assert processes.workers["all"] == "all#1"
        await processes.wait_until_killed(processes.kill("all"))
        await processes.wait_until_ready()
        assert processes.workers["all"] == "all#2"
        await processes.stop("all")
        with lock_name(tmp_path, "all") as lock:
            assert lock.name == "all"
