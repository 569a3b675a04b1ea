"""Following what runs come to, against the whole of linestop: words, outcomes, alerts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from pydantic import BaseModel
from tests.stack import Stack, stack

from linestop import Client, InputError, PermissionDenied, Refused, SyncClient, errors
from linestop.bus import stream_names
from linestop.bus.agent_versions import AgentStore
from linestop.client.listening import Listener
from linestop.client.outcome import Outcome, outcome_as

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
SOON_S = 20.0
ANSWER_TEXT = "It was a dark and stormy night, and the rain fell in torrents except at occasional intervals."
PLAYBOOK = f"""
name = "desk"
[[step]]
when = {{ turn = 1, contains = "tell" }}
say = "{ANSWER_TEXT}"
pace_s = 0.05
[[step]]
when = {{ turn = 1, contains = "price" }}
say = '{{"amount": 42, "currency": "EUR"}}'
[[step]]
when = {{ turn = 1, contains = "pay" }}
call = [{{ tool = "pay", args = {{ amount = 5 }} }}]
[[step]]
say = "Hello."
"""

LEAVES = """
import asyncio, sys
from linestop import Client

async def main():
    async with Client.connect(sys.argv[1]) as client:
        outcomes = client.outcomes(agent="quoter", after=0)
        async for outcome in outcomes:
            break
        print(outcome.agent)

asyncio.run(main())
"""
"""A program that leaves a loop in the middle and ends."""


@dataclass
class Price:
    """What the agent `quoter` answers."""

    amount: int
    currency: str


class PriceModel(BaseModel):
    """The same for users of pydantic."""

    amount: int
    currency: str


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module: the stack lives in it."""
    return "asyncio"


async def _deploy_quoter(line: Stack) -> None:
    schema = {
        "type": "object",
        "properties": {"amount": {"type": "integer"}, "currency": {"type": "string"}},
        "required": ["amount", "currency"],
    }
    async with Client.connect(line.directory, as_="operator") as operator:
        store = AgentStore(operator.bus.bucket(stream_names.AGENTS_BUCKET))
        desk = await store.current("desk")
        assert desk is not None
        await store.deploy(msgspec.structs.replace(desk, name="quoter", tools=(), output_schema=schema))


