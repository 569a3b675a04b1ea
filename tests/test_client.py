"""The client with all of linestop: a real server, all roles, a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.stack import Stack, person_with_key, stack

import linestop
from linestop import (
    Client,
    InputError,
    NotFound,
    PermissionDenied,
    Refused,
    SyncClient,
    TimedOut,
    Unreachable,
)
from linestop.bus.access.credentials import Credential, write_credential
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.bus.streams.stream_definitions import consumers
from linestop.client import DeadLetter, sender, waiting
from linestop.client.credentials import load_key
from linestop.client.result_types import Receipt
from linestop.errors import ConfigError, TooLarge
from linestop.schemas.defaults import INLINE_BYTES_MAX, Limits
from linestop.schemas.events import Granted, Policy, Sealed
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

SOON_S = 20.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module: the stack lives in it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncGenerator[Stack]:
    """All of linestop, running."""
    assert anyio_backend == "asyncio"
    async with stack(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture
async def client(system: Stack) -> AsyncGenerator[Client]:
    """A client that submits, watches and stops."""
    async with Client.connect(system.directory) as connected:
        yield connected


@pytest.fixture
async def operator(system: Stack) -> AsyncGenerator[Client]:
    """A client that may also decide."""
    async with Client.connect(system.directory, as_="operator") as connected:
        yield connected


async def until(client: Client, run: str, condition: Callable[[Run], bool]) -> Run:
    """Follow a run until ``condition`` is true for it."""
    state = None
    with anyio.fail_after(SOON_S):
        async with contextlib.aclosing(client.watch(run)) as states:
            async for state, _ in states:
                if condition(state):
                    return state
    raise AssertionError(f"the run ended first: {state.sealed if state else 'never seen'}")


def waits(state: Run) -> bool:
    """Whether the run waits for a person."""
    return state.phase == "waiting"


# --- tasks -----------------------------------------------------------------------------------------------


async def test_a_task_is_submitted_and_its_outcome_is_returned(client: Client) -> None:
    """As every program does: submit, wait, use the answer."""
    submitted = await client.submit("desk", "say hello", user="ann", labels={"case": "1"})
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert submitted.status == "opened"
    assert (outcome.run, outcome.status, outcome.answer, outcome.agent) == (
        submitted.run,
        "completed",
        "Hello.",
        "desk",
    )
    assert outcome.cost_micros > 0


async def test_an_outcome_is_announced_and_not_polled_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A republished message wakes the waiting client long before the next poll."""
    monkeypatch.setattr(waiting, "POLL_S", 600)
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: client.stop(submitted.run, why="enough"))
        assert (await client.outcome(submitted.run, timeout_s=SOON_S)).status == "stopped"


async def test_the_outcome_of_a_run_that_is_over_is_returned_at_once(client: Client) -> None:
    """A late client gets the same outcome from the stream."""
    submitted = await client.submit("desk", "say hello")
    first = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert await client.outcome(submitted.run, timeout_s=SOON_S) == first


async def test_tasks_with_the_same_key_are_one_run(client: Client) -> None:
    """The same key and task are the same run; another task under it is refused and names that run."""
    first = await client.submit("desk", "say hello", key="ticket-1")
    again = await client.submit("desk", "say hello", key="ticket-1")
    other = await client.submit("desk", "say hello, louder", key="ticket-1")
    assert again == first
    assert other.status == "refused"
    assert first.run in other.sentence


async def test_a_task_for_an_unknown_agent_is_refused_with_a_sentence(client: Client) -> None:
    """A refused task has an outcome like every other task."""
    submitted = await client.submit("nobody-there", "say hello", user="ann", labels={"case": "7"}, key="for-nobody")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert (submitted.status, outcome.status) == ("refused", "refused")
    assert (outcome.user, outcome.labels, outcome.key) == ("ann", {"case": "7"}, "for-nobody")
    assert outcome.asked_at is not None
    assert outcome.ended_at is not None
    assert outcome.asked_at <= outcome.ended_at
    assert "nobody-there" in submitted.sentence


