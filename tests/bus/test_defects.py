"""A defect in one run ends that run, but neither the process nor the other runs."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NoReturn

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns, Tools

from linestop.actors.facts import Fact
from linestop.actors.role_facts import RoleFacts
from linestop.actors.role_protocol import AnyRole
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.stores.kill_switch_store import KillSwitchStore
from linestop.bus.streams import stream_names
from linestop.client.kill_switches import KillSwitchClient
from linestop.errors import TooLarge
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.ask_roles import Decider, Draft, Pass
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import REFRESH_FACTS_EVERY_S
from linestop.schemas.events import AnyEvent, Finished, Paused, Proposed, Stopped
from linestop.schemas.kill_switches import KEY, OLDER_KEY
from linestop.schemas.model_messages import ModelReply
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run import fold
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.state import FOLD_FAILURES_MAX
from linestop.schemas.subjects import ACTORS, RunId, TenantId
from linestop.schemas.tool_contracts import ToolResult
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.memory.log import MemoryLog
from linestop.testing.virtual_time import run_virtual, virtual_now

OTHER = RunId("r2")
NESTED = "[" * 5_000
FAILURES = 2
CHECKED = msgspec.structs.replace(
    AGENT, tools=tuple(msgspec.structs.replace(tool, checks=tool.name == "look") for tool in AGENT.tools)
)


def read(result: str) -> tuple[str, ...]:
    """A check that reads the result, however deep it is."""
    msgspec.json.decode(result)
    return ()


@asynccontextmanager
async def serving(broker: MemoryBroker, *, run: str = RUN, first: str = "look") -> AsyncGenerator[ActorProcess]:
    """One process with every role, whose model looks up ``a`` in each run, and a task for ``run``."""
    await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(CHECKED)
    outcomes = {"a": ToolResult(outcome="succeeded", value=NESTED)}
    turns: Mapping[str, Any] = {RUN: [[(first, "a")]], OTHER: [[("look", "b")]]}
    roles = [make_role(role, requester=ModelPerRun(turns), runner=Tools(outcomes)) for role in ACTORS]
    config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1), checks={"look": read})
    async with ActorProcess(InMemory(broker), roles, config).running() as host:
        await submit(broker, run)
        yield host


class ModelPerRun:
    """A scripted model for each run."""

    def __init__(self, turns: Mapping[str, Any]) -> None:
        self._models = {run: ScriptedTurns(each) for run, each in turns.items()}

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Answer with the script of this run."""
        return await self._models[work.run].request(work)


async def submit(broker: MemoryBroker, run: str) -> None:
    """Send a task."""
    await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "look a b", "run": run}))


async def log_of(broker: MemoryBroker, run: RunId) -> Run:
    """A run folded from its log."""
    found = await broker.log().load(TENANT, run)
    return fold_messages(TENANT, run, [(m.subject, m.payload, m.seq) for m in found])


def stops(run: Run) -> list[str]:
    """The codes of all stops of a run."""
    return [entry.event.code for entry in run.entries if isinstance(entry.event, Stopped)]


def dead_letters(broker: MemoryBroker) -> list[dict[str, Any]]:
    """All dead letters."""
    return [msgspec.json.decode(stored.payload) for stored in broker.stream(stream_names.DEAD).matching(">")]


def fold_failure_alerts(broker: MemoryBroker) -> list[int]:
    """The event number of each run that has an alert of kind ``lost``."""
    found = broker.stream(stream_names.ALERTS).matching(f"alerts.{TENANT}.lost")
    return [msgspec.json.decode(stored.payload)["n"] for stored in found]


def fails(*_args: object, **_more: object) -> NoReturn:
    """Break."""
    raise ZeroDivisionError("it broke")


def test_a_fact_that_cannot_be_gathered_stops_its_run_alone() -> None:
    """A result that no check can read stops its run as a defect, with one dead letter; the next run completes."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await anyio.sleep(5)
            await submit(broker, OTHER)
            await anyio.sleep(30)
            ended, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert stops(ended) == ["defect"]
        assert ended.sealed is not None
        assert ended.sealed.status == "failed"
        assert other.sealed is not None
        assert other.sealed.status == "completed"
        assert [(dead_letter["run"], dead_letter["role"]) for dead_letter in dead_letters(broker)] == [
            (RUN, "validator")
        ]
        assert "RecursionError" in dead_letters(broker)[0]["reason"]

    run_virtual(main, seed=1)


def test_a_cached_fact_that_fails_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached facts may fail as well as fetched ones."""
    inner = FactSource.facts_at_hand

    def at_hand(self: FactSource, run: Run, role: AnyRole, now: datetime, extra: tuple[Fact, ...]) -> RoleFacts | None:
        return fails() if role.name == "planner" and run.run == RUN else inner(self, run, role, now, extra)

    monkeypatch.setattr(FactSource, "facts_at_hand", at_hand)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await submit(broker, OTHER)
            await anyio.sleep(30)
            ended, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert stops(ended) == ["defect"]
        assert ended.sealed is not None
        assert other.sealed is not None
        assert len(dead_letters(broker)) == 1

    run_virtual(main, seed=1)


