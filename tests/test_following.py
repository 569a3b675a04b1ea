"""Following runs, with all of linestop: text, outcomes, alerts."""

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
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.client.outcome import Outcome, outcome_as
from linestop.client.outcome_listener import Listener

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
"""A program that breaks out of a loop and ends."""


@dataclass
class Price:
    """The answer of the agent `quoter`."""

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


async def _deploy_quoter(system: Stack) -> None:
    schema = {
        "type": "object",
        "properties": {"amount": {"type": "integer"}, "currency": {"type": "string"}},
        "required": ["amount", "currency"],
    }
    async with Client.connect(system.directory, as_="operator") as operator:
        store = AgentStore(operator.bus.bucket(stream_names.AGENTS_BUCKET))
        desk = await store.current("desk")
        assert desk is not None
        await store.deploy(msgspec.structs.replace(desk, name="quoter", tools=(), output_schema=schema))


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncGenerator[Stack]:
    """All of linestop, running."""
    assert anyio_backend == "asyncio"
    async with stack(tmp_path_factory.mktemp("system"), playbook=PLAYBOOK) as running:
        await _deploy_quoter(running)
        yield running


@pytest.fixture
async def client(system: Stack) -> AsyncGenerator[Client]:
    """A client that submits, watches and stops."""
    async with Client.connect(system.directory) as connected:
        yield connected


# --- text --------------------------------------------------------------------------------------------------


async def test_tokens_arrive_as_the_model_writes_them(client: Client) -> None:
    """In many pieces, long before the run is over, and together they are the answer."""
    submitted = await client.submit("desk", "tell me")
    is_first_before_the_end = False
    tokens: list[str] = []
    with anyio.fail_after(SOON_S):
        async for token in client.stream(submitted.run):
            if not tokens:
                is_first_before_the_end = (await client.run(submitted.run)).sealed is None
            tokens.append(token)
            assert (token.turn, token.attempt, token.offset) == (1, 1, len("".join(tokens[:-1])))
    assert "".join(tokens) == ANSWER_TEXT
    assert len(tokens) > 2
    assert is_first_before_the_end


async def test_two_listeners_a_late_one_and_one_after_the_end_get_the_same_tokens(
    client: Client, system: Stack
) -> None:
    """No listener takes tokens from another, and none misses tokens from before it subscribed."""
    texts: dict[str, str] = {}

    async def listen(name: str, by: Client, run: str) -> None:
        texts[name] = "".join([token async for token in by.stream(run)])

    async with Client.connect(system.directory, as_="operator") as other, anyio.create_task_group() as tasks:
        tasks.start_soon(listen, "before it begins", other, "listened-1")
        submitted = await client.submit("desk", "tell me", run="listened-1")
        tasks.start_soon(listen, "from the beginning", client, submitted.run)
        async with aclosing(client.stream(submitted.run)) as tokens:
            # The first token was published: a listener from now on is late.
            await anext(tokens)
        tasks.start_soon(listen, "late", client, submitted.run)
        await client.outcome(submitted.run, timeout_s=SOON_S)
        tasks.start_soon(listen, "after the end", client, submitted.run)
    assert texts == dict.fromkeys(("before it begins", "from the beginning", "late", "after the end"), ANSWER_TEXT)