async def test_an_invalid_task_is_refused_before_it_is_sent(client: Client) -> None:
    """The error names the wrong type or name, which the caller must correct."""
    with pytest.raises(InputError, match="agent 'No Name'"):
        await client.submit("No Name", "say hello")
    with pytest.raises(InputError, match="labels"):
        await client.submit("desk", "say hello", labels={"case": 1})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="run 'A B'"):
        await client.submit("desk", "say hello", run="A B")
    with pytest.raises(InputError, match="the field 'materal' is not known; perhaps 'material' is meant"):
        await client.submit("desk", "say hello", materal="a letter")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def test_a_task_that_no_actor_opens_is_stored_and_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no actor alive a task is still stored: the status says so, and the task is done once actors run."""
    monkeypatch.setattr("linestop.client.client.REPLY_WAIT_S", 0.2)
    async with stack(tmp_path, actors=False) as idle, Client.connect(tmp_path) as client:
        submitted = await client.submit("desk", "say hello")
        assert submitted.status == "kept"
        assert "no validator has opened it" in submitted.sentence
        with pytest.raises(TimedOut, match="is still running"):
            await client.outcome(submitted.run, timeout_s=0.1)
        async with idle.actors():
            assert (await client.outcome(submitted.run, timeout_s=SOON_S)).answer == "Hello."


async def test_a_task_carries_cloudevents_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers tell other services the type, the time and the run of a task."""
    monkeypatch.setattr("linestop.client.client.REPLY_WAIT_S", 0.1)
    async with stack(tmp_path, actors=False) as idle, Client.connect(tmp_path) as client:
        received_headers: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        submitted = await client.submit("desk", "say hello", wait_opened=False)
        async with await connect(idle.server.credential("validator"), name="test") as other:
            stream = JetStream(other)
            spec = next(spec for spec in consumers() if spec.name == "tasks")
            async for delivery in stream.queue(spec).deliveries():
                received_headers.set_result(delivery.headers)
                break
    headers = received_headers.result()
    assert headers["ce-specversion"] == "1.0"
    assert headers["ce-type"] == sender.TASK_TYPE
    assert headers["ce-subject"] == submitted.run
    assert headers["ce-datacontenttype"] == "application/json"
    assert headers["ce-time"].endswith("Z")
    assert headers["Nats-Msg-Id"] == headers["ce-id"]
    assert "Linestop-Reply" not in headers


# --- reading ---------------------------------------------------------------------------------------------


async def test_events_are_numbered_and_decoded_and_end_with_the_seal(client: Client) -> None:
    """The whole log without a gap, from its beginning or from any event."""
    submitted = await client.submit("desk", "look")
    entries = [entry async for entry in client.events(submitted.run, follow=True)]
    assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
    assert (entries[0].role, entries[0].name) == ("validator", "opened")
    assert entries[-1].name == "sealed"
    assert all(entry.event is not None and not entry.ignored for entry in entries)
    tail = [entry async for entry in client.events(submitted.run, after_n=5)]
    assert [entry.n for entry in tail] == list(range(6, len(entries) + 1))


async def test_a_forged_event_is_shown_as_ignored(client: Client, operator: Client) -> None:
    """An event outside the chain is shown with the reason, and changes nothing."""
    submitted = await client.submit("desk", "say hello")
    await client.outcome(submitted.run, timeout_s=SOON_S)
    subject = f"runs.default.{submitted.run}.operator.stopped.99"
    await operator.bus.wire.request(subject, b'{"id":"x","prev":"y","by":"eve","why":"fun"}')
    entries = [entry async for entry in client.events(submitted.run)]
    assert (entries[-1].n, entries[-1].role) == (0, "operator")
    assert "number is 99" in entries[-1].ignored
    assert (await client.run(submitted.run)).stopped is None


