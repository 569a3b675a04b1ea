"""The script during which processes are killed, and the conditions that must hold at its end."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from tests.bus_fixtures import until
from tests.e2e.processes import Broker, Processes, ToolServer, running
from tests.e2e.role_process import Setup
from tests.e2e.scene import PLAYBOOK, OperatorView, agent, event_names, log_lines, operator_view

from linestop.models.playbook import PlaybookServer
from linestop.models.playbook.script import parse_playbook
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ACTORS, RoleName

EVENTS = (
    ("validator", "opened", 1),
    ("budget", "held", 1),
    ("planner", "started", 1),
    ("planner", "proposed", 1),
    ("validator", "judged", 1),
    ("executor", "started", 1),
    ("executor", "finished", 1),
    ("planner", "started", 2),
    ("planner", "proposed", 2),
    ("validator", "judged", 2),
    ("approver", "cleared", 1),
    ("executor", "started", 2),
    ("executor", "finished", 2),
    ("executor", "finished", 3),
    ("planner", "started", 3),
    ("planner", "proposed", 3),
    ("validator", "accepted", 1),
    ("budget", "settled", 1),
    ("recorder", "sealed", 1),
)
"""The events of an undisturbed run, in order: (role, event, which of that name)."""

CELL_WITHIN_S = 30.0
ONE_EACH: Mapping[str, tuple[RoleName, ...]] = {role: (role,) for role in ACTORS}


class E2eSystem:
    """The objects that a cell needs, shared by all cells of a module."""

    def __init__(
        self,
        directory: Path,
        scene: OperatorView,
        world: ToolServer,
        *,
        processes: Processes,
        broker: Broker,
        model_url: str,
    ) -> None:
        self.directory = directory
        self.scene = scene
        self.world = world
        self.processes = processes
        self.broker = broker
        self.model_url = model_url
        self.numbers = itertools.count(1)

    async def sealed(self, run: str) -> Run:
        """Wait until the run is sealed; the test, as a person, resolves unknown outcomes."""

        def sealed_or_asked(state: Run) -> bool:
            asked = state.proposal is not None and any(call.asked_about_outcome for call in state.proposal.calls)
            return state.sealed is not None or (asked and state.n > resolved_n)

        resolved_n = 0
        with anyio.fail_after(CELL_WITHIN_S):
            while (state := await self.scene.until(run, sealed_or_asked, within_s=CELL_WITHIN_S)).sealed is None:
                await self.scene.resolve(state, lambda tool: self.world.requests[tool, run] > 0)
                resolved_n = state.n
        return state

    def check(self, state: Run) -> None:
        """The run is complete, no event of it is void, and every effect happened once."""
        assert state.sealed is not None
        assert state.sealed.status == "completed", log_lines(state)
        assert not [entry for entry in state.entries if entry.ignored], log_lines(state)
        assert set(EVENTS) <= set(event_names(state)), log_lines(state)
        assert self.world.effects("keyed", state.run) == 1, log_lines(state)
        assert self.world.requests["bare", state.run] == 1, log_lines(state)

    async def wait_until_fired(self, run: str) -> int:
        """The id of the process that was killed (or frozen) for this run; its mark may appear after the last event."""
        mark = self.directory / "fired" / run

        async def exists() -> bool:
            return mark.exists()

        await until(exists)
        return int(mark.read_text())


@asynccontextmanager
async def start_system(
    directory: Path,
    processes: Mapping[str, tuple[RoleName, ...]] = ONE_EACH,
    **more: Any,
) -> AsyncGenerator[E2eSystem]:
    """A broker, a scripted model, the tools' server, and these processes."""
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(ToolServer())
        model = await stack.enter_async_context(PlaybookServer(parse_playbook(PLAYBOOK)))
        broker = await stack.enter_async_context(Broker(directory))
        scene = await stack.enter_async_context(operator_view(broker.credential("operator")))
        await scene.deploy(agent(model.url))
        setup = Setup(directory=str(directory), world=world.url, processes=dict(processes), **more)
        started = await stack.enter_async_context(running(setup))
        yield E2eSystem(directory, scene, world, processes=started, broker=broker, model_url=model.url)
