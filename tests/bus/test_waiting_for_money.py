"""A run waits for money that other runs hold now; it is refused only an amount that can never fit."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, TENANT, InMemory, Tools

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.client.result_types import run_line
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.money.account_state import Account
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.events import Held, Queued, Stopped
from linestop.schemas.model_messages import ModelReply, ToolCall, Usage
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import ACTORS, RunId
from linestop.schemas.verify.check_log import verify
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

USAGE = Usage(fresh_in=400, out=20)
COST = AGENT.model.price.cost_micros(USAGE)
"""The real cost of one model request, in micro-dollars."""

TAKES_S = 1.0
SOON = timedelta(milliseconds=20)


class Model:
    """A model that makes ``calls`` calls of the tool ``look`` in sequence, a second each, then answers."""

    def __init__(self, calls: int = 0) -> None:
        self._calls = calls

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        await anyio.sleep(TAKES_S)
        more = work.turn <= self._calls
        calls = (ToolCall(id=f"c{work.turn}", name="look", args=f'{{"q":"{work.turn}"}}'),) if more else ()
        return ModelReply(
            text="" if more else "done",
            calls=calls,
            stop_reason="calls" if more else "end",
            usage=USAGE,
            usage_reported=True,
            model="x",
        ), TAKES_S


class Crowd:
    """Runs of one user in one process without a sweep, and all values of their accounts."""

    def __init__(self, broker: MemoryBroker, limits: AccountLimits) -> None:
        self.broker = broker
        self.limits = limits
        self.over: list[str] = []
        broker.stream(stream_names.bucket_stream(stream_names.SHARED_BUCKET)).listeners.append(self._written)

    def _written(self, stored: object) -> None:
        subject, payload = getattr(stored, "subject", ""), getattr(stored, "payload", b"")
        if ".account.user-" in subject and payload:
            taken = msgspec.json.decode(payload, type=Account).taken
            if taken > self.limits.user_day_micros:
                self.over.append(f"{subject}: {taken}")

    async def submit(self, name: str) -> None:
        """Submit a task."""
        task = {"text": "please", "run": name, "user": "ann"}
        await self.broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode(task))

    async def run(self, name: str) -> Run:
        """The run folded from its log."""
        found = await self.broker.log().load(TENANT, RunId(name))
        messages = [(m.subject, m.payload, m.seq) for m in found]
        verdict = verify(TENANT, name, messages)
        assert verdict.status == "consistent", verdict.problems
        return fold_messages(TENANT, RunId(name), messages)


def crowd(
    scenario: Callable[[Crowd], Awaitable[None]],
    *,
    user_day_micros: int,
    calls: int = 0,
    agent: AgentVersion = AGENT,
    start: datetime = datetime(2026, 5, 4, 10, 0, tzinfo=UTC),
    sweeping: bool = False,
) -> None:
    """Run ``scenario`` beside one process with every role, under virtual time."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(agent)
        limits = AccountLimits(user_day_micros=user_day_micros)
        config = ProcessSettings(
            worker="w#1", now=virtual_now, random_source=random.Random(1), account_limits=limits, sweeping=sweeping
        )
        roles = [make_role(role, requester=Model(calls), runner=Tools({})) for role in ACTORS]
        world = Crowd(broker, limits)
        async with ActorProcess(InMemory(broker), roles, config).running():
            await scenario(world)
        assert not world.over

    run_virtual(main, seed=1, start=start)


def first_request_cost_max_micros(run: Run) -> int:
    """The maximum cost of the run's first model request."""
    return next(iter(run.attempts.values()))[0].cost_max_micros


def measure_first_request_cost_max_micros() -> int:
    """The maximum cost of the first model request of such a run, in micro-dollars."""
    found: list[int] = []

    async def scenario(world: Crowd) -> None:
        await world.submit("one")
        await anyio.sleep(5)
        found.append(first_request_cost_max_micros(await world.run("one")))

    crowd(scenario, user_day_micros=5_000_000)
    return found[0]


def events(run: Run, kind: type) -> list[object]:
    """The run's events of that kind that have an effect."""
    return [entry.event for entry in run.entries if isinstance(entry.event, kind) and not entry.ignored]


def test_a_single_run_needs_money_only_for_its_next_start() -> None:
    """A hold for later turns is made only if it fits."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        await world.submit("one")
        await anyio.sleep(5)
        run = await world.run("one")
        assert run.sealed is not None
        assert run.sealed.status == "completed"
        assert [held.amount_micros for held in events(run, Held) if isinstance(held, Held)] == [needed_micros]

    crowd(scenario, user_day_micros=needed_micros)


def test_of_64_parallel_runs_the_20_that_fit_the_account_complete() -> None:
    """The others wait while money is held and are refused once it is spent, oldest first, with few events."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        names = [f"r{index:02}" for index in range(64)]
        for name in names:
            await world.submit(name)
            await anyio.sleep(0.001)
        await anyio.sleep(60)
        runs = [await world.run(name) for name in names]
        assert Counter(run.sealed.status if run.sealed else "open" for run in runs) == {
            "completed": 20,
            "over_budget": 44,
        }
        assert [run.run for run in runs if run.accepted] == names[:20]
        assert max(run.n for run in runs) <= 10
        stop = runs[-1].stopped
        assert stop is not None
        assert "user ann may spend" in stop.why
        assert "resets at 2026-05-05 00:00 UTC" in stop.why

    crowd(scenario, user_day_micros=19 * COST + needed_micros)