async def test_a_run_can_be_watched_before_it_begins(client: Client) -> None:
    """The watcher misses nothing."""
    entries: list[Entry] = []

    async def watch() -> None:
        entries.extend([entry async for entry in client.events("first-watched", follow=True)])

    with anyio.fail_after(SOON_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await client.submit("desk", "say hello", run="first-watched")
    assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
    assert entries[-1].name == "sealed"


async def test_a_watcher_whose_hints_are_lost_still_sees_everything(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Republished messages are only hints: without any, the next poll finds the events."""

    def lose(_hints: waiting.Hints, _seq: int = 0) -> None:
        """Lose the hint."""

    monkeypatch.setattr(waiting.Hints, "announce", lose)
    monkeypatch.setattr(waiting, "POLL_S", 0.02)
    submitted = await client.submit("desk", "look")
    names = [entry.name async for entry in client.events(submitted.run, follow=True)]
    assert names[-1] == "sealed"


async def test_a_watcher_survives_a_crash_of_the_broker(tmp_path: Path) -> None:
    """After a kill -9 of the server in the middle the watcher continues at the same event, without a gap."""
    seen_n: list[int] = []
    async with (
        stack(tmp_path) as running,
        Client.connect(tmp_path) as client,
        Client.connect(tmp_path, as_="operator") as operator,
    ):
        submitted = await client.submit("desk", "pay 5")
        with anyio.fail_after(60):
            async for state, entry in client.watch(submitted.run):
                seen_n.append(entry.n)
                if waits(state):
                    os.kill(running.server.pid, signal.SIGKILL)
                    await operator.approve(submitted.run, by="ann")
    assert seen_n == list(range(1, len(seen_n) + 1))
    assert running.effects.paid == [5]


async def test_a_client_that_waits_reads_again_after_each_reconnect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that were announced while the connection was lost are not announced again, so the client reads."""
    monkeypatch.setattr(waiting, "POLL_S", 600)
    async with (
        stack(tmp_path, actors=False) as idle,
        Client.connect(tmp_path) as client,
        waiting.watch_hints(client.bus.wire, "live.runs.nobody.>") as hints,
    ):
        os.kill(idle.server.pid, signal.SIGKILL)
        with anyio.fail_after(SOON_S):
            await hints.wait()
            await client.runs(limit=1)


async def test_a_run_that_does_not_exist_is_not_found(client: Client) -> None:
    """A wrong name is an error, not an empty result."""
    with pytest.raises(NotFound, match="no run 'nowhere'"):
        await client.run("nowhere")
    with pytest.raises(NotFound, match="no run 'nowhere'"):
        _ = [entry async for entry in client.events("nowhere")]
    with pytest.raises(InputError, match="run 'no way'"):
        await client.run("no way")


async def test_runs_are_listed_newest_first(client: Client) -> None:
    """The list shows how each run ended or its phase, and at most as many runs as requested."""
    first = await client.submit("desk", "say hello", user="ann")
    await client.outcome(first.run, timeout_s=SOON_S)
    second = await client.submit("desk", "pay 5")
    await until(client, second.run, waits)
    listed = await client.runs(limit=2)
    assert [(line.run, line.status) for line in listed] == [(second.run, "waiting"), (first.run, "completed")]
    assert (listed[1].user, listed[1].text) == ("ann", "say hello")
    still_open = {line.run for line in await client.runs(open_only=True)}
    assert second.run in still_open
    assert first.run not in still_open
    assert await client.runs(tenant="somebody-else") == []


async def test_the_newest_runs_are_found_however_old(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search goes back in growing steps until there are enough runs."""
    for _ in range(3):
        await client.outcome((await client.submit("desk", "say hello")).run, timeout_s=SOON_S)
    newest = [line.run for line in await client.runs(limit=3)]
    assert len(newest) == 3
    monkeypatch.setattr("linestop.client.run_reader.WINDOW_MESSAGES", 1)
    assert [line.run for line in await client.runs(limit=3)] == newest


# --- people ----------------------------------------------------------------------------------------------


async def test_a_question_shows_the_exact_call_and_its_approval_performs_it_once(
    system: Stack, client: Client, operator: Client
) -> None:
    """The call that is shown is the call that is approved and performed."""
    before = len(system.effects.paid)
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    question = next(q for q in await client.approvals() if q.run == submitted.run)
    assert (question.kind, question.tool, question.tier) == ("approval", "pay", "irreversible")
    assert msgspec.json.decode(question.args)["amount"] == 5
    await operator.approve(submitted.run, question.call, by="ann", why="small enough")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert outcome.status == "completed"
    assert system.effects.paid[before:] == [5]
    granted = next(e.event for e in (await client.run(submitted.run)).entries if isinstance(e.event, Granted))
    assert (granted.by, granted.why, granted.args_sha256) == ("ann", "small enough", question.args_sha256)
    assert not await client.questions(submitted.run)


async def test_a_denied_call_is_not_performed(system: Stack, client: Client, operator: Client) -> None:
    """The model reads who denied the call and why."""
    before = len(system.effects.paid)
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    await operator.deny(submitted.run, by="ann", why="too much")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert "too much" in str(outcome.answer)
    assert len(system.effects.paid) == before


async def test_an_edit_approves_the_new_arguments(system: Stack, client: Client, operator: Client) -> None:
    """In one step; invalid arguments are refused, and the question stays open."""
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    before = await client.questions(submitted.run)
    with pytest.raises(Refused, match=r"cannot be made with these arguments: \$\.amount: \"3\" is not of type"):
        await operator.edit(submitted.run, {"amount": "3"}, by="ann")
    assert await client.questions(submitted.run) == before
    await operator.edit(submitted.run, {"amount": 3}, by="ann")
    await client.outcome(submitted.run, timeout_s=SOON_S)
    assert system.effects.paid[-1] == 3


async def test_a_question_of_the_model_is_answered(client: Client) -> None:
    """The client's own credential may answer."""
    submitted = await client.submit("desk", "ask")
    await until(client, submitted.run, waits)
    question = (await client.questions(submitted.run))[0]
    assert (question.kind, question.text, question.options) == ("question", "Which colour?", ("red", "blue"))
    await client.answer(submitted.run, "blue", by="ann")
    assert "blue" in str((await client.outcome(submitted.run, timeout_s=SOON_S)).answer)


async def test_a_call_with_an_unknown_outcome_is_resolved(client: Client, operator: Client) -> None:
    """Its outcome stays unknown until a person decides."""
    submitted = await client.submit("desk", "doubt")
    await until(client, submitted.run, lambda run: any(c.asked_about_outcome for c in run.calls.values()))
    question = (await client.questions(submitted.run))[0]
    assert question.kind == "doubt"
    await operator.resolve(submitted.run, "done", call=question.call, result={"found": "in the books"}, by="ann")
    assert "in the books" in str((await client.outcome(submitted.run, timeout_s=SOON_S)).answer)


async def test_a_text_that_no_message_can_carry_is_refused_before_it_is_sent(client: Client, operator: Client) -> None:
    """An unpaired surrogate cannot be encoded, and a text that is too long is refused with its size."""
    with pytest.raises(InputError, match="The task contains an unpaired surrogate"):
        await client.submit("desk", "caf\udce9")
    with pytest.raises(TooLarge, match=r"The task has 30\d{4} bytes; a message may have at most 262144: shorten it"):
        await client.submit("desk", "x" * 300_000)
    with pytest.raises(InputError, match="The pause contains an unpaired surrogate"):
        await operator.pause("any", why="\ud800")
    run, shared = (await client.submit("desk", "doubt")).run, list[object]()
    await until(client, run, lambda state: any(c.asked_about_outcome for c in state.calls.values()))
    call = (await client.questions(run))[0].call
    for _ in range(40):
        shared = [shared, shared]
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(
            InputError, match=r"The answer contains NaN or an infinity, which JSON cannot express: send null"
        ):
            await operator.event(run, "paid", {"cents": [1, number]})
        with pytest.raises(InputError, match=r"The edit contains NaN or an infinity"):
            await operator.edit(run, {"cents": number}, call=call)
    with pytest.raises(TooLarge, match=r"The answer (has too many bytes|holds too many lists)"):
        await operator.event(run, "paid", shared)


async def test_a_decision_that_changes_nothing_is_refused_with_the_reason(client: Client, operator: Client) -> None:
    """The approval of a call that does not wait for a person, or does not exist, is refused and not sent."""
    submitted = await client.submit("desk", "look")
    await client.outcome(submitted.run, timeout_s=SOON_S)
    call = next(iter((await client.run(submitted.run)).calls))
    with pytest.raises(Refused, match="does not wait for a person"):
        await operator.approve(submitted.run, call)
    with pytest.raises(NotFound, match="has no call 'c9'"):
        await operator.approve(submitted.run, "c9")
    with pytest.raises(Refused, match="is over and asks no question"):
        await operator.approve(submitted.run)
    with pytest.raises(Refused, match="is over"):
        await client.pause(submitted.run)


async def test_a_client_that_may_not_decide_is_refused_at_once(client: Client) -> None:
    """The broker refuses the message, and the error names subject and credential."""
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    with anyio.fail_after(5), pytest.raises(PermissionDenied, match="'client' may not publish"):
        await client.approve(submitted.run)


async def test_decisions_are_signed_with_the_persons_key_if_required(tmp_path: Path) -> None:
    """With people configured, an unsigned approval is refused, and a signed one counts under that name."""
    people = {"ann": person_with_key(tmp_path, "ann")}
    async with stack(tmp_path, people=people), Client.connect(tmp_path, as_="operator") as operator:
        submitted = await operator.submit("desk", "pay 5")
        await until(operator, submitted.run, waits)
        with pytest.raises(Refused, match="must be signed"):
            await operator.approve(submitted.run, by="bob")
        await operator.approve(submitted.run, by="ann")
        await operator.outcome(submitted.run, timeout_s=SOON_S)
        state = await operator.run(submitted.run)
    granted = next(e.event for e in state.entries if isinstance(e.event, Granted))
    assert (granted.by, granted.key_id, bool(granted.signature), bool(granted.nonce)) == ("ann", "ann", True, True)


async def test_long_arguments_and_answers_are_fetched(tmp_path: Path) -> None:
    """A text that is stored as a blob is shown whole."""
    note = "n" * (INLINE_BYTES_MAX + 1)
    script = (
        f'name = "desk"\n[[step]]\ncall = [{{ tool = "pay", args = {{ amount = 1, note = "{note}" }} }}]\n'
        f'[[step]]\nsay = "{{{{last_result}}}}"'
    )
    async with stack(tmp_path, playbook=script) as running, Client.connect(tmp_path) as client:
        await running.deploy(limits=Limits(model_output_tokens_max=20_000, cost_max_micros=5_000_000))
        submitted = await client.submit("desk", "go")
        await until(client, submitted.run, waits)
        question = (await client.questions(submitted.run))[0]
    assert msgspec.json.decode(question.args) == {"amount": 1, "note": note}


# --- stopping --------------------------------------------------------------------------------------------


async def test_a_stop_returns_when_it_is_in_the_log_and_lists_the_open_starts(tmp_path: Path) -> None:
    """The receipt names the event and the start that may still take effect."""
    async with stack(tmp_path) as running, Client.connect(tmp_path, as_="operator") as operator:
        submitted = await operator.submit("desk", "hang")
        await running.effects.hanging.wait()
        receipt = await operator.stop(submitted.run, why="enough", by="ann")
        again = await operator.stop(submitted.run, why="really")
        outcome = await operator.outcome(submitted.run, timeout_s=SOON_S)
        entries = {entry.n: entry async for entry in operator.events(submitted.run)}
    assert (receipt.by, receipt.why, receipt.already) == ("ann", "enough", False)
    assert (entries[receipt.n].role, entries[receipt.n].name) == ("operator", "stopped")
    assert [start.attempt for start in receipt.open] == [1]
    assert (again.n, again.why, again.already) == (receipt.n, "enough", True)
    assert (outcome.status, outcome.why) == ("stopped", "enough")
    # A read that was cancelled leaves no unknown outcome.
    sealed = [entry.event for entry in entries.values() if isinstance(entry.event, Sealed)]
    assert [fate.fate for event in sealed for fate in event.receipt] == ["failed"]


async def test_a_client_stops_through_the_roles(client: Client) -> None:
    """Without the operator's credential the first role that sees the stop appends it."""
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    receipt = await client.stop(submitted.run, why="never mind", by="ann")
    entry = next(e for e in (await client.run(submitted.run)).entries if e.n == receipt.n)
    assert (entry.name, receipt.by, receipt.why, receipt.already) == ("stopped", "ann", "never mind", False)
    assert entry.role != "operator"


async def test_a_run_is_stopped_with_no_actor_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's stop needs no actor; a client's stop is stored, and the error says so."""
    monkeypatch.setattr(sender, "REPLY_WAIT_S", 0.2)
    async with (
        stack(tmp_path, actors=False) as idle,
        Client.connect(tmp_path) as client,
        Client.connect(tmp_path, as_="operator") as operator,
    ):
        async with idle.actors():
            submitted = await client.submit("desk", "pay 5")
            await until(client, submitted.run, waits)
            waiting_run = await client.submit("desk", "pay 6")
            await until(client, waiting_run.run, waits)
        receipt = await operator.stop(submitted.run, why="fire drill")
        with pytest.raises(TimedOut, match="it is stored"):
            await client.stop(waiting_run.run, why="drill")
        assert (await client.run(submitted.run)).stopped is not None
        async with idle.actors():
            assert (await client.outcome(submitted.run, timeout_s=SOON_S)).status == "stopped"
            assert (await client.outcome(waiting_run.run, timeout_s=SOON_S)).why == "drill"
    assert receipt.n > 0
    assert idle.effects.paid == []


async def test_a_run_may_be_stopped_before_it_begins(client: Client, operator: Client) -> None:
    """The stop is event 1, and a later task for that run is refused."""
    receipt = await operator.stop("not-yet", why="not this one")
    submitted = await client.submit("desk", "say hello", run="not-yet")
    assert receipt.n == 1
    assert submitted.status == "refused"


async def test_a_run_that_is_over_cannot_be_stopped(client: Client, operator: Client) -> None:
    """There is nothing to stop, and the error says how the run ended."""
    submitted = await client.submit("desk", "say hello")
    await client.outcome(submitted.run, timeout_s=SOON_S)
    for either in (client, operator):
        with pytest.raises(Refused, match="is over"):
            await either.stop(submitted.run, why="late")


async def test_the_outcome_of_a_run_that_was_stopped_before_it_began_is_found(client: Client, operator: Client) -> None:
    """The run had no agent, so the outcome is published under ``none``; a client that waits for it still gets it."""
    run = "never-began"
    outcomes: list[Outcome] = []

    async def wait() -> None:
        outcomes.append(await client.outcome(run, timeout_s=SOON_S))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await operator.stop(run, why="not this one")
    submitted = await client.submit("desk", "say hello", run=run)
    after = await client.outcome(run, timeout_s=SOON_S)
    assert submitted.status == "refused"
    assert outcomes == [after]
    assert (after.status, after.agent, after.why) == ("stopped", "none", "not this one")


@pytest.mark.parametrize("state", ["waiting", "paused", "acting", "unknown"])
@pytest.mark.parametrize("as_", ["client", "operator"])
async def test_a_run_is_stopped_in_every_state(client: Client, operator: Client, *, as_: str, state: str) -> None:
    """The run waits for a person, is paused, performs a tool call, or does not exist."""
    run = f"stop-{state}-{as_}"
    if state != "unknown":
        await client.submit("desk", "hang" if state == "acting" else "pay 5", run=run)
        await until(client, run, lambda at: bool(at.open_attempts and at.calls) if state == "acting" else waits(at))
    if state == "paused":
        await client.pause(run, by="ann")
    receipt = await (client if as_ == "client" else operator).stop(run, why="enough", by="bob")
    assert (receipt.by, receipt.why, receipt.already) == ("bob", "enough", False)
    assert len(receipt.open) == (1 if state == "acting" else 0)
    outcome = await client.outcome(run, timeout_s=SOON_S)
    assert (outcome.status, outcome.cause, outcome.why) == ("stopped", "person", "enough")


async def test_of_two_simultaneous_stops_one_counts_and_both_receipts_name_it(client: Client, operator: Client) -> None:
    """Through the roles and directly, at the same moment, ten times."""
    for _ in range(10):
        submitted = await client.submit("desk", "pay 5")
        await until(client, submitted.run, waits)
        receipts: dict[str, Receipt] = {}

        async def stop(
            by: str, sender: Client, run: str = submitted.run, receipts_by_person: dict[str, Receipt] = receipts
        ) -> None:
            receipts_by_person[by] = await sender.stop(run, by=by, why=f"{by} says so")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop, "ann", client)
            tasks.start_soon(stop, "bob", operator)
        state = await client.run(submitted.run)
        assert state.stopped is not None
        assert {by: receipt.already for by, receipt in receipts.items()} == {
            "ann": state.stopped.by != "ann",
            "bob": state.stopped.by != "bob",
        }
        assert len({(receipt.n, receipt.why) for receipt in receipts.values()}) == 1
        assert sum(entry.name == "stopped" for entry in state.entries) == 1


@pytest.mark.parametrize("as_", ["client", "operator"])
@pytest.mark.parametrize("why", ["w" * 300_000, "half \udcff a letter"], ids=["endless", "no-text"])
async def test_a_stop_is_not_lost_because_of_its_text(client: Client, operator: Client, *, as_: str, why: str) -> None:
    """A long text is cut, and an unpaired surrogate is replaced."""
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    receipt = await (client if as_ == "client" else operator).stop(submitted.run, by="ann", why=why)
    assert not receipt.already
    assert receipt.why == why[:2_000].replace("\udcff", "?")


async def test_an_invalid_stop_is_refused_before_it_is_sent(client: Client, operator: Client) -> None:
    """A mode that does not exist, and names that are not valid."""
    for either in (client, operator):
        with pytest.raises(InputError, match="no stop mode 'kill': use fence or drain"):
            await either.stop("r1", mode="kill")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match="run 'R 1' is not a name"):
            await either.stop("R 1")
        with pytest.raises(InputError, match=r"tenant 'a\.b' is not a name"):
            await either.stop("r1", tenant="a.b")


async def test_a_second_stop_cancels_calls_that_the_first_let_finish(client: Client, operator: Client) -> None:
    """A stop with ``drain`` lets a tool continue; a person who cannot wait stops the run again."""
    submitted = await client.submit("desk", "hang")
    await until(client, submitted.run, lambda state: bool(state.calls and state.open_attempts))
    drained = await operator.stop(submitted.run, by="ann", why="after this", mode="drain")
    with pytest.raises(TimedOut):
        await client.outcome(submitted.run, timeout_s=0.5)
    assert (await client.run(submitted.run)).open_attempts
    again = await client.stop(submitted.run, by="bob", why="now")
    outcome = await client.outcome(submitted.run, timeout_s=SOON_S)
    assert (drained.already, again.already, again.n) == (False, True, drained.n)
    assert (outcome.status, outcome.why) == ("stopped", "after this")


async def test_a_stop_whose_reply_is_lost_is_found_in_the_log(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply is a courtesy on core NATS; a stop that is in the log does not end in ``TimedOut``."""
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)

    async def lose(future: asyncio.Future[object], wait_s: float) -> None:
        await waiting.reply_within(future, wait_s)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(sender, "reply_within", lose)
    receipt = await client.stop(submitted.run, by="ann", why="enough")
    assert (receipt.by, receipt.already) == ("ann", False)
    assert receipt.n > 0


async def test_a_paused_run_starts_nothing_until_it_is_resumed(system: Stack, client: Client, operator: Client) -> None:
    """During a pause a decision counts, but the call is performed only after the pause."""
    before = len(system.effects.paid)
    submitted = await client.submit("desk", "pay 5")
    await until(client, submitted.run, waits)
    await client.pause(submitted.run, by="ann", why="wait")
    with pytest.raises(Refused, match="paused already"):
        await client.pause(submitted.run)
    await operator.approve(submitted.run, by="ann")
    assert (await client.runs(limit=1))[0].status == "paused"
    assert len(system.effects.paid) == before
    await client.resume(submitted.run, by="ann")
    assert (await client.outcome(submitted.run, timeout_s=SOON_S)).status == "completed"
    assert system.effects.paid[before:] == [5]


async def test_spending_beyond_the_policy_needs_a_person(tmp_path: Path) -> None:
    """A question about spending has no call and is approved without one."""
    async with stack(tmp_path) as running, Client.connect(tmp_path, as_="operator") as operator:
        await running.deploy(limits=Limits(ask_from_micros=1), policy=Policy(ask_on_spend=True))
        submitted = await operator.submit("desk", "say hello")
        await until(operator, submitted.run, waits)
        assert (await operator.approvals())[0].kind == "spend"
        await operator.approve(submitted.run, by="ann")
        assert (await operator.outcome(submitted.run, timeout_s=SOON_S)).answer == "Hello."


# --- dead letters ----------------------------------------------------------------------------------------


async def dead_letters(operator: Client, count: int) -> list[DeadLetter]:
    """The dead letters as soon as there are ``count``; nothing announces them."""
    with anyio.fail_after(SOON_S):
        while len(listed := await operator.dead_letters()) < count:  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return listed


async def test_a_dead_letter_can_be_read_and_sent_again(client: Client, operator: Client) -> None:
    """A message that could not be handled is stored whole; once sent again, it is handled again."""
    await operator.bus.wire.request("tasks.Default.desk", b'{"text":"say hello"}')
    dead_letter = (await dead_letters(operator, 1))[0]
    assert (dead_letter.role, dead_letter.subject) == ("validator", "tasks.Default.desk")
    assert "does not have the form" in dead_letter.reason
    assert await operator.dead_letter(dead_letter.seq) == dead_letter
    await operator.requeue(dead_letter.seq)
    assert (await dead_letters(operator, 2))[1].subject == dead_letter.subject
    with pytest.raises(NotFound, match="no dead letter 99"):
        await operator.dead_letter(99)
    with pytest.raises(PermissionDenied):
        await client.dead_letters()


# --- connecting ------------------------------------------------------------------------------------------


async def test_a_client_connects_by_file_by_directory_and_by_address(system: Stack) -> None:
    """All three ways connect to the same broker."""
    credential = system.server.credential("client")
    clients = (
        Client.connect(system.directory / "credentials" / "client.json"),
        Client.connect(str(system.directory)),
        Client.connect(url=credential.url, user="client", seed=credential.seed),
    )
    for each in clients:
        async with each as client:
            assert await client.runs(limit=1) is not None


async def test_a_failed_connection_says_why(system: Stack, tmp_path: Path) -> None:
    """No state, no broker, a wrong key, an incomplete address: one sentence each."""
    with pytest.raises(ConfigError, match="no linestop state"):
        Client.connect(tmp_path / "nothing")
    with pytest.raises(InputError, match="needs a seed and a user"):
        Client.connect(url="nats://127.0.0.1:1", user="nobody")
    write_credential(
        tmp_path / "credentials" / "client.json", Credential(url="nats://127.0.0.1:1", user="client", password="x")
    )
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await Client(Client.connect(tmp_path).identity).open()
    with pytest.raises(PermissionDenied, match="refuses credential"):
        async with Client.connect(url=system.url, user="client", password="wrong"):
            pass
    with pytest.raises(InputError, match="not connected"):
        await Client.connect(system.directory).runs()


def test_a_persons_key_is_a_file_that_only_they_can_read(tmp_path: Path) -> None:
    """Keys are private files; a file that is not a key, or that others may read, is refused by name."""
    people, ann = tmp_path / "people", person_with_key(tmp_path, "ann")
    key = load_key(people, "ann")
    assert key is not None
    assert key.public_key().public_bytes_raw().hex() == ann.public_key
    assert load_key(people, "bob") is None
    assert load_key(None, "ann") is None
    assert load_key(people, "../ann") is None
    (people / "ann.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(people, "ann")
    (people / "bob.key").write_text("nonsense")
    (people / "bob.key").chmod(0o600)
    with pytest.raises(ConfigError, match="is not an Ed25519 key"):
        load_key(people, "bob")
    (people / "bob.key").write_text("0" * 100_000)
    with pytest.raises(ConfigError, match=r"bob\.key cannot be read: it has over 16384 bytes"):
        load_key(people, "bob")


# --- blocking --------------------------------------------------------------------------------------------


async def test_the_blocking_client_does_the_same(system: Stack) -> None:
    """Submit, watch, decide, stop and read, from a thread without an event loop."""

    def work() -> tuple[str, list[str], str]:
        with SyncClient.connect(system.directory, as_="operator") as client:
            submitted = client.submit("desk", "pay 5")
            names: list[str] = []
            for entry in client.events(submitted.run, follow=True):
                names.append(entry.name)
                if entry.name == "asked":
                    client.approve(submitted.run, by="ann")
            assert [entry.name for _, entry in client.watch(submitted.run)] == names
            assert [run.sealed is not None for run, _ in client.watch(submitted.run, after_n=len(names) - 1)] == [True]
            hanging = client.submit("desk", "ask")
            events = client.events(hanging.run, follow=True)
            next(events)
            events.close()
            client.stop(hanging.run, why="enough")
            return str(client.outcome(submitted.run).answer), names, client.outcome(hanging.run).status

    with anyio.fail_after(60):
        answer, names, stopped = await anyio.to_thread.run_sync(work)
    assert answer == 'Done: {"paid":5}'
    assert names[-1] == "sealed"
    assert stopped == "stopped"


def test_the_blocking_client_raises_the_same_errors(tmp_path: Path) -> None:
    """An error in the background loop is raised to the caller, and no thread is left behind."""
    write_credential(
        tmp_path / "credentials" / "client.json", Credential(url="nats://127.0.0.1:1", user="client", password="x")
    )
    client = SyncClient.connect(tmp_path)
    with pytest.raises(InputError, match="not connected: use it as"):
        client.submit("desk", "say hello")
    with pytest.raises(Unreachable), client:
        pass
    with pytest.raises(InputError, match="not connected: use it as"):
        next(client.events("any"))


# --- the public API --------------------------------------------------------------------------------------

HEAVY = ("nats", "anyio", "msgspec", "click", "rich", "structlog", "cryptography", "openai", "anthropic", "asyncio")


def test_importing_linestop_imports_nothing_heavy() -> None:
    """A program that only imports linestop loads none of its dependencies."""
    code = "import sys, linestop; print(*[m for m in sys.modules if m.partition('.')[0] in sys.argv[1:]])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_can_be_imported() -> None:
    """Every name in ``__all__`` is an attribute, and any other name is an AttributeError."""
    for name in linestop.__all__:
        assert getattr(linestop, name) is not None
    assert set(linestop.__all__) <= set(dir(linestop))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = linestop.nothing  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
