"""P2 and P3: a role's process is killed around its own delivery, and every run still ends by itself, once.

A cell is one delivery of the script (the event, the task, a control message or a fired timer that makes a role advance
a run) and one moment: it was taken but not handled; it was handled but not acknowledged; it was acknowledged.
A delivery without an acknowledgement is repeated; after it there is no other, so the log must contain everything.
An event that wakes a role has no acknowledgement and is never repeated: the role's next process finds the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, get_args

import pytest
from tests.e2e.matrix import EVENTS, E2eSystem, start_system
from tests.e2e.scene import agent, event_names, log_lines
from tests.e2e.triggers import ANY_RECEIVER, Trigger

from linestop.schemas.defaults import Limits
from linestop.schemas.events import Policy
from linestop.schemas.run.call_states import Stage as CallStage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.next_role import NEXT_ROLES
from linestop.schemas.subjects import ACTORS, RoleName

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

Around = Literal["taken", "unacked", "acked"]
AROUND: tuple[Around, ...] = get_args(Around)

DELIVERIES = (
    ("client", "task", 1, "validator"),
    ("recorder", "sealed", 1, "recorder"),
    *((*event, victim) for event in EVENTS for victim in NEXT_ROLES.get(f"{event[0]}.{event[1]}", ())),
)
"""The deliveries to a role's own process in the script: (role of the event, event, count of that event, receiver)."""

ASKING = Policy(ask=("keyed",))
LONG_EXPIRY_LIMITS = Limits(model_deadline_s=1.0)
SHORT_EXPIRY_LIMITS = Limits(model_deadline_s=1.0, approval_expires_s=2)
NEAR_S = 1.0
"""Later deadlines are durable timers here, so that an approval's expiry is one."""


@pytest.fixture(scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[E2eSystem]:
    """One process a role; besides the scripted agent, two whose keyed effect needs a person."""
    assert anyio_backend == "asyncio"
    async with start_system(tmp_path_factory.mktemp("deliveries"), timer_near_s=NEAR_S) as stage:
        await stage.scene.deploy(agent(stage.model_url, name="patient", limits=LONG_EXPIRY_LIMITS, policy=ASKING))
        await stage.scene.deploy(agent(stage.model_url, name="hasty", limits=SHORT_EXPIRY_LIMITS, policy=ASKING))
        yield stage


def test_every_role_has_a_delivery_in_the_script() -> None:
    """A role without a cell would not be tested."""
    assert {victim for *_, victim in DELIVERIES} == set(ACTORS)


@pytest.mark.parametrize("victim", ACTORS)
async def test_a_role_killed_around_any_delivery_leaves_every_run_to_end_once(
    stage: E2eSystem, victim: RoleName
) -> None:
    """Each run ends complete although the role's process died when a delivery was taken, handled or acknowledged."""
    for role, event, count, whose in DELIVERIES:
        is_acknowledged = (role, event) in {("client", "task"), ("recorder", "sealed")}
        for when in () if whose != victim else AROUND if is_acknowledged else AROUND[:1]:
            trigger = Trigger(when=when, role=role, event=event, count=count, victim=victim)
            run = trigger.run(next(stage.numbers))
            await stage.processes.wait_until_ready()
            await stage.scene.task(run)
            state = await stage.sealed(run)
            stage.check(state)
            await killed(stage, run)


async def killed(stage: E2eSystem, run: str) -> None:
    """Wait until the trigger has killed one process and the outcome is published."""
    await stage.processes.wait_until_killed(await stage.wait_until_fired(run))
    await stage.scene.outcome(run)


async def asked(stage: E2eSystem, run: str, *, name: str = "patient") -> Run:
    """The run when it waits for a person."""
    await stage.processes.wait_until_ready()
    await stage.scene.task(run, name=name)
    return await stage.scene.until(run, lambda state: CallStage.ASKED in state.stages())


@pytest.mark.parametrize("when", AROUND)
async def test_an_approval_counts_although_the_approver_dies_handling_it(stage: E2eSystem, when: Around) -> None:
    """The person approves once, and the approved call is performed once."""
    run = Trigger(when=when, role="person", event="approve", victim="approver").run(next(stage.numbers))
    state = await asked(stage, run)
    call = next(call for call in state.calls.values() if call.tool == "keyed")
    assert call.grant is not None
    await stage.scene.control(
        run, "approve", call=call.call, args_sha256=call.args_sha256, contract_digest=call.grant.contract_digest
    )
    state = await stage.sealed(run)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert [name for name in event_names(state) if name[1] in {"granted", "denied"}] == [("approver", "granted", 1)]
    assert stage.world.effects("keyed", run) == stage.world.requests["bare", run] == 1
    await killed(stage, run)


@pytest.mark.parametrize("when", AROUND)
async def test_a_stop_counts_although_its_receiver_dies_handling_it(stage: E2eSystem, when: Around) -> None:
    """The control message was stored, so the run is stopped once, and no further call is performed."""
    run = Trigger(when=when, role="person", event="stop", victim=ANY_RECEIVER).run(next(stage.numbers))
    await asked(stage, run)
    await stage.scene.control(run, "stop", why="enough")
    state = await stage.sealed(run)
    assert state.sealed is not None
    assert state.sealed.status == "stopped", log_lines(state)
    assert [e.name for e in state.entries if not e.ignored].count("stopped") == 1
    assert stage.world.requests["keyed", run] == 0
    await killed(stage, run)


@pytest.mark.parametrize("when", AROUND)
async def test_an_approval_expires_although_the_receiver_of_its_timer_dies(stage: E2eSystem, when: Around) -> None:
    """No person decides; the timer, the sweep of the next process or both end the question, and the call is denied."""
    run = Trigger(when=when, role="timer", event="fired", victim=ANY_RECEIVER).run(next(stage.numbers))
    await asked(stage, run, name="hasty")
    state = await stage.sealed(run)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert [name for name in event_names(state) if name[1] in {"granted", "denied"}] == [("approver", "denied", 1)]
    assert stage.world.requests["keyed", run] == 0
    assert stage.world.requests["bare", run] == 1
    await killed(stage, run)