def test_a_task_whose_facts_fail_becomes_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no run to stop yet: the task is tried a few times, then stored as a dead letter."""
    inner = FactSource.gather

    async def gather(self: FactSource, run: Run, role: AnyRole, now: datetime, extra: tuple[Fact, ...]) -> RoleFacts:
        return fails() if run.run == RUN else await inner(self, run, role, now, extra)

    monkeypatch.setattr(FactSource, "gather", gather)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await submit(broker, OTHER)
            await anyio.sleep(60)
            nothing, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert nothing.n == 0
        assert other.sealed is not None
        assert ["ZeroDivisionError" in dead_letter["reason"] for dead_letter in dead_letters(broker)] == [True]

    run_virtual(main, seed=1)


@pytest.mark.parametrize("also_stop", [False, True])
def test_an_event_that_cannot_be_folded_stops_its_run(monkeypatch: pytest.MonkeyPatch, also_stop: bool) -> None:
    """It has its number but no effect, the run is stopped and sealed; a stop that fails to fold is not repeated."""
    inner = fold.apply_event

    def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:
        breaks = run.run == RUN and isinstance(event, (Proposed, Stopped) if also_stop else Proposed)
        return fails() if breaks else inner(run, role, n, event)

    monkeypatch.setattr(fold, "apply_event", apply)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await submit(broker, OTHER)
            await anyio.sleep(600)
            ended, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert stops(ended) == ["defect"] * (FOLD_FAILURES_MAX if also_stop else 1)
        assert "cannot be folded: ZeroDivisionError: it broke" in next(e.ignored for e in ended.entries if e.ignored)
        assert (ended.sealed is None) == also_stop
        assert other.sealed is not None
        assert fold_failure_alerts(broker) == ([ended.n] if also_stop else [])
        assert 1 <= len(dead_letters(broker)) <= (2 * FOLD_FAILURES_MAX + 2 if also_stop else 3)

    run_virtual(main, seed=1)


def test_a_late_result_that_cannot_be_folded_is_dropped_after_a_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that fails to fold each time it is appended is dropped after a few attempts."""
    inner = fold.apply_event

    def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:
        return fails() if isinstance(event, Finished) and run.run == RUN else inner(run, role, n, event)

    monkeypatch.setattr(fold, "apply_event", apply)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await anyio.sleep(600)
            ended = await log_of(broker, RUN)
        assert stops(ended) == ["defect"]
        assert sum(isinstance(entry.event, Finished) for entry in ended.entries) == 2 * FOLD_FAILURES_MAX + 1
        assert len(dead_letters(broker)) <= 4 * FOLD_FAILURES_MAX + 2
        assert fold_failure_alerts(broker) == [ended.n]

    run_virtual(main, seed=1)


def test_a_run_whose_fold_failed_too_often_raises_one_alert_and_a_readable_stop_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own stops fail to fold too, so there is an alert; a person's readable stop is settled and sealed."""
    inner = fold.apply_event

    def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:
        breaks = isinstance(event, Proposed) or (isinstance(event, Stopped) and event.code == "defect")
        return fails() if breaks else inner(run, role, n, event)

    monkeypatch.setattr(fold, "apply_event", apply)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await anyio.sleep(600)
            last = await log_of(broker, RUN)
            assert last.fold_failed_too_often
            assert not last.done
            assert [each.kind for each in last.fold_failures] == ["ZeroDivisionError"] * (FOLD_FAILURES_MAX + 1)
            assert {each.text for each in last.fold_failures} == {"it broke"}
            assert fold_failure_alerts(broker) == [last.n]
            [why] = [
                dead_letter["reason"] for dead_letter in dead_letters(broker) if "fold failed" in dead_letter["reason"]
            ]
            assert why.startswith(
                f"its fold failed too often: {FOLD_FAILURES_MAX + 1} of its events cannot be folded, the last one"
            )
            assert why.endswith("ZeroDivisionError: it broke")
            await broker.publish(f"control.{TENANT}.{RUN}.stop", b'{"by":"ann"}')
            await anyio.sleep(10)
            ended = await log_of(broker, RUN)
        assert stops(ended)[-1] != "defect"
        assert ended.sealed is not None

    run_virtual(main, seed=1)