async def test_a_slow_listener_loses_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the pieces that were dropped while it was busy from the log."""
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
    """After a kill -9 of the server in the middle of an answer the lost pieces come from the log."""
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


async def test_an_answer_is_read_as_the_requested_type(client: Client) -> None:
    """A dataclass, a pydantic model, or the parsed JSON where the agent has an output schema."""
    outcome = await client.execute("quoter", "the price", output=Price, timeout_s=SOON_S)
    assert outcome.require() == Price(amount=42, currency="EUR")
    again = await client.outcome(outcome.run, output=PriceModel)
    assert again.answer == PriceModel(amount=42, currency="EUR")
    assert (await client.outcome(outcome.run)).answer == {"amount": 42, "currency": "EUR"}
    assert (await client.outcome(outcome.run, output=str)).answer == '{"amount": 42, "currency": "EUR"}'


async def test_an_answer_of_another_type_raises_an_error_with_one_sentence(client: Client) -> None:
    """The error names the run and the type, and the program sees no decoder error."""
    with pytest.raises(InputError, match="cannot be read as Price"):
        await client.execute("desk", "say hello", output=Price, timeout_s=SOON_S)
    with pytest.raises(InputError, match="cannot be read as PriceModel"):
        await client.execute("desk", "say hello", output=PriceModel, timeout_s=SOON_S)


async def test_execute_raises_an_error_for_a_refused_task(client: Client) -> None:
    """Waiting for its answer would not help."""
    with pytest.raises(Refused, match="no agent 'nobody'"):
        await client.execute("nobody", "say hello")


async def test_requiring_the_answer_of_a_run_without_one_raises_its_status_and_reason(client: Client) -> None:
    """So the program does not meet None later."""
    submitted = await client.submit("desk", "pay 5")
    await client.stop(submitted.run, by="ann", why="enough")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert outcome.answer is None
    with pytest.raises(errors.RunFailed, match="stopped: enough"):
        outcome.require()


async def test_an_outcome_names_its_user_its_times_and_its_model(client: Client) -> None:
    """It contains everything that a bill or a report needs."""
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
    """Missing fields are empty; its answer is a text, and can be read as a type."""
    answer = r'"{\"amount\":1,\"currency\":\"EUR\"}"'
    old = b'{"run":"r","tenant":"default","agent":"a","status":"completed","answer":%s}' % answer.encode()
    outcome = outcome_as(old)
    assert (outcome.user, outcome.labels, outcome.model, outcome.asked_at, outcome.ended_at) == ("", {}, "", None, None)
    assert outcome.answer == '{"amount":1,"currency":"EUR"}'
    assert outcome_as(old, Price).answer == Price(amount=1, currency="EUR")


# --- outcomes ----------------------------------------------------------------------------------------------


async def _submit(client: Client, name: str, agent: str = "desk") -> str:
    return (await client.execute(agent, "the price", run=name, timeout_s=SOON_S)).run


async def test_outcomes_without_a_position_begin_now(client: Client) -> None:
    """Only runs of the named agent that end from now on are returned."""
    await _submit(client, "earlier")
    with anyio.fail_after(SOON_S):
        async with client.outcomes(agent="quoter", output=Price) as outcomes:
            await _submit(client, "of-another-agent")
            await _submit(client, "now", agent="quoter")
            outcome = await anext(outcomes)
    assert (outcome.run, outcome.answer) == ("now", Price(42, "EUR"))


async def test_a_listener_with_a_name_loses_and_repeats_nothing_over_restarts(client: Client, system: Stack) -> None:
    """Each restart is a new client; only the outcome that was being handled in a crash is returned again."""
    names = [await _submit(client, f"run-{n}", agent="quoter") for n in range(5)]
    handled: list[str] = []

    async def work(until: str, *, crash: bool) -> None:
        async with (
            Client.connect(system.directory) as again,
            again.outcomes(agent="quoter", position="billing") as outcomes,
        ):
            async for outcome in outcomes:
                if outcome.run == until and crash:
                    raise RuntimeError
                handled.append(outcome.run)
                if outcome.run == until:
                    break

    with anyio.fail_after(SOON_S):
        await work("run-1", crash=False)
        with pytest.raises(RuntimeError):
            await work("run-3", crash=True)
        await work("run-4", crash=False)
    assert [run for run in handled if run.startswith("run-")] == names


async def test_a_loop_that_is_left_by_break_needs_no_cleanup(client: Client, system: Stack) -> None:
    """The listener is closed with its client, so the program prints no warning at its end."""
    await _submit(client, "left-1", agent="quoter")
    program = await anyio.run_process([sys.executable, "-c", LEAVES, str(system.directory)], check=False)
    assert (program.stdout, program.stderr) == (b"quoter\n", b"")


async def test_a_loop_that_is_cancelled_between_outcomes_has_handled_them(client: Client, system: Stack) -> None:
    """An outcome counts as handled when the next is requested: a worker that ends while it waits repeats nothing."""
    await _submit(client, "waits-1", agent="quoter")
    runs: list[str] = []
    for _ in range(2):
        async with Client.connect(system.directory) as again:
            with anyio.move_on_after(0.5):
                async for outcome in again.outcomes(agent="quoter", position="waiter"):
                    runs += [outcome.run]
    assert len(runs) == len(set(runs)) > 0


async def _first_of(listener: Listener[Outcome[Any]], leave: str) -> str:
    async for outcome in listener:
        if "save" in leave:
            await listener.save()
        if "error" in leave or "caught" in leave:
            raise RuntimeError(outcome.run)
        if "return" in leave:
            return outcome.run
        break
    else:
        raise AssertionError("the listener returned nothing")
    return outcome.run


async def _leave_loop(directory: Path, position: str, leave: str) -> str:
    """Leave a loop in this way; return the last outcome's run."""
    async with Client.connect(directory) as client:
        listener = client.outcomes(agent="quoter", position=position)
        if "block" not in leave:
            return await _first_of(listener, leave)
        async with listener as entered:
            try:
                return await _first_of(entered, leave)
            except RuntimeError as error:
                if "caught" not in leave:
                    raise
                return str(error)