@pytest.fixture(scope="module")
async def line(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncGenerator[Stack]:
    """Everything, running."""
    assert anyio_backend == "asyncio"
    async with stack(tmp_path_factory.mktemp("line"), playbook=PLAYBOOK) as running:
        await _deploy_quoter(running)
        yield running


@pytest.fixture
async def client(line: Stack) -> AsyncGenerator[Client]:
    """A client that submits, watches and stops."""
    async with Client.connect(line.directory) as connected:
        yield connected


# --- words -------------------------------------------------------------------------------------------------


async def test_tokens_come_as_the_model_writes_them(client: Client) -> None:
    """In many pieces, long before the run is over, and together they are the answer."""
    submitted = await client.submit("desk", "tell me")
    first_before_the_end = False
    tokens: list[str] = []
    with anyio.fail_after(SOON_S):
        async for token in client.stream(submitted.run):
            if not tokens:
                first_before_the_end = (await client.run(submitted.run)).sealed is None
            tokens.append(token)
            assert (token.turn, token.attempt, token.offset) == (1, 1, len("".join(tokens[:-1])))
    assert "".join(tokens) == ANSWER_TEXT
    assert len(tokens) > 2
    assert first_before_the_end


async def test_two_listeners_a_late_one_and_one_after_the_end_get_the_same_tokens(client: Client, line: Stack) -> None:
    """None of them takes anything from another, and none misses what came before it listened."""
    texts: dict[str, str] = {}

    async def listen(name: str, by: Client, run: str) -> None:
        texts[name] = "".join([token async for token in by.stream(run)])

    async with Client.connect(line.directory, as_="operator") as other, anyio.create_task_group() as tasks:
        tasks.start_soon(listen, "before it begins", other, "told-1")
        submitted = await client.submit("desk", "tell me", run="told-1")
        tasks.start_soon(listen, "from the beginning", client, submitted.run)
        async with aclosing(client.stream(submitted.run)) as tokens:
            # Its first words are out: whoever listens from now on is late.
            await anext(tokens)
        tasks.start_soon(listen, "late", client, submitted.run)
        await client.outcome(submitted.run, timeout_s=SOON_S)
        tasks.start_soon(listen, "after the end", client, submitted.run)
    assert texts == dict.fromkeys(("before it begins", "from the beginning", "late", "after the end"), ANSWER_TEXT)


async def test_a_slow_listener_loses_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dropped while it was busy it gets from the log."""
    monkeypatch.setattr("linestop.client.waiting.PIECES_MAX", 2)
    submitted = await client.submit("desk", "tell me")
    text = ""
    with anyio.fail_after(SOON_S):
        async for token in client.stream(submitted.run):
            if not text:
                await client.outcome(submitted.run, timeout_s=SOON_S)
            text += token
    assert text == ANSWER_TEXT


async def test_tokens_continue_after_a_crash_of_the_broker(tmp_path: Path) -> None:
    """Kill -9 of the server in the middle of an answer: what was lost on the way comes from the log."""
    text = ""
    async with stack(tmp_path, playbook=PLAYBOOK) as running, Client.connect(tmp_path) as client:
        submitted = await client.submit("desk", "tell me")
        with anyio.fail_after(60):
            async for token in client.stream(submitted.run):
                if not text:
                    os.kill(running.server.pid, signal.SIGKILL)
                text += token
    assert text == ANSWER_TEXT


# --- answers -----------------------------------------------------------------------------------------------


async def test_an_answer_is_read_as_the_type_that_is_asked_for(client: Client) -> None:
    """A dataclass, a pydantic model, or the parsed JSON where the agent has an output schema."""
    outcome = await client.execute("quoter", "the price", output=Price, timeout_s=SOON_S)
    assert outcome.require() == Price(amount=42, currency="EUR")
    again = await client.outcome(outcome.run, output=PriceModel)
    assert again.answer == PriceModel(amount=42, currency="EUR")
    assert (await client.outcome(outcome.run)).answer == {"amount": 42, "currency": "EUR"}
    assert (await client.outcome(outcome.run, output=str)).answer == '{"amount": 42, "currency": "EUR"}'


async def test_an_answer_of_another_type_raises_an_error_in_a_sentence(client: Client) -> None:
    """The run and the type are named, and no traceback of a decoder reaches the program."""
    with pytest.raises(InputError, match="cannot be read as Price"):
        await client.execute("desk", "say hello", output=Price, timeout_s=SOON_S)
    with pytest.raises(InputError, match="cannot be read as PriceModel"):
        await client.execute("desk", "say hello", output=PriceModel, timeout_s=SOON_S)


async def test_a_task_that_is_not_let_in_is_an_error_where_its_answer_is_wanted(client: Client) -> None:
    """Waiting for it would not help."""
    with pytest.raises(Refused, match="no agent 'nobody'"):
        await client.execute("nobody", "say hello")


async def test_a_run_without_an_answer_says_why_where_one_is_required(client: Client) -> None:
    """The status and the reason, and not None somewhere later."""
    submitted = await client.submit("desk", "pay 5")
    await client.stop(submitted.run, by="ann", why="enough")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert outcome.answer is None
    with pytest.raises(errors.RunFailed, match="stopped: enough"):
        outcome.require()


async def test_an_outcome_names_its_user_its_times_and_its_model(client: Client) -> None:
    """All that a bill or a report needs is in it."""
    outcome = await client.execute(
        "desk", "say hello", user="ann", submitter="crm", labels={"case": "7"}, timeout_s=SOON_S
    )
    assert (outcome.user, outcome.submitter, outcome.labels) == ("ann", "crm", {"case": "7"})
    assert outcome.model == "playbook/desk"
    assert outcome.asked_at is not None
    assert outcome.opened_at is not None
    assert outcome.ended_at is not None
    assert outcome.asked_at <= outcome.opened_at <= outcome.ended_at


def test_an_outcome_of_an_older_linestop_is_read() -> None:
    """What it does not tell is empty; its answer is a text, and can be read as a type."""
    answer = r'"{\"amount\":1,\"currency\":\"EUR\"}"'
    old = b'{"run":"r","tenant":"default","agent":"a","status":"completed","answer":%s}' % answer.encode()
    outcome = outcome_as(old)
    assert (outcome.user, outcome.labels, outcome.model, outcome.asked_at, outcome.ended_at) == ("", {}, "", None, None)
    assert outcome.answer == '{"amount":1,"currency":"EUR"}'
    assert outcome_as(old, Price).answer == Price(amount=1, currency="EUR")


# --- outcomes ----------------------------------------------------------------------------------------------


async def _submit(client: Client, name: str, agent: str = "desk") -> str:
    return (await client.execute(agent, "the price", run=name, timeout_s=SOON_S)).run


async def test_outcomes_come_from_now_on(client: Client) -> None:
    """Whoever names no position hears what ends from now on, of the agent that was named."""
    await _submit(client, "earlier")
    with anyio.fail_after(SOON_S):
        async with client.outcomes(agent="quoter", output=Price) as outcomes:
            await _submit(client, "of-another-agent")
            await _submit(client, "now", agent="quoter")
            outcome = await anext(outcomes)
    assert (outcome.run, outcome.answer) == ("now", Price(42, "EUR"))


async def test_a_listener_with_a_name_loses_and_repeats_nothing_over_restarts(client: Client, line: Stack) -> None:
    """Each restart is a new client; what was being handled in a crash comes again, and nothing else."""
    names = [await _submit(client, f"kept-{n}", agent="quoter") for n in range(5)]
    handled: list[str] = []

    async def work(until: str, *, crash: bool) -> None:
        async with Client.connect(line.directory) as again, again.outcomes(agent="quoter", position="billing") as each:
            async for outcome in each:
                if outcome.run == until and crash:
                    raise RuntimeError
                handled.append(outcome.run)
                if outcome.run == until:
                    break

    with anyio.fail_after(SOON_S):
        await work("kept-1", crash=False)
        with pytest.raises(RuntimeError):
            await work("kept-3", crash=True)
        await work("kept-4", crash=False)
    assert [run for run in handled if run.startswith("kept-")] == names


async def test_a_loop_that_is_left_by_break_leaves_nothing_to_clear_up(client: Client, line: Stack) -> None:
    """The listener is closed with its client, so the program ends in silence."""
    await _submit(client, "left-1", agent="quoter")
    program = await anyio.run_process([sys.executable, "-c", LEAVES, str(line.directory)], check=False)
    assert (program.stdout, program.stderr) == (b"quoter\n", b"")


async def test_a_loop_that_is_cancelled_between_outcomes_has_handled_them(client: Client, line: Stack) -> None:
    """An outcome counts when the next is asked for: a worker that is ended while it waits repeats nothing."""
    await _submit(client, "waits-1", agent="quoter")
    seen: list[str] = []
    for _ in range(2):
        async with Client.connect(line.directory) as again:
            with anyio.move_on_after(0.5):
                async for outcome in again.outcomes(agent="quoter", position="waiter"):
                    seen += [outcome.run]
    assert len(seen) == len(set(seen)) > 0


async def _first_of(each: Listener[Outcome[Any]], leave: str) -> str:
    async for outcome in each:
        if "save" in leave:
            await each.save()
        if "error" in leave or "caught" in leave:
            raise RuntimeError(outcome.run)
        if "return" in leave:
            return outcome.run
        break
    else:
        raise AssertionError("it gives nothing")
    return outcome.run


async def _left(directory: Path, position: str, leave: str) -> str:
    """Leave a loop in this way; return what was given last."""
    async with Client.connect(directory) as client:
        listener = client.outcomes(agent="quoter", position=position)
        if "block" not in leave:
            return await _first_of(listener, leave)
        async with listener as each:
            try:
                return await _first_of(each, leave)
            except RuntimeError as error:
                if "caught" not in leave:
                    raise
                return str(error)


@pytest.mark.parametrize(
    ("leave", "again", "warns"),
    [
        ("break", True, True), ("break in a block", False, False), ("return in a block", False, False),
        ("save and break", False, False), ("error", True, True), ("error in a block", True, False),
        ("caught in a block", False, False),
    ],
)  # fmt: skip
async def test_an_outcome_counts_as_handled_if_its_block_is_left_without_an_error(
    client: Client, line: Stack, caplog: pytest.LogCaptureFixture, leave: str, *, again: bool, warns: bool
) -> None:
    """Decision 044, each way of leaving a loop; where nothing tells, it comes again and a warning says so."""
    for n in range(2):
        await _submit(client, f"left-{leave.replace(' ', '-')}-{n}", agent="quoter")
    position = leave.replace(" ", "-")

    with anyio.fail_after(SOON_S):
        try:
            handled = await _left(line.directory, position, leave)
        except RuntimeError as error:
            handled = str(error)
        async with client.outcomes(agent="quoter", position=position) as outcomes:
            outcome = await anext(outcomes)
    assert (outcome.run == handled) is again
    warnings = [record.getMessage() for record in caplog.records if record.name == "linestop.client"]
    assert bool(warnings) is warns
    assert all(f"Position '{position}'" in warning for warning in warnings)


def _sync_outcomes(directory: Path) -> list[str]:
    seen: list[str] = []
    with SyncClient.connect(directory) as client:
        for _ in range(2):
            with client.outcomes(agent="quoter", position="sync") as outcomes:
                for outcome in outcomes:
                    seen.append(outcome.run)
                    break
    return seen


async def test_a_blocking_program_counts_outcomes_in_the_same_way(client: Client, line: Stack) -> None:
    """With ``with``, as the other with ``async with``."""
    for n in range(2):
        await _submit(client, f"blocking-{n}", agent="quoter")
    with anyio.fail_after(SOON_S):
        first, second = await anyio.to_thread.run_sync(_sync_outcomes, line.directory)
    assert first != second


async def test_who_waits_and_gives_up_can_wait_again(client: Client) -> None:
    """A listener whose wait was cut short goes on where it was."""
    async with client.outcomes(agent="quoter") as outcomes:
        for n in range(2):
            with anyio.move_on_after(0):
                await anext(outcomes)
            await _submit(client, f"again-{n}", agent="quoter")
            with anyio.fail_after(SOON_S):
                assert (await anext(outcomes)).run == f"again-{n}"
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_of_two_listeners_of_one_name_one_gets_a_conflict(client: Client) -> None:
    """They would each miss what the other took; so one of them ends with a sentence."""
    for n in range(3):
        await _submit(client, f"shared-{n}", agent="quoter")
    with anyio.fail_after(SOON_S):
        one = client.outcomes(agent="quoter", position="shared")
        other = client.outcomes(agent="quoter", position="shared")
        await anext(one)
        await anext(other)
        await anext(one)
        with pytest.raises(errors.Conflict, match="Another listener moved the position 'shared'"):
            await anext(other)


async def test_listening_goes_on_behind_a_position_of_the_programs_own(client: Client) -> None:
    """Who keeps the position beside what it does with the outcome handles each exactly once."""
    for n in range(2):
        await _submit(client, f"own-{n}", agent="quoter")
    with anyio.fail_after(SOON_S):
        position = 0
        async for outcome in client.outcomes(agent="quoter", after=0):
            if outcome.run == "own-0":
                position = outcome.position
                break
        behind = await anext(client.outcomes(agent="quoter", after=position))
    assert behind.run == "own-1"
    with pytest.raises(InputError, match="belongs to another broker"):
        await anext(client.outcomes(after=10_000))
    with pytest.raises(InputError, match="either"):
        client.outcomes(after=1, position="x")


# --- alerts ------------------------------------------------------------------------------------------------


async def test_alerts_come_to_who_may_read_them(client: Client, line: Stack) -> None:
    """A question is one; a client without the right is told at once."""
    async with Client.connect(line.directory, as_="operator") as operator, operator.alerts() as alerts:
        submitted = await client.submit("desk", "pay 5")
        with anyio.fail_after(SOON_S):
            alert = await anext(alerts)
    assert (alert.kind, alert.run, alert.agent, alert.tenant) == ("approval-asked", submitted.run, "desk", "default")
    assert alert.event["calls"][0]["tool"] == "pay"
    assert alert.at.endswith("Z")
    with pytest.raises(PermissionDenied), anyio.fail_after(SOON_S):
        await anext(client.alerts())


async def test_programs_without_a_loop_follow_too(line: Stack) -> None:
    """The same from a thread, blocking."""

    def work() -> tuple[str, Outcome[Price], str]:
        with SyncClient.connect(line.directory) as client:
            run = client.submit("quoter", "the price").run
            tokens = "".join(client.stream(run))
            outcome = client.execute("quoter", "the price", output=Price, timeout_s=SOON_S)
            first = next(client.outcomes(agent="quoter", after=0))
            return tokens, outcome, first.agent

    tokens, outcome, agent = await anyio.to_thread.run_sync(work)
    assert tokens == '{"amount": 42, "currency": "EUR"}'
    assert (outcome.require().amount, agent) == (42, "quoter")
