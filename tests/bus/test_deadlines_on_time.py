"""Retries, fallbacks, expiries, waits and takeovers happen on time, to the millisecond, with the sweep switched off.

Each row names two events and the time between them. It holds in one process and with one role a process, and also if
the process of the role dies in between and is started again. Far deadlines are beyond ``TIMER_IN_PROCESS_MAX_S``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.run_logs import RUN, TENANT
from tests.virtual_processes import (
    EACH,
    HANGS,
    LATE_MAX_S,
    OK,
    ONE,
    SECOND,
    Processes,
    ScriptedModel,
    ScriptedTools,
    agent,
    busy,
    calls,
    down,
    processes,
)

from linestop.runtime.workers.presence import Presence
from linestop.schemas.events import EffectStarted, ModelStarted, Policy
from linestop.schemas.model_messages import ModelFailed, ModelReply
from linestop.schemas.run.starting.retry_delays import retry_delay_s
from linestop.schemas.subjects import RoleName
from linestop.schemas.tool_contracts import ToolResult
from linestop.schemas.verify.check_log import verify
from linestop.testing.replay import replay
from linestop.testing.virtual_time import run_virtual, virtual_now

LAYOUTS = pytest.mark.parametrize("roles", [ONE, EACH], ids=["one process", "one role a process"])
Layout = tuple[tuple[RoleName, ...], ...]


@dataclass(frozen=True)
class Row:
    """``after_s`` seconds after the last event ``since``, ``role`` appends ``then``."""

    role: RoleName
    since: str
    after_s: float
    then: str
    script: Sequence[ModelReply | ModelFailed] = ()
    tools: dict[str, list[ToolResult]] = field(default_factory=dict[str, list[ToolResult]])
    agent: dict[str, Any] = field(default_factory=dict[str, Any])


def look(*results: ToolResult) -> dict[str, Any]:
    """One call of the tool ``look`` with these results."""
    return {"script": [calls(("look", {"q": 1}))], "tools": {"look": list(results)}}


def limits(**fields: int) -> dict[str, Any]:
    """An agent with these limits."""
    return {"limits": {"wall_s": 100_000, **fields}}


def waiting(tool: str, **args: Any) -> dict[str, Any]:
    """One call of a tool that waits."""
    return {"script": [calls((tool, args))], "agent": limits()}


QUEUES = {"on_model_down": "queue", "limits": {"model_retries_max": 0}}
SPENDING = {"policy": Policy(ask_on_spend=True), "limits": {"ask_from_micros": 0, "approval_expires_s": 50}}
SPENDING_LONG = {"policy": Policy(ask_on_spend=True), "limits": {"ask_from_micros": 0, "approval_expires_s": 500}}
PAY = [calls(("pay", {"q": 1}))]
ROWS = {
    "model retry 1": Row("planner", "planner.failed", retry_delay_s("r1:1", 1), "planner.started", [down()]),
    "model retry 2": Row("planner", "planner.failed", retry_delay_s("r1:1", 2), "planner.started", [down()] * 2),
    "model retry 3": Row("planner", "planner.failed", retry_delay_s("r1:1", 3), "planner.started", [down()] * 3),
    "model retry-after": Row("planner", "planner.failed", 3, "planner.started", [down("rate_limit", 3)]),
    "model queued near": Row("planner", "planner.failed", 60, "planner.started", [down()], agent=QUEUES),
    "model queued again": Row("planner", "planner.failed", 240, "planner.started", [down()] * 3, agent=QUEUES),
    "model queued far": Row("planner", "planner.failed", 480, "planner.started", [down()] * 4, agent=QUEUES),
    "model queued an hour": Row("planner", "planner.failed", 3_600, "planner.started", [down()] * 8, agent=QUEUES),
    "tool retry 1": Row(
        "executor", "executor.finished", retry_delay_s("look-0", 1), "executor.started", **look(busy())
    ),
    "tool retry 2": Row(
        "executor", "executor.finished", retry_delay_s("look-0", 2), "executor.started", **look(busy(), busy())
    ),
    "tool retry-after": Row("executor", "executor.finished", 3, "executor.started", **look(busy(3))),
    "tool retry-after far": Row(
        "executor", "executor.finished", 400, "executor.started", agent=limits(), **look(busy(400))
    ),
    "approval near": Row("approver", "approver.asked", 40, "approver.denied", PAY, agent=limits(approval_expires_s=40)),
    "approval far": Row(
        "approver", "approver.asked", 1_000, "approver.denied", PAY, agent=limits(approval_expires_s=1_000)
    ),
    "wait near": Row("executor", "planner.proposed", 2, "executor.finished", **waiting("wait.until", until=2)),
    "wait far": Row("executor", "planner.proposed", 500, "executor.finished", **waiting("wait.until", until=500)),
    "event near": Row(
        "approver", "approver.asked", 30, "approver.denied", **waiting("wait.for_event", name="paid", timeout_s=30)
    ),
    "event far": Row(
        "approver", "approver.asked", 700, "approver.denied", **waiting("wait.for_event", name="paid", timeout_s=700)
    ),
    "spending near": Row("approver", "approver.asked", 50, "approver.denied", agent=SPENDING),
    "spending far": Row("approver", "approver.asked", 500, "approver.denied", agent=SPENDING_LONG),
    "run-max near": Row("validator", "validator.opened", 200, "validator.stopped", PAY, agent=limits(run_max_s=200)),
    "run-max far": Row("validator", "validator.opened", 3_000, "validator.stopped", PAY, agent=limits(run_max_s=3_000)),
}


def virtually(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test under virtual time."""
    run_virtual(test, seed=1)