@pytest.mark.parametrize(
    ("leave", "again", "warns"),
    [
        ("break", True, True),
        ("break in a block", False, False),
        ("return in a block", False, False),
        ("save and break", False, False),
        ("error", True, True),
        ("error in a block", True, False),
        ("caught in a block", False, False),
    ],
)
async def test_an_outcome_counts_as_handled_if_its_block_is_left_without_an_error(
    client: Client, system: Stack, caplog: pytest.LogCaptureFixture, leave: str, *, again: bool, warns: bool
) -> None:
    """Decision 044: every way of leaving a loop; without a block the outcome is returned again, with a warning."""
    for n in range(2):
        await _submit(client, f"left-{leave.replace(' ', '-')}-{n}", agent="quoter")
    position = leave.replace(" ", "-")

    with anyio.fail_after(SOON_S):
        try:
            handled = await _leave_loop(system.directory, position, leave)
        except RuntimeError as error:
            handled = str(error)
        async with client.outcomes(agent="quoter", position=position) as outcomes:
            outcome = await anext(outcomes)
    assert (outcome.run == handled) is again
    warnings = [record.getMessage() for record in caplog.records if record.name == "linestop.client"]
    assert bool(warnings) is warns
    assert all(f"Position '{position}'" in warning for warning in warnings)


def _sync_outcomes(directory: Path) -> list[str]:
    runs: list[str] = []
    with SyncClient.connect(directory) as client:
        for _ in range(2):
            with client.outcomes(agent="quoter", position="sync") as outcomes:
                for outcome in outcomes:
                    runs.append(outcome.run)
                    break
    return runs


async def test_a_blocking_program_counts_outcomes_in_the_same_way(client: Client, system: Stack) -> None:
    """With ``with`` instead of ``async with``."""
    for n in range(2):
        await _submit(client, f"blocking-{n}", agent="quoter")
    with anyio.fail_after(SOON_S):
        first, second = await anyio.to_thread.run_sync(_sync_outcomes, system.directory)
    assert first != second


async def test_a_caller_whose_wait_was_cancelled_can_wait_again(client: Client) -> None:
    """The listener continues at the same position."""
    async with client.outcomes(agent="quoter") as outcomes:
        for n in range(2):
            with anyio.move_on_after(0):
                await anext(outcomes)
            await _submit(client, f"again-{n}", agent="quoter")
            with anyio.fail_after(SOON_S):
                assert (await anext(outcomes)).run == f"again-{n}"
    with pytest.raises(StopAsyncIteration):
        await anext(outcomes)


async def test_of_two_listeners_with_one_name_one_gets_a_conflict(client: Client) -> None:
    """Otherwise each would miss the outcomes that the other took."""
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


async def test_a_program_can_continue_after_a_position_that_it_stored_itself(client: Client) -> None:
    """A program that stores the position together with its own result handles each outcome exactly once."""
    for n in range(2):
        await _submit(client, f"own-{n}", agent="quoter")
    with anyio.fail_after(SOON_S):
        position = 0
        async for outcome in client.outcomes(agent="quoter", after=0):
            if outcome.run == "own-0":
                position = outcome.position
                break
        following = await anext(client.outcomes(agent="quoter", after=position))
    assert following.run == "own-1"
    with pytest.raises(InputError, match="belongs to another broker"):
        await anext(client.outcomes(after=10_000))
    with pytest.raises(InputError, match="either"):
        client.outcomes(after=1, position="x")


# --- alerts ------------------------------------------------------------------------------------------------


async def test_alerts_reach_only_a_credential_that_may_read_them(client: Client, system: Stack) -> None:
    """A question causes an alert; a client without the permission gets an error at once."""
    async with Client.connect(system.directory, as_="operator") as operator, operator.alerts() as alerts:
        submitted = await client.submit("desk", "pay 5")
        with anyio.fail_after(SOON_S):
            alert = await anext(alerts)
    assert (alert.kind, alert.run, alert.agent, alert.tenant) == ("approval-asked", submitted.run, "desk", "default")
    assert alert.event["calls"][0]["tool"] == "pay"
    assert alert.at.endswith("Z")
    with pytest.raises(PermissionDenied), anyio.fail_after(SOON_S):
        await anext(client.alerts())


async def test_programs_without_a_loop_follow_too(system: Stack) -> None:
    """The same from a thread, blocking."""

    def work() -> tuple[str, Outcome[Price], str]:
        with SyncClient.connect(system.directory) as client:
            run = client.submit("quoter", "the price").run
            tokens = "".join(client.stream(run))
            outcome = client.execute("quoter", "the price", output=Price, timeout_s=SOON_S)
            first = next(client.outcomes(agent="quoter", after=0))
            return tokens, outcome, first.agent

    tokens, outcome, agent = await anyio.to_thread.run_sync(work)
    assert tokens == '{"amount": 42, "currency": "EUR"}'
    assert (outcome.require().amount, agent) == (42, "quoter")
