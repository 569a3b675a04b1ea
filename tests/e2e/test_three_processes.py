"""The recommended separation: planner, executor and the four other roles in three processes, each killed in a run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest
from tests.e2e.matrix import E2eSystem, start_system
from tests.e2e.scene import agent, log_lines
from tests.e2e.triggers import Trigger

from linestop.schemas.events import Policy
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RoleName

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

THREE: Final[dict[str, tuple[RoleName, ...]]] = {
    "planner": ("planner",),
    "executor": ("executor",),
    "gates": ("validator", "approver", "budget", "recorder"),
}
KILLS: Final = (
    ("planner", "planner", "started", 1),
    ("planner", "planner", "proposed", 2),
    ("planner", "planner", "started", 3),
    ("executor", "executor", "started", 1),
    ("executor", "executor", "finished", 1),
    ("executor", "executor", "finished", 3),
    ("gates", "validator", "judged", 1),
    ("gates", "approver", "asked", 1),
    ("gates", "approver", "granted", 1),
    ("gates", "budget", "held", 1),
    ("gates", "recorder", "sealed", 1),
)
"""The process that is killed, and the event of its role after which it is."""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[E2eSystem]:
    """Three processes, and an agent for whose effect with a key a person is asked."""
    assert anyio_backend == "asyncio"
    async with start_system(tmp_path_factory.mktemp("three"), THREE) as three:
        await three.scene.deploy(agent(three.model_url, policy=Policy(ask=("keyed",))))
        yield three


async def complete_after_approval(system: E2eSystem, run: str) -> Run:
    """Approve what the run asks a person; return the run when it is sealed and has done everything exactly once."""
    state = await system.scene.until(run, is_asked)
    (call,) = (name for name, call in state.calls.items() if call.stage is Stage.ASKED)
    await system.scene.control(run, "approve", call=call)
    state = await system.sealed(run)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert not [entry for entry in state.entries if entry.ignored], log_lines(state)
    assert system.world.effects("keyed", run) == system.world.requests["bare", run] == 1, log_lines(state)
    return state


def is_asked(state: Run) -> bool:
    """Whether the run waits for a person."""
    return any(call.stage is Stage.ASKED for call in state.calls.values())


@pytest.mark.parametrize(("process", "role", "event", "count"), KILLS)
async def test_a_run_completes_although_one_of_the_three_is_killed(
    system: E2eSystem, process: str, role: str, event: str, count: int
) -> None:
    """Whichever it is and wherever the run stands: its next incarnation and the two others go on."""
    run = Trigger(when="after", role=role, event=event, count=count, victim=role).run(next(system.numbers))
    await system.processes.wait_until_ready()
    before = system.processes.workers[process]
    await system.scene.task(run)
    await complete_after_approval(system, run)
    await system.processes.wait_until_killed(await system.wait_until_fired(run))
    await system.processes.wait_until_ready()
    assert int(system.processes.workers[process].partition("#")[2]) == int(before.partition("#")[2]) + 1


async def test_a_run_that_waits_for_a_person_outlives_all_three(system: E2eSystem) -> None:
    """Nothing of the question is in a process, and no process needs another to be there when it starts."""
    await system.scene.task("all-three")
    await system.scene.until("all-three", is_asked)
    for process in THREE:
        await system.processes.wait_until_killed(system.processes.kill(process))
    await system.processes.wait_until_ready()
    await complete_after_approval(system, "all-three")