def on_time(actual_s: float, expected_s: float) -> bool:
    """Whether the event was on time: never early, and at most a few milliseconds late."""
    return -1e-6 <= actual_s - expected_s <= LATE_MAX_S


async def until_event(p: Processes, event: str, times: int) -> None:
    """Wait until an event was appended ``times`` times."""
    with anyio.fail_after(10_000):
        while len(await p.event_times(event)) < times:
            await p.next_event()


async def play(row: Row, p: Processes, midway: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run until ``since``, call ``midway`` in the middle of the time, and check when ``then`` is appended."""
    failures = sum(isinstance(response, ModelFailed) for response in row.script) + sum(map(len, row.tools.values()))
    await until_event(p, row.since, max(failures, 1))
    before = len(await p.event_times(row.then))
    since_s = (await p.event_times(row.since))[-1]
    if midway is not None:
        await anyio.sleep(row.after_s / 2)
        await midway()
    await anyio.sleep(since_s + row.after_s + 0.5 - (anyio.current_time() - p.began_s))
    times = await p.event_times(row.then)
    assert len(times) == before + 1, (await p.run()).entries
    assert on_time(times[-1], since_s + row.after_s), times[-1] - since_s


@LAYOUTS
@pytest.mark.parametrize("name", ROWS)
def test_an_event_is_on_time(name: str, roles: Layout) -> None:
    """Each deadline has its alarm, whatever else is set or being performed at that time."""
    row = ROWS[name]

    async def main() -> None:
        async with processes(
            roles, ScriptedModel(row.script), ScriptedTools(row.tools), version=agent(**row.agent)
        ) as p:
            await play(row, p)

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("name", ROWS)
def test_an_event_is_on_time_although_its_process_was_killed(name: str, roles: Layout) -> None:
    """The process with the role is started again in between, and takes over the alarms of its predecessor."""
    row = ROWS[name]

    async def main() -> None:
        async with processes(
            roles, ScriptedModel(row.script), ScriptedTools(row.tools), version=agent(**row.agent)
        ) as p:

            async def restart() -> None:
                await p.start(await p.kill(row.role), f"{row.role}#2")

            await play(row, p, restart)

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("step_s", [3_600.0, -3_600.0])
@pytest.mark.parametrize("name", [name for name in ROWS if "retry" in name or "near" in name])
def test_an_event_is_on_time_although_the_wall_clock_was_set(name: str, step_s: float, roles: Layout) -> None:
    """By an hour, in the middle of the pause: a process measures time by its steady clock."""
    row, wrong_s = ROWS[name], [0.0]

    def wall() -> datetime:
        return virtual_now() + timedelta(seconds=wrong_s[0])

    async def main() -> None:
        version = agent(**row.agent)
        async with processes(
            roles, ScriptedModel(row.script), ScriptedTools(row.tools), version=version, now=wall
        ) as p:

            async def step() -> None:
                await anyio.lowlevel.checkpoint()
                wrong_s[0] = step_s

            await play(row, p, step)

    virtually(main)


@LAYOUTS
def test_a_fallback_is_asked_as_soon_as_the_last_retry_has_failed(roles: Layout) -> None:
    """There is no pause before another model."""

    async def main() -> None:
        model = ScriptedModel([down()] * 4)
        async with processes(roles, model, version=agent(fallbacks=(SECOND,), on_model_down="fall_back")) as p:
            await anyio.sleep(60)
            starts, failures = await p.event_times("planner.started"), await p.event_times("planner.failed")
            assert on_time(starts[4], failures[3])
            assert model.models_requested == ["playbook/first"] * 4 + ["playbook/second"]
            assert len(await p.event_times("sealed")) == 1

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize(
    ("tool", "then", "shown"),
    [("mail", "executor.started", False), ("once", "executor.finished", True), ("once", "executor.finished", False)],
)
@pytest.mark.parametrize("far", [False, True])
def test_a_lost_effect_is_taken_over_at_its_done_by(  # noqa: PLR0917 - a table
    tool: str, then: str, shown: bool, far: bool, roles: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an executor of another name: it is repeated under its key if that is safe, else its outcome is unknown.

    An effect that is not safe to repeat is never taken over earlier, even if its worker is known to be dead. A safe one
    is taken over so late only if its worker never stored a heartbeat, like one of an older linestop.
    """
    timeout_s = 600.0 if far else 20.0

    async def main() -> None:
        model, scripted_tools = ScriptedModel([calls((tool, {"q": 1}))]), ScriptedTools(takes_s={tool: [HANGS]})
        version = agent(timeout_s={tool: timeout_s}, **limits())
        if not shown:
            monkeypatch.setattr(Presence, "_store_heartbeat", _store_no_heartbeat)
        async with processes(roles, model, scripted_tools, version=version) as p:
            await until_event(p, "executor.started", 1)
            done_by = (await p.run()).open_attempts[0].done_by
            await p.start(await p.kill("executor"), "spare#1")
            await anyio.sleep(timeout_s + 60)
            starts = await p.event_times(then)
            found = starts[-1] if then == "executor.finished" else starts[1]
            assert on_time(found, (done_by - p.began).total_seconds())

    virtually(main)


async def _store_no_heartbeat(_self: Presence, _role: RoleName) -> None:
    """Store no heartbeat, like a worker of an older linestop."""


@LAYOUTS
@pytest.mark.parametrize(("role", "tool"), [("executor", "mail"), ("executor", "slow"), ("planner", "")])
def test_a_start_of_a_dead_worker_is_taken_over_within_ten_seconds(role: RoleName, tool: str, roles: Layout) -> None:
    """By a worker of another name, long before its deadline of 900 s. The log holds the reason, and verifies."""

    async def main() -> None:
        model = ScriptedModel([calls((tool, {"q": 1}))] if tool else [calls()], [] if tool else [HANGS])
        version = agent(timeout_s={tool: 900.0}, **limits())
        async with processes(roles, model, ScriptedTools(takes_s={tool: [HANGS]}), version=version) as p:
            await until_event(p, f"{role}.started", 1)
            await anyio.sleep(20)
            started_by = (await p.run()).open_attempts[0].worker
            dead_s = anyio.current_time() - p.began_s
            await p.start(await p.kill(role), "spare#1")
            await anyio.sleep(30)
            again_s = (await p.event_times(f"{role}.started"))[1]
            assert dead_s <= again_s <= dead_s + 10, again_s - dead_s
            run = await p.run()
            starts = [e.event for e in run.entries if isinstance(e.event, EffectStarted if tool else ModelStarted)]
            assert (starts[1].worker, starts[1].dead_workers) == ("spare#1", (started_by,))
            assert run.sealed is not None
            assert run.sealed.status == "completed"
            log = [(m.subject, m.payload, m.seq) for m in await p.broker.log().load(TENANT, RUN)]
            assert verify(TENANT, RUN, log).problems == ()
            assert replay(log, version) == []

    virtually(main)


@LAYOUTS
def test_a_lost_model_call_is_taken_over_at_its_done_by(roles: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a planner of another name, if its predecessor never stored a heartbeat."""
    monkeypatch.setattr(Presence, "_store_heartbeat", _store_no_heartbeat)

    async def main() -> None:
        model = ScriptedModel([calls()], [HANGS])
        async with processes(roles, model, version=agent(**limits())) as p:
            await until_event(p, "planner.started", 1)
            done_by = (await p.run()).open_attempts[0].done_by
            await p.start(await p.kill("planner"), "spare#1")
            await anyio.sleep(200)
            assert on_time((await p.event_times("planner.started"))[1], (done_by - p.began).total_seconds())
            assert len(await p.event_times("sealed")) == 1

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("tool", ["mail", "look"])
def test_the_next_incarnation_takes_over_at_once_what_is_safe_to_repeat(tool: str, roles: Layout) -> None:
    """It has the lock of the name, so its predecessor is dead."""

    async def main() -> None:
        model, scripted_tools = ScriptedModel([calls((tool, {"q": 1}))]), ScriptedTools(takes_s={tool: [HANGS]})
        async with processes(roles, model, scripted_tools, version=agent(**limits())) as p:
            await until_event(p, "executor.started", 1)
            await p.start(await p.kill("executor"), f"{p.name_of(roles, 'executor')}#2")
            again_s = anyio.current_time() - p.began_s
            await anyio.sleep(1)
            assert on_time((await p.event_times("executor.started"))[1], again_s - 0.001)

    virtually(main)


@LAYOUTS
def test_a_deadline_without_a_reaction_delays_no_other_deadline(roles: Layout) -> None:
    """Of two calls one is asked about and one retried: the retry is on time, and so is the expiry."""

    async def main() -> None:
        model, scripted_tools = (
            ScriptedModel([calls(("pay", {"q": 1}), ("look", {"q": 1}))]),
            ScriptedTools({"look": [busy(), busy(39.5)]}),
        )
        async with processes(roles, model, scripted_tools, version=agent(**limits(approval_expires_s=40))) as p:
            await anyio.sleep(60)
            starts, ends = await p.event_times("executor.started"), await p.event_times("executor.finished")
            assert on_time(starts[1], ends[0] + retry_delay_s("look-1", 1))
            assert on_time(starts[2], ends[1] + 39.5)
            assert on_time((await p.event_times("approver.denied"))[0], (await p.event_times("approver.asked"))[0] + 40)

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("ended", [True, False])
def test_a_probe_asks_at_once_if_the_attempt_is_over(ended: bool, roles: Layout) -> None:
    """A call whose outcome the tool does not know is probed at once; an interrupted one at its deadline."""

    async def main() -> None:
        unknown_result = ToolResult(outcome="unknown", ended=ended)
        scripted_tools = ScriptedTools({"wire": [unknown_result], "wire?": [OK]})
        async with processes(
            roles, ScriptedModel([calls(("wire", {"q": 1}))]), scripted_tools, version=agent(**limits())
        ) as p:
            await until_event(p, "executor.started", 1)
            done_by = (await p.run()).calls["wire-0"].attempts[0].done_by
            await anyio.sleep(60)
            over_s = (await p.event_times("executor.finished"))[0] if ended else (done_by - p.began).total_seconds()
            assert on_time((await p.event_times("executor.started"))[1], over_s)
            assert scripted_tools.performed == ["wire", "wire?"]

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize(
    "name", [name for name in ROWS if "far" in name or name in {"model queued far", "model queued an hour"}]
)
def test_an_ended_run_leaves_no_timer(name: str, roles: Layout) -> None:
    """Whichever process set the timer: after a stop the broker has none left to fire."""
    row = ROWS[name]

    async def main() -> None:
        async with processes(
            roles, ScriptedModel(row.script), ScriptedTools(row.tools), version=agent(**row.agent)
        ) as p:
            failures = sum(isinstance(response, ModelFailed) for response in row.script) + sum(
                map(len, row.tools.values())
            )
            await until_event(p, row.since, max(failures, 1))
            await anyio.sleep(1)
            assert p.broker.schedules.pending
            await p.send_control("stop")
            await until_event(p, "sealed", 1)
            await anyio.sleep(1)
            assert p.broker.schedules.pending == []

    virtually(main)


WALL = {"limits": {"wall_s": 20}}


@LAYOUTS
@pytest.mark.parametrize("when", ["thinking", "acting", "between"])
@pytest.mark.parametrize("off_s", [12.0, 22.0, 33.0, 300.0])
def test_downtime_of_a_process_is_not_active_time(when: str, off_s: float, roles: Layout) -> None:
    """With all roles, or with the needed one of six: the run continues when the process is back, whatever was open."""
    during_model_request, during_tool_call, between_steps = when == "thinking", when == "acting", when == "between"

    async def main() -> None:
        model = ScriptedModel([calls(("look", {"q": 1}))], [0.01, HANGS] if during_model_request else [])
        scripted_tools = ScriptedTools(takes_s={"look": [HANGS]} if during_tool_call else {})
        async with processes(roles, model, scripted_tools, version=agent(**WALL)) as p:
            role: RoleName = "planner" if during_model_request else "executor" if during_tool_call else "validator"
            if between_steps:
                killed = await p.kill(role)
            else:
                await until_event(p, f"{role}.started", 2 if during_model_request else 1)
                await anyio.sleep(1)
                killed = await p.kill(role)
            await anyio.sleep(off_s)
            await p.start(killed, f"{p.name_of(roles, role)}#2")
            await anyio.sleep(40)
            run = await p.run()
            assert run.sealed is not None
            assert run.sealed.status == "completed", run.sealed.why
            assert run.active_s(run.at) < 6

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("when", ["thinking", "acting", "retrying"])
@pytest.mark.parametrize("tool", ["look", "once"])
def test_an_outage_of_the_broker_for_minutes_fails_nothing(when: str, tool: str, roles: Layout) -> None:
    """A result from the outage is appended afterwards: the call is not repeated, and the wait is not active time."""

    async def main() -> None:
        model = ScriptedModel([calls((tool, {"q": 1}))], [0.01, 3.0])
        scripted_tools = ScriptedTools({tool: [busy()]} if when == "retrying" else {}, {tool: [3.0]})
        async with processes(roles, model, scripted_tools, version=agent(**WALL)) as p:
            await until_event(
                p, "planner.started" if when == "thinking" else "executor.started", 2 - (when != "thinking")
            )
            await anyio.sleep(1)
            if when == "retrying":
                await until_event(p, "executor.finished", 1)
            p.faults.away = True
            await anyio.sleep(120)
            p.faults.away = False
            back_s = anyio.current_time() - p.began_s
            await anyio.sleep(60)
            run = await p.run()
            assert run.sealed is not None
            assert run.sealed.status == "completed", run.sealed.why
            assert (await p.event_times("sealed"))[0] - back_s < 10
            assert scripted_tools.performed == [tool] * (2 if when == "retrying" else 1)
            assert len(model.models_requested) == 2
            assert run.active_s(run.at) < 12

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("wall_s", [20, 400])
def test_the_active_time_limit_ends_a_working_run(wall_s: int, roles: Layout) -> None:
    """A call that takes longer than the run's active time is interrupted at its end, near and far."""

    async def main() -> None:
        model, scripted_tools = ScriptedModel([calls(("slow", {"q": 1}))]), ScriptedTools(takes_s={"slow": [HANGS]})
        version = agent(limits={"wall_s": wall_s})
        async with processes(roles, model, scripted_tools, version=version) as p:
            await anyio.sleep(wall_s + 5)
            run = await p.run()
            assert run.stopped is not None
            assert (run.stopped.code, run.stopped.open[0].what) == ("deadline", "slow-0")
            assert on_time((await p.event_times("stopped"))[0], wall_s + (await p.event_times("opened"))[0])

    virtually(main)


@LAYOUTS
def test_a_model_call_ends_with_its_runs_time(roles: Layout) -> None:
    """The worker owns it until then; the run reports that its time is up."""

    async def main() -> None:
        model = ScriptedModel([calls()], [HANGS])
        async with processes(roles, model, version=agent(**WALL)) as p:
            await anyio.sleep(30)
            run = await p.run()
            assert run.sealed is not None
            assert "worked for 20 s" in run.sealed.why
            assert on_time((await p.event_times("stopped"))[0], 20.0 + (await p.event_times("opened"))[0])

    virtually(main)


@LAYOUTS
@pytest.mark.parametrize("tool", ["once", "look"])
def test_a_start_with_a_lost_acknowledgement_is_reported_at_once(tool: str, roles: Layout) -> None:
    """Its worker knows that it never began, and reports it as soon as the broker can be reached."""

    async def main() -> None:
        scripted_tools = ScriptedTools()
        async with processes(
            roles, ScriptedModel([calls((tool, {"q": 1}))]), scripted_tools, version=agent(**limits())
        ) as p:
            p.faults.lose_reply_to = "executor.started"
            await anyio.sleep(5)
            assert scripted_tools.performed == [tool]
            assert [a.outcome for a in (await p.run()).calls[f"{tool}-0"].attempts] == ["never_started", "succeeded"]
            assert len(await p.event_times("sealed")) == 1

    virtually(main)
