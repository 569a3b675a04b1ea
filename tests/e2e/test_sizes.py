"""Large sizes: long arguments and results, long runs, and many results at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
from tests.e2e.one_process import OneProcess, one_process
from tests.e2e.scene import agent, log_lines

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Append, HeadMoved, Log, OnSent
from linestop.bus.stop_run import stop_run
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.defaults import CLOSING_EVENTS, EVENTS_RESERVED, Limits
from linestop.schemas.events import BlobRef, EffectStarted, Finished, Judged, ModelStarted, Proposed
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.verify.check_log import verify

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

FIVE_MB = 5_000_000
CALLS = 8
ROUNDS = 20
TRIES_MAX = 10
"""How often a stop among eight results may be tried until it is stored."""

MODEL_TAKES_S = 0.05
EVENTS_MAX = 2_000
LARGE = Limits(
    tokens_max=100_000_000,
    cost_max_micros=100_000_000,
    turns_max=1_000,
    calls_max=5_000,
    calls_per_tool_max=5_000,
    equal_calls_max=5_000,
    events_max=EVENTS_MAX,
    compactions_max=0,
    wall_s=600,
)
USED = {"input": 1, "output": 1}
"""Scripted usage, so that no limit but the one under test ends a run."""


class Gate:
    """A gate at which calls wait until the test opens it; ``all_here`` is set when all calls wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.open = asyncio.Event()
        self.all_here = asyncio.Event()


GATE = Gate()


@tool(tier="read", owner="e2e", timeout_s=30)
async def echo(ctx: Context, text: str) -> str:
    """Say it all again.

    Args:
        text: What to say.
    """
    del ctx
    return text


@tool(tier="read", owner="e2e", timeout_s=30)
async def together(ctx: Context, number: int) -> int:
    """End when the others end.

    Args:
        number: Which of them.
    """
    del ctx
    GATE.waiting += 1
    if GATE.waiting == CALLS:
        GATE.all_here.set()
    await GATE.open.wait()
    return number


def playbook(name: str, *steps: dict[str, Any]) -> str:
    """A playbook as TOML: each step has calls, as (tool, arguments), or a text."""
    lines = [f'name = "{name}"']
    for step in steps:
        calls = ", ".join(f"{{tool = {_json(t)}, raw_args = {_json(a)}}}" for t, a in step.get("call", ()))
        when = f"when = {{turn = {step['turn']}}}" if "turn" in step else "repeat = true"
        lines += ["[[step]]", when, f"usage = {{input = {USED['input']}, output = {USED['output']}}}"]
        lines += [f'fault = {{kind = "delay", delay_s = {step["delay_s"]}}}'] if "delay_s" in step else []
        lines += [f"call = [{calls}]"] if calls else [f"say = {_json(step['say'])}"]
    return "\n".join(lines)


def _json(value: str) -> str:
    return msgspec.json.encode(value).decode()


def _args(**fields: object) -> str:
    return msgspec.json.encode(fields).decode()


async def until_done(one: OneProcess, run: str, *, within_s: float = 60.0) -> Run:
    """The run when it is sealed."""
    return await one.scene.until(run, lambda state: state.sealed is not None, within_s=within_s)


@asynccontextmanager
async def serving(directory: Path, *playbooks: str, limits: Limits = LARGE) -> AsyncGenerator[OneProcess]:
    """One process with an agent for each playbook, with the playbook's name."""
    registry = Registry()
    registry.add(echo, "e2e")
    registry.add(together, "e2e")
    async with one_process(directory, playbooks, registry) as one:
        for text in playbooks:
            name = text.split('"')[1]
            version = agent(
                one.model_url, name=name, model=f"playbook/{name}", tools=registry.contracts(), limits=limits
            )
            await one.scene.deploy(version)
        yield one