def test_a_run_is_woken_as_soon_as_another_releases_money() -> None:
    """Without the sweep, by a hint. Until then it is queued, and its state names the account it waits for."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        await world.submit("one")
        await anyio.sleep(0.5)
        await world.submit("two")
        await anyio.sleep(0.25)
        waiting = run_line(await world.run("two"))
        assert waiting.status == "queued"
        assert waiting.why.startswith(f"The next step may cost ${needed_micros / 1e6:.6f}".rstrip("0"))
        assert "user ann may spend" in waiting.why
        assert "has spent $0.00 and holds" in waiting.why
        await anyio.sleep(5)
        one, two = await world.run("one"), await world.run("two")
        assert one.sealed is not None
        held = events(two, Held)[0]
        assert isinstance(held, Held)
        assert timedelta() <= held.at - one.sealed.at < SOON
        assert len(events(two, Queued)) == 1
        assert two.accepted is not None

    crowd(scenario, user_day_micros=needed_micros + COST)


def test_runs_that_wait_for_each_others_money_all_continue() -> None:
    """A waiting run releases its unspent money: no two runs wait for each other's."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        names = [f"r{index}" for index in range(3)]
        for name in names:
            await world.submit(name)
        await anyio.sleep(60)
        runs = [await world.run(name) for name in names]
        assert [run.sealed.status if run.sealed else "" for run in runs] == ["completed"] * 3
        assert any(events(run, Queued) for run in runs)

    crowd(scenario, user_day_micros=3 * needed_micros + 10, calls=3)


def test_a_waiting_run_continues_at_the_end_of_the_period() -> None:
    """An account full of holds is empty again at midnight; without the sweep the run's own alarm advances it.

    The hold is too young to count as orphaned, since no log and no other account has it.
    """
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        shared = world.broker.bucket(stream_names.SHARED_BUCKET)
        key = f"account.user-{TENANT}-{__import__('hashlib').sha256(b'ann').hexdigest()[:24]}.2026-05-04"
        held = Account(holds={"t.other.1": (needed_micros, int(virtual_now().timestamp()))})
        await shared.create(key, msgspec.json.encode(held))
        await world.submit("one")
        await anyio.sleep(300)
        run = await world.run("one")
        held_at = events(run, Held)[0]
        assert isinstance(held_at, Held)
        midnight = datetime(2026, 5, 5, tzinfo=UTC)
        assert timedelta() <= held_at.at - midnight < SOON
        assert run.accepted is not None
        assert run.active_s(run.at) < 5
        assert run.n < 12

    crowd(scenario, user_day_micros=needed_micros, start=datetime(2026, 5, 4, 23, 58, 20, tzinfo=UTC))


def test_a_stopped_run_loses_its_place_in_the_queue() -> None:
    """No run waits behind an ended one."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        await world.submit("one")
        await anyio.sleep(0.2)
        await world.submit("two")
        await anyio.sleep(0.2)
        await world.submit("three")
        await anyio.sleep(0.2)
        stop = {"by": "ann", "why": "enough"}
        await world.broker.publish(f"control.{TENANT}.two.stop", msgspec.json.encode(stop))
        await anyio.sleep(5)
        one, two, three = [await world.run(name) for name in ("one", "two", "three")]
        assert one.sealed is not None
        assert two.stopped is not None
        held = events(three, Held)[0]
        assert isinstance(held, Held)
        assert held.at - one.sealed.at < SOON

    crowd(scenario, user_day_micros=needed_micros + COST)


@pytest.mark.parametrize("sweeping", [True, False])
def test_a_run_whose_accounts_cannot_be_changed_names_the_cause_and_continues_later(sweeping: bool) -> None:
    """It waits, is not stopped as stuck, and tries again within half a minute."""
    needed_micros = measure_first_request_cost_max_micros()

    async def scenario(world: Crowd) -> None:
        stream = world.broker.stream(stream_names.bucket_stream(stream_names.SHARED_BUCKET))
        stream.bytes_max = stream.bytes_used + 1
        await world.submit("one")
        await anyio.sleep(200)
        run = await world.run("one")
        assert run.queued is not None
        assert "the accounts cannot be changed now" in run.queued.why
        assert "no space" in run.queued.why
        assert run.n == 2
        stream.bytes_max = 0
        began = virtual_now()
        await anyio.sleep(60)
        run = await world.run("one")
        held = events(run, Held)[0]
        assert isinstance(held, Held)
        assert held.at - began <= timedelta(seconds=30)
        assert not events(run, Stopped)
        assert run.accepted is not None

    crowd(scenario, user_day_micros=5 * needed_micros, sweeping=sweeping)
