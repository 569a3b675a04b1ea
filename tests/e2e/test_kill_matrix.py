"""P2 and P3 on the real processes: a process is killed at any event, and every run still ends by itself, once.

A cell of the matrix is one run of the script, one victim and one moment: a role's process right before or right
after (before it continues) its own event is acknowledged, or when another role's event is stored; the broker
during and right after the append of an event; the executor while its request is at the tool's server.
(``test_kill_deliveries``: a role's process around its own delivery; ``test_freezes``: processes that are frozen.)
The test plays a person, who tells the truth, only for effects of unknown outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from tests.e2e.matrix import EVENTS, E2eSystem, start_system
from tests.e2e.scene import event_names
from tests.e2e.triggers import Trigger

from linestop.schemas.subjects import ACTORS, RoleName

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[E2eSystem]:
    """A broker, a scripted model, the tools' server, and one process a role."""
    assert anyio_backend == "asyncio"
    async with start_system(tmp_path_factory.mktemp("matrix")) as stage:
        yield stage


async def test_an_undisturbed_run_has_the_events_of_the_matrix(stage: E2eSystem) -> None:
    """The matrix covers every event of the script, so a change of the script must change it."""
    await stage.scene.task("undisturbed")
    state = await stage.sealed("undisturbed")
    stage.check(state)
    assert sorted(event_names(state)) == sorted(EVENTS)


@pytest.mark.parametrize("victim", ACTORS)
async def test_a_role_killed_at_any_event_leaves_every_run_to_end_once(stage: E2eSystem, victim: RoleName) -> None:
    """Each run ends complete although the role's process was killed at one of its events."""
    for role, event, count in EVENTS:
        if role == victim:
            await _killed_at_own_event(
                stage, Trigger(when="before", role=role, event=event, count=count, victim=victim)
            )
            await _killed_at_own_event(stage, Trigger(when="after", role=role, event=event, count=count, victim=victim))
        else:
            await _killed_at_event_of_another(stage, victim, role, event, count)


async def _killed_at_own_event(stage: E2eSystem, trigger: Trigger) -> None:
    """The victim kills itself right before or after its own event is acknowledged."""
    run = trigger.run(next(stage.numbers))
    await stage.processes.wait_until_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.check(state)
    await stage.processes.wait_until_killed(await stage.wait_until_fired(run))
    await stage.scene.outcome(run)


async def _killed_at_event_of_another(stage: E2eSystem, victim: str, role: str, event: str, count: int) -> None:
    """The victim is killed when another role's event is received."""
    run = f"o{next(stage.numbers)}-{role}-{event}-{count}-{victim}"
    pids: list[int] = []

    def on_event(event_role: str, event_name: str, event_count: int) -> None:
        if (event_role, event_name, event_count) == (role, event, count):
            pids.append(stage.processes.kill(victim))

    stage.scene.watch(run, on_event)
    await stage.processes.wait_until_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.check(state)
    assert len(pids) == 1
    await stage.processes.wait_until_killed(pids[0])
    await stage.scene.outcome(run)


@pytest.mark.parametrize("tool", ["keyed", "bare"])
async def test_an_executor_killed_with_its_request_on_the_way_causes_the_effect_once(
    stage: E2eSystem, tool: str
) -> None:
    """A keyed effect is repeated under its key; a person is asked about one without a key, which is not repeated."""
    run = f"wire-{tool}"
    pids: list[int] = []

    async def kill(called_tool: str, calling_run: str) -> None:
        if (called_tool, calling_run) == (tool, run) and not pids:
            pids.append(stage.processes.kill("executor"))
            await stage.processes.wait_until_killed(pids[0])

    stage.world.before_reply = kill
    await stage.processes.wait_until_ready()
    await stage.scene.task(run)
    state = await stage.sealed(run)
    stage.world.before_reply = None
    stage.check(state)
    assert len(pids) == 1
    assert list(stage.world.keys[tool, run].values()) == [2 if tool == "keyed" else 1]
    assert tool == "keyed" or ("approver", "resolved", 1) in event_names(state)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_broker_killed_at_any_event_loses_nothing(stage: E2eSystem, when: Literal["before", "after"]) -> None:
    """Each run ends complete although the broker was killed during or right after the append of one of its events."""
    for role, event, count in EVENTS:
        trigger = Trigger(when=when, role=role, event=event, count=count, victim="broker")
        run = trigger.run(next(stage.numbers))
        killed = stage.broker.kills
        await stage.processes.wait_until_ready()
        await stage.scene.task(run)
        state = await stage.sealed(run)
        stage.check(state)
        # The seal may be read before the process that stored it has fired.
        assert await stage.wait_until_fired(run)
        await stage.broker.wait_until_restarted(killed + 1)
        await stage.scene.outcome(run)