async def test_an_argument_and_a_result_of_five_megabytes_pass_through_a_run(tmp_path: Path) -> None:
    """Both are stored whole as blobs; the tool gets the whole argument, the model a shortened result."""
    text = "5" * FIVE_MB
    large = playbook("large", {"turn": 1, "call": [("echo", _args(text=text))]}, {"turn": 2, "say": "heard"})
    async with serving(tmp_path, large) as one:
        await one.scene.task("huge", name="large")
        state = await until_done(one, "huge")
        assert state.sealed is not None
        assert state.sealed.status == "completed", log_lines(state)
        args = [c.args for e in state.entries if isinstance(e.event, Proposed | Judged) for c in e.event.calls]
        assert [isinstance(each, BlobRef) for each in args] == [True, True]
        blob = args[1]
        assert isinstance(blob, BlobRef)
        assert await one.scene.bus.blobs().get(state.tenant, blob.sha256) == _args(text=text).encode()
        finished = [e.event for e in state.entries if isinstance(e.event, Finished)]
        assert [(each.outcome, each.result_bytes) for each in finished] == [("succeeded", FIVE_MB)]
        assert finished[0].result.endswith(f"[cut: {FIVE_MB} bytes in all]")
        whole_result = finished[0].result_ref
        assert whole_result is not None
        assert whole_result == BlobRef(sha256=finished[0].result_sha256, bytes=FIVE_MB, type="text/plain")
        assert await one.scene.bus.blobs().get(state.tenant, whole_result.sha256) == text.encode()
        assert max(entry.bytes for entry in state.entries) < 64 * 1024


async def test_many_arguments_that_together_exceed_a_message_pass_through_a_run(tmp_path: Path) -> None:
    """Each fits into an event, but not all together: then they are stored as blobs too."""
    calls = [("echo", _args(text=str(n) * 30_000)) for n in range(10)]
    many = playbook("many", {"turn": 1, "call": calls}, {"turn": 2, "say": "heard"})
    async with serving(tmp_path, many) as one:
        await one.scene.task("wide", name="many")
        state = await until_done(one, "wide")
        assert state.sealed is not None
        assert state.sealed.status == "completed", log_lines(state)
        assert [e.event.outcome for e in state.entries if isinstance(e.event, Finished)] == ["succeeded"] * 10


async def test_a_run_near_its_last_event_ends_within_its_limit(tmp_path: Path) -> None:
    """New work, except the closing turn, ends 50 events before the last one, and the outcome names the limit."""
    # Of sixteen results in a turn, the last could take the place of the closing turn.
    calls = [("echo", _args(text=f"number {n}")) for n in range(12)]
    async with serving(tmp_path, playbook("long", {"call": calls})) as one:
        await one.scene.task("endless", name="long")
        await one.scene.outcome("endless")
        state = await one.scene.fold("endless")
        assert state.sealed is not None
        assert state.stopped is not None
        assert state.stopped.limit is not None
        assert state.stopped.limit.name == "events_max"
        assert EVENTS_MAX - EVENTS_RESERVED - 30 < state.n <= EVENTS_MAX
        starts = [(e.n, e.event) for e in state.entries if isinstance(e.event, ModelStarted | EffectStarted)]
        *others, (last_n, last) = starts
        assert isinstance(last, ModelStarted)
        assert last.purpose == "close"
        assert last_n <= EVENTS_MAX - EVENTS_RESERVED + CLOSING_EVENTS
        assert max(n for n, _ in others) <= EVENTS_MAX - EVENTS_RESERVED
        assert not [entry for entry in state.entries if entry.ignored]
        outcome = await one.scene.outcome("endless")
        assert (outcome["status"], outcome["n"]) == ("failed", state.n)


async def test_a_run_can_use_all_of_its_two_thousand_events(tmp_path: Path) -> None:
    """Work and people fill the run up to its reserve; results, stop, settling and seal fill exactly the rest."""
    calls = [("echo", _args(text=f"number {n}")) for n in range(15)]
    last = {"turn": 102, "call": [("together", _args(number=n)) for n in range(EVENTS_RESERVED - 3)]}
    _close_gate()
    limits = msgspec.structs.replace(LARGE, proposal_calls_max=EVENTS_RESERVED)
    async with serving(tmp_path, playbook("full", last, {"call": calls}), limits=limits) as one:
        await one.scene.task("whole", name="full")
        with anyio.fail_after(100):
            await GATE.all_here.wait()
        state = await one.scene.until("whole", lambda run: len(run.open_attempts) == EVENTS_RESERVED - 3)
        work_n = EVENTS_MAX - EVENTS_RESERVED
        assert state.n >= work_n - 200, "people would have to send too many messages"
        assert (work_n - state.n) % 2 == 0, "each pause needs a resume; take one turn more or less"
        for number in range(work_n - state.n):
            verb = "resume" if number % 2 else "pause"
            reply = await one.publish_and_wait(f"control.{state.tenant}.whole.{verb}", b'{"by": "ann"}')
            assert reply.sentence == f"approver.{verb}d is event {state.n + number + 1}."
        GATE.open.set()
        state = await until_done(one, "whole")
        assert state.n == EVENTS_MAX
        assert [entry.name for entry in state.entries[work_n:]] == (
            [*["finished"] * (EVENTS_RESERVED - 3), "stopped", "settled", "sealed"]
        )
        assert not [entry for entry in state.entries if entry.ignored]
        assert not verify(
            state.tenant,
            state.run,
            [(m.subject, m.payload, m.seq) for m in await one.scene.log.load(state.tenant, state.run, leader=True)],
        ).problems


