"""Processes that are frozen (SIGSTOP) past their deadline and resumed: everything they still do is late.

Other processes have taken over meanwhile, so a request of a resumed process would be a second effect, and its results
count as late results at most. The test plays a person, who tells the truth, only for effects of unknown outcome.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Literal

import pytest
from tests.e2e.matrix import EVENTS, ONE_EACH, E2eSystem, start_system
from tests.e2e.scene import log_lines
from tests.e2e.triggers import Trigger

from linestop.schemas.events import EffectStarted, Finished, Proposed
from linestop.schemas.run.fold import Run

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

EVENTS_OF_CALLS = tuple(event for event in EVENTS if event[:2] == ("executor", "finished"))
ON_THE_WIRE = timedelta(seconds=0.5)
"""How long a request may be on its way to be counted; a late one here is sent a second after its ``start_by``."""


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[E2eSystem]:
    """One process a role, with two executors and two planners."""
    assert anyio_backend == "asyncio"
    processes = {**ONE_EACH, "executor-2": ONE_EACH["executor"], "planner-2": ONE_EACH["planner"]}
    async with start_system(tmp_path_factory.mktemp("freezes"), processes, sweep_every_s=1.0) as stage:
        yield stage


def outcomes(state: Run, tool: str) -> list[tuple[int, str]]:
    """The outcomes of a tool's attempts in the log, in order."""
    return [
        (entry.event.attempt, entry.event.outcome)
        for entry in state.entries
        if isinstance(entry.event, Finished) and not entry.ignored and state.calls[entry.event.call].tool == tool
    ]


def is_first_outcome_known(state: Run, tool: str) -> bool:
    """Whether the outcome of a tool's first attempt is in the log and not ``unknown``."""
    return any(attempt == 1 and outcome != "unknown" for attempt, outcome in outcomes(state, tool))


async def wait_for_takeover(pair: E2eSystem, run: str) -> Run:
    """The run when, with the first executor frozen, another repeated the keyed call and asked about the bare one."""

    def taken_over(state: Run) -> bool:
        calls = {call.tool: call for call in state.calls.values()}
        return "keyed" in calls and calls["keyed"].outcome_n > 0 and calls["bare"].asked_about_outcome

    state = await pair.scene.until(run, taken_over)
    started = next(entry.event for entry in state.entries if isinstance(entry.event, EffectStarted) and entry.n > 10)
    assert state.at > started.calls[0].done_by
    return state


def assert_no_request_after_start_by(pair: E2eSystem, state: Run) -> None:
    """The tools' server got no request of an attempt after its ``start_by``, and at most one without a key."""
    starts = [entry.event for entry in state.entries if isinstance(entry.event, EffectStarted)]
    start_by = {(state.calls[line.call].tool, line.attempt): line.start_by for start in starts for line in start.calls}
    for tool in ("keyed", "bare"):
        for attempt, arrived in pair.world.arrivals[tool, state.run]:
            delay = arrived - start_by[tool, attempt]
            assert delay < ON_THE_WIRE, f"{tool} {attempt} arrived {delay} after its start_by\n{log_lines(state)}"
    assert pair.world.requests["bare", state.run] <= 1, log_lines(state)
    assert pair.world.effects("keyed", state.run) == 1, log_lines(state)


@pytest.mark.parametrize(("when", "event"), [("stall", "started"), ("sending", "keyed"), ("sending", "bare")])
async def test_an_executor_frozen_before_its_first_byte_sends_nothing_when_it_wakes(
    pair: E2eSystem, when: Literal["stall", "sending"], event: str
) -> None:
    """Its start is stored and nothing is sent; after ``done_by`` it may not send, as another executor may have."""
    count = 2 if when == "stall" else 1
    run = Trigger(when=when, role="executor", event=event, count=count, victim="executor").run(next(pair.numbers))
    await pair.scene.task(run)
    await wait_for_takeover(pair, run)
    os.kill(await pair.wait_until_fired(run), signal.SIGCONT)
    await pair.sealed(run)
    # The executor is done when it has appended the outcomes of its calls: any request of it would have arrived by
    # then. It does not know the outcome of an effect that it was about to send.
    known = ("keyed",) if when == "sending" else ("keyed", "bare")
    state = await pair.scene.until(run, lambda s: all(is_first_outcome_known(s, tool) for tool in known))
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert_no_request_after_start_by(pair, state)


async def test_an_executor_frozen_past_its_deadline_adds_late_results(pair: E2eSystem) -> None:
    """Another executor repeats the call with a key and asks about the one without; the late results settle the rest."""
    run = Trigger(when="freeze", role="executor", event="finished", count=2, victim="executor").run(next(pair.numbers))

    def taken_over(state: Run) -> bool:
        calls = {call.tool: call for call in state.calls.values()}
        return "keyed" in calls and calls["keyed"].outcome_n > 0 and calls["bare"].asked_about_outcome

    await pair.scene.task(run)
    state = await pair.scene.until(run, taken_over)
    started = next(entry.event for entry in state.entries if isinstance(entry.event, EffectStarted) and entry.n > 10)
    assert state.at > started.calls[0].done_by
    os.kill(await pair.wait_until_fired(run), signal.SIGCONT)

    state = await pair.scene.until(run, lambda s: s.sealed is not None and (1, "succeeded") in outcomes(s, "keyed"))
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert outcomes(state, "keyed") == [(2, "succeeded"), (1, "succeeded")]
    assert outcomes(state, "bare") == [(1, "unknown"), (1, "succeeded")]
    assert pair.world.requests["bare", run] == 1
    assert list(pair.world.keys["keyed", run].values()) == [2]


async def test_a_planner_frozen_past_its_deadline_adds_a_late_result(pair: E2eSystem) -> None:
    """Another planner sends the request again; the late reply is charged and changes nothing else."""
    run = Trigger(when="freeze", role="planner", event="proposed", count=2, victim="planner").run(next(pair.numbers))
    await pair.scene.task(run)
    await pair.scene.until(run, lambda s: s.sealed is not None)
    os.kill(await pair.wait_until_fired(run), signal.SIGCONT)
    state = await pair.scene.until(run, lambda s: s.amended is not None)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    late_results = [
        e for e in state.entries if isinstance(e.event, Proposed) and (e.event.turn, e.event.attempt) == (2, 1)
    ]
    assert [entry.ignored for entry in late_results] == [""]
    assert late_results[0].n > state.sealed_n
    assert len(state.calls) == len(EVENTS_OF_CALLS)
    assert pair.world.requests["bare", run] == 1
    assert list(pair.world.keys["keyed", run].values()) == [1]
