"""A stop always succeeds, even in a run that never pauses: a model and a tool that return at once, in one process."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from bench.system.instant_process import InstantTool
from bench.system.project_folder import TEN_TURNS
from bench.system.running_system import TENANT, RunningSystem, running_system
from tests.e2e.scene import log_lines

from linestop import Client
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.interfaces import Append, HeadMoved
from linestop.bus.jetstream.log import JetStreamLog
from linestop.bus.stop_run import TRIES_BEFORE_HELP
from linestop.client.client import StopMode
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.events import EffectStarted, ModelStarted
from linestop.schemas.model_messages import ModelReply, ToolCall, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ACTORS

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

STOPS = 20
ACCOUNT_LIMITS = AccountLimits(user_day_micros=10**12, tenant_day_micros=10**12, system_hour_micros=10**12)
CONFLICTS_MAX = 3 * TRIES_BEFORE_HELP
"""How many appends of a stop may conflict, although help was requested: some tries pass before help arrives."""

EVENTS_FIRST = 20
"""How many events a run has when it is stopped: by then it moves without pause."""

_runs = itertools.count(1)


class EndlessModel:
    """Replies at once, always with one more call, so that only a stop (or a distant limit) ends the run."""

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Request the next call of ``look``."""
        call = ToolCall(id=f"c{work.turn}", name="look", args=json.dumps({"q": f"{work.turn}"}))
        usage = Usage(fresh_in=1, out=1)
        return ModelReply(
            text="", calls=(call,), stop_reason="calls", usage=usage, usage_reported=True, model="stub"
        ), 0.0


@asynccontextmanager
async def busy() -> AsyncGenerator[RunningSystem]:
    """A server and one process with all roles, whose model and tool return at once."""
    async with running_system([TEN_TURNS], None) as here:
        backend = await JetStreamBackend.open({role: here.broker.credential(role) for role in ACTORS}, name="busy")
        roles = [make_role(role, requester=EndlessModel(), runner=InstantTool()) for role in ACTORS]
        config = ProcessSettings(
            worker="busy#1", account_limits=ACCOUNT_LIMITS, random_source=random.Random(1), drain_s=0.2
        )
        async with ActorProcess(backend, roles, config).running():
            yield here
        await backend.aclose()


async def under_way(client: Client) -> str:
    """Begin a run and return when it moves without pause."""
    run = f"busy-{next(_runs)}"
    await client.submit(TEN_TURNS.name, "go", run=run, tenant=TENANT)
    async for entry in client.events(run, follow=True, tenant=TENANT):
        if entry.n >= EVENTS_FIRST:
            return run
    raise AssertionError("the run ended by itself")


def assert_fenced(state: Run) -> None:
    """Nothing was started after the one stop that counts."""
    stop_n = next(entry.n for entry in state.entries if entry.name == "stopped" and not entry.ignored)
    starts_after_stop = [e for e in state.entries if e.n > stop_n and isinstance(e.event, ModelStarted | EffectStarted)]
    assert not starts_after_stop, log_lines(state)


@pytest.fixture
def conflicts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs in which an append of the operator conflicted, one entry for each conflict."""
    conflicting_runs: list[str] = []
    real = JetStreamLog.append

    async def append(log: JetStreamLog, append: Append, **options: Any) -> int:
        try:
            return await real(log, append, **options)
        except HeadMoved:
            if append.role == "operator":
                conflicting_runs.append(append.run)
            raise

    monkeypatch.setattr(JetStreamLog, "append", append)
    return conflicting_runs


@pytest.mark.parametrize("mode", ["fence", "drain"])
async def test_every_direct_stop_succeeds_in_a_run_without_pauses(mode: StopMode, conflicts: list[str]) -> None:
    """The head has moved whenever the operator's append arrives, so the process that drives the run helps."""
    async with busy() as here, Client.connect(here.directory, as_="operator") as operator:
        for _ in range(STOPS):
            conflicts.clear()
            run = await under_way(operator)
            with anyio.fail_after(5):
                receipt = await operator.stop(run, why="enough", by="ann", mode=mode, tenant=TENANT)
            assert (receipt.by, receipt.why, receipt.already) == ("ann", "enough", False)
            assert (await operator.outcome(run, timeout_s=10, tenant=TENANT)).status == "stopped"
            state = await operator.run(run, tenant=TENANT)
            assert state.entries[receipt.n - 1].name == "stopped"
            assert_fenced(state)
            assert len(conflicts) <= CONFLICTS_MAX, f"the stop was tried {len(conflicts)} times: no role helped"