def test_a_waiting_run_whose_fold_failed_too_often_raises_an_alert_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only at the deadline of the question, when the run is advanced next."""
    inner = fold.apply_event

    def apply(run: Run, role: str, n: int, event: AnyEvent) -> str:
        return fails() if isinstance(event, Paused | Stopped) else inner(run, role, n, event)

    monkeypatch.setattr(fold, "apply_event", apply)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker, first="pay"):
            await anyio.sleep(20)
            assert (await log_of(broker, RUN)).phase is Phase.WAITING
            await broker.publish(f"control.{TENANT}.{RUN}.pause", b'{"by":"ann"}')
            await anyio.sleep(20)
            assert fold_failure_alerts(broker) == [(await log_of(broker, RUN)).n]

    run_virtual(main, seed=1)


def test_a_dead_letter_that_cannot_be_stored_does_not_stop_other_runs() -> None:
    """The stream of dead letters is full: the run is stopped nevertheless, and others continue."""

    class Full(NoFaults):
        async def before(self, op: str) -> None:
            if op == "publisher.dead":
                raise TooLarge("The stream has no room.")

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=Full())
        async with serving(broker):
            await anyio.sleep(5)
            await submit(broker, OTHER)
            await anyio.sleep(30)
            ended, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert stops(ended) == ["defect"]
        assert other.sealed is not None

    run_virtual(main, seed=1)


def test_a_run_on_which_every_pass_fails_is_stopped_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, each pass counts as one without progress, and the sweep continues with other runs."""
    inner = Decider.next_draft

    async def following(self: Decider, run_pass: Pass, now: datetime) -> Draft | None:
        run = run_pass.entry.run
        return fails() if run.run == RUN and run.opened and not run.done else await inner(self, run_pass, now)

    monkeypatch.setattr(Decider, "next_draft", following)

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await submit(broker, OTHER)
            await anyio.sleep(300)
            ended, other = await log_of(broker, RUN), await log_of(broker, OTHER)
        assert stops(ended) == ["stuck"]
        assert ended.sealed is not None
        assert ended.sealed.why.endswith("to advance it; the last time failed with ZeroDivisionError: it broke.")
        assert other.sealed is not None

    run_virtual(main, seed=1)


def test_a_failed_sweep_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process survives a log whose open runs cannot be listed at first."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        inner, failed = MemoryLog.open_runs, [0]

        async def open_runs(self: MemoryLog) -> list[tuple[TenantId, RunId]]:
            failed[0] += 1
            return fails() if failed[0] <= FAILURES else await inner(self)

        monkeypatch.setattr(MemoryLog, "open_runs", open_runs)
        async with serving(broker):
            await anyio.sleep(30)
            assert failed[0] > FAILURES
            assert (await log_of(broker, RUN)).sealed is not None

    run_virtual(main, seed=1)


@pytest.mark.parametrize("value", [b"[" * 5_000, b'["\xff\xfe"]', b"no json", b'{"all": false}'])
def test_kill_switches_that_cannot_be_read_count_as_closed(value: bytes) -> None:
    """No process crashes, nothing starts, and the refusals say how to reset the switches."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await broker.bucket(stream_names.SWITCHES_BUCKET).create(KEY, value)
        async with serving(broker, run=OTHER):
            await anyio.sleep(1)
            refused = (await log_of(broker, OTHER)).refused
            assert refused is not None
            assert (refused.code, "linestop switch open all" in refused.sentence) == ("door_closed", True)

    run_virtual(main, seed=1)


def test_a_kill_switch_that_an_older_linestop_closed_stays_closed_until_it_is_opened() -> None:
    """It was stored in another bucket."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        shared, switches = broker.bucket(), broker.bucket(stream_names.SWITCHES_BUCKET)
        await shared.create(OLDER_KEY, b'["agent:a"]')
        stored = KillSwitchClient(KillSwitchStore(switches, shared))
        async with serving(broker, run=OTHER):
            await anyio.sleep(1)
            assert (await log_of(broker, OTHER)).refused is not None
            assert await stored.closed() == {"agent:a"}
            assert await stored.open("agent:a") == set()
            assert await stored.closed() == set()
            await anyio.sleep(REFRESH_FACTS_EVERY_S)
            await submit(broker, run=RunId("third"))
            await anyio.sleep(1)
            assert (await log_of(broker, RunId("third"))).refused is None

    run_virtual(main, seed=1)


def test_a_kill_switch_takes_effect_two_seconds_after_it_was_closed() -> None:
    """Every process reads the switches at this interval."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        async with serving(broker):
            await anyio.sleep(1)
            await broker.bucket(stream_names.SWITCHES_BUCKET).create(KEY, b'["agent:a"]')
            await anyio.sleep(REFRESH_FACTS_EVERY_S)
            await submit(broker, run=OTHER)
            await anyio.sleep(1)
            assert (await log_of(broker, OTHER)).refused is not None

    run_virtual(main, seed=1)
