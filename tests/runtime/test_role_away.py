"""A role without a worker: the run waits for it, whatever the role has to do, and is not stopped as stuck."""

from __future__ import annotations

import anyio
import pytest
from tests.bus.test_deadlines_on_time import until_event, virtually
from tests.virtual_processes import EACH, HANGS, ScriptedModel, ScriptedTools, agent, calls, processes

from linestop.schemas.defaults import SWEEP_EVERY_S, SWEEP_TRIES_MAX
from linestop.schemas.subjects import RoleName

AWAY_S = 3 * SWEEP_EVERY_S * SWEEP_TRIES_MAX
"""Much longer than it takes to stop a run as stuck."""


@pytest.mark.parametrize(
    ("role", "killed_after"),
    [
        # The role had started something, whose deadline passes while it is away.
        ("executor", "executor.started"),
        ("planner", "planner.started"),
        # It has to start something.
        ("executor", "validator.judged"),
        ("planner", "budget.held"),
        ("validator", "planner.proposed"),
    ],
)
def test_a_run_waits_for_a_role_that_no_worker_has(role: RoleName, killed_after: str) -> None:
    """When the role is back, the run goes on to its end."""

    async def main() -> None:
        model = ScriptedModel([calls(("wire", {"q": "a"}))], [HANGS if killed_after == "planner.started" else 1.0])
        tools = ScriptedTools(takes_s={"wire": [HANGS]} if killed_after == "executor.started" else {})
        version = agent(limits={"wall_s": 100_000, "model_deadline_s": 8.0}, timeout_s={"wire": 8.0})
        async with processes(EACH, model, tools, version=version, sweeping=True) as line:
            await until_event(line, killed_after, 1)
            roles = await line.kill(role)
            await anyio.sleep(AWAY_S)
            assert (await line.run()).stopped is None
            await line.start(roles, f"{role}#2")
            await anyio.sleep(120)
            run = await line.run()
            assert run.sealed is not None, [(e.n, e.role, e.name) for e in run.entries]
            assert run.sealed.status == "completed", run.sealed.why

    virtually(main)