class CountingLog:
    """A log that records the new head each time that an append is refused because the head moved."""

    def __init__(self, inner: Log) -> None:
        self._inner = inner
        self.heads: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Append, and record a refusal."""
        try:
            return await self._inner.append(append, on_sent=on_sent)
        except HeadMoved as moved:
            self.heads.append(moved.head_seq)
            raise


async def test_a_stop_among_eight_calls_that_end_at_once_is_stored_within_ten_tries(tmp_path: Path) -> None:
    """However the results and the stop interleave, the stop is stored soon, and nothing starts after it."""
    calls = [("together", _args(number=n)) for n in range(CALLS)]
    # The run would never end, so only the stop ends it; the model takes a while, as models do.
    eight = playbook("eight", {"call": calls, "delay_s": MODEL_TAKES_S})
    among = 0
    async with serving(tmp_path, eight) as one:
        for number in range(ROUNDS):
            state, refused_at = await _raced_stop(one, f"race-{number}")
            stop_n = next(e.n for e in state.entries if e.name == "stopped")
            starts_after_stop = [
                e for e in state.entries if e.n > stop_n and isinstance(e.event, ModelStarted | EffectStarted)
            ]
            assert not starts_after_stop, log_lines(state)
            assert not [entry for entry in state.entries if entry.ignored], log_lines(state)
            assert not state.open_attempts
            starts = [e.event for e in state.entries if isinstance(e.event, EffectStarted)]
            assert len(starts[0].calls) == CALLS, "the calls were not open at the same time"
            results = [e for e in state.entries if isinstance(e.event, Finished)]
            assert len(results) >= CALLS, log_lines(state)
            assert len(refused_at) + 1 <= TRIES_MAX, f"it took {len(refused_at) + 1} tries\n{log_lines(state)}"
            among += bool(refused_at) and results[CALLS - 1].seq > refused_at[0]
    assert among >= ROUNDS / 2, f"only {among} of {ROUNDS} stops were tried while results arrived: there was no race"


def _close_gate() -> None:
    # New objects, because an event belongs to the loop of the test that first waits for it.
    GATE.waiting, GATE.open, GATE.all_here = 0, asyncio.Event(), asyncio.Event()


async def _raced_stop(one: OneProcess, run: str) -> tuple[Run, list[int]]:
    """End eight calls and stop the run at that moment; return the sealed run and the heads that refused the stop."""
    _close_gate()
    await one.scene.task(run, name="eight")
    with anyio.fail_after(30):
        await GATE.all_here.wait()
    state = await one.scene.fold(run)
    assert len(state.open_attempts) == CALLS, log_lines(state)
    log = CountingLog(one.scene.log)
    settings = one.host.config
    encoder = EventEncoder(
        build="", blobs=one.scene.bus.blobs(), random_source=settings.random_source, now=settings.now
    )
    first_result = asyncio.Event()

    def on_event(role: str, event: str, count: int) -> None:
        if (role, event, count) == ("executor", "finished", 1):
            first_result.set()

    one.scene.watch(run, on_event)
    GATE.open.set()
    with anyio.fail_after(30):
        await first_result.wait()
    # The stop names a head that the first result has moved; the other results arrive while it is tried again.
    await stop_run(cast("Log", log), encoder, state, lambda at: stop_event(at, by="ann", why="enough"))
    return await until_done(one, run), log.heads
