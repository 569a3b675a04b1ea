"""Every bad input to the real broker gets one clear sentence as a reply, nothing crashes, and other runs continue."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from tests.e2e.one_process import OneProcess, one_process
from tests.e2e.scene import TENANT, agent, log_lines

from linestop.errors import PermissionDenied, TooLarge
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.events import Policy
from linestop.schemas.messages import FIELD_CHARS_MAX, UNREADABLE, Reply
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

ASKING_PLAYBOOK = """
name = "asking"
[[step]]
when = {turn = 1}
call = [{tool = "move", args = {what = "it"}}]
[[step]]
when = {turn = 2}
say = "moved"
"""
TASKS = f"tasks.{TENANT}.clerk"
SENTENCE_CHARS_MAX = 600
NESTING_DEPTH = 60_000
_numbers = itertools.count(1)


@tool(tier="reversible", owner="e2e")
async def move(ctx: Context, what: str) -> str:
    """Move it.

    Args:
        what: What to move.
    """
    del ctx
    return f"moved {what}"


@pytest.fixture(scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[OneProcess]:
    """One process with every role, and an agent whose tool a person must approve."""
    assert anyio_backend == "asyncio"
    registry = Registry()
    registry.add(move, "e2e")
    async with one_process(tmp_path_factory.mktemp("bad"), (ASKING_PLAYBOOK,), registry) as process:
        version = agent(
            process.model_url, model="playbook/asking", tools=registry.contracts(), policy=Policy(ask=("move",))
        )
        await process.scene.deploy(version)
        yield process


@pytest.fixture(autouse=True)
async def assert_another_run_completes(one: OneProcess, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A run that waits for a person during the test completes as soon as the person approves."""
    run = f"other-{abs(hash(request.node.name))}"
    await one.scene.task(run)
    state = await one.scene.until(run, asked)
    yield
    await one.scene.control(run, "approve", call=call_of(state))
    state = await one.scene.until(run, lambda s: s.sealed is not None)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)


def asked(state: Run) -> bool:
    """Whether the run waits for a person."""
    return any(call.stage is Stage.ASKED for call in state.calls.values())


def call_of(state: Run) -> str:
    """The call that the run waits for."""
    return next(iter(state.calls))


def is_a_sentence(reply: Reply, *, containing: str) -> None:
    """The reply refuses in one clear sentence for people."""
    assert reply.status == "refused"
    assert containing.lower() in reply.sentence.lower()
    assert reply.sentence.endswith("."), reply.sentence
    assert "\n" not in reply.sentence
    assert "Traceback" not in reply.sentence
    assert len(reply.sentence) <= SENTENCE_CHARS_MAX


@pytest.mark.parametrize(
    ("payload", "containing"),
    [
        pytest.param(b"", "cannot be read", id="nothing"),
        pytest.param(b"do it", "cannot be read", id="words"),
        pytest.param(b'{"text": "go"', "cannot be read", id="half"),
        pytest.param(b"\xff\xfe\x00", "cannot be read", id="bytes"),
        pytest.param(b'{"text": "\xff"}', "cannot be read", id="not-utf-8"),
        pytest.param(b'{"text": "\\ud800"}', "cannot be read", id="half-a-surrogate"),
        pytest.param(b"[]", "cannot be read", id="a-list"),
        pytest.param(b"null", "cannot be read", id="null"),
        pytest.param(b'"go"', "cannot be read", id="a-string"),
        pytest.param(b"{}", "text", id="no-text"),
        pytest.param(b'{"text": 5}', "text", id="a-number"),
        pytest.param(b'{"text": null}', "text", id="null-text"),
        pytest.param(b'{"text": "go", "labels": {"a": 1}}', "labels", id="labels"),
        pytest.param(b'{"text": "go", "priority": 1e400}', "priority", id="infinite"),
        pytest.param(b'{"text": "go", "priority": 1' + b"0" * 5_000 + b"}", "cannot be read", id="a-long-number"),
        pytest.param(b'{"text": "go", "limits": {"turns_max": NaN}}', "cannot be read", id="nan"),
        pytest.param(b'{"text": "go", "limits": {"turns_max": -1}}', "turns_max", id="below-zero"),
        pytest.param(b'{"text": "go", "limits": {"turnz_max": 1}}', "turnz_max", id="no-such-limit"),
        pytest.param(b'{"text": "go", "limits": {"' + b"x" * 200_000 + b'": 1}}', "limit", id="a-long-limit"),
        pytest.param(b'{"text": "go", "limts": {}}', "'limts' is not known; perhaps 'limits' is", id="misspelt"),
        pytest.param(b'{"text": "go", "' + b"x" * 200_000 + b'": 1}', "not known", id="a-long-field"),
        pytest.param(b'{"text": "go", "run": "No Good"}', "run", id="bad-run"),
        pytest.param(b'{"text": "go", "run": "' + b"r" * 200_000 + b'"}', "run", id="long-run"),
        pytest.param(b'{"text": "go", "scope": ["fly"]}', "fly", id="no-such-tool"),
        pytest.param(b'{"text": "go", "scope": ["' + b"f" * 200_000 + b'"]}', "scope", id="a-long-tool"),
        pytest.param(b'{"text": "go", "scope": [' + b'"move",' * 30_000 + b'"move"]}', "scope", id="a-long-scope"),
        pytest.param(b'{"text": "   "}', "text", id="blank"),
        pytest.param(b'{"text": "' + b"x" * 20_001 + b'"}', "20000", id="a-long-text"),
        pytest.param(b'{"text": "go", "user": "' + b"u" * 261_000 + b'"}', "user", id="a-long-user"),
        pytest.param(b'{"text": "go", "key": "' + b"k" * 261_000 + b'"}', "key", id="a-long-key"),
        pytest.param(b'{"text": "go", "thread": "' + b"t" * 261_000 + b'"}', "thread", id="a-long-thread"),
        pytest.param(b"[" * NESTING_DEPTH, "cannot be read", id="bomb"),
        pytest.param(b'{"text": ' + b'{"a":' * (NESTING_DEPTH // 5) + b"1", "cannot be read", id="bomb-in-a-field"),
        pytest.param(
            b'{"text": "go", "unknown": ' + b"[" * NESTING_DEPTH, "cannot be read", id="bomb-in-an-unknown-field"
        ),
    ],
)
async def test_a_bad_task_is_refused_in_one_sentence(one: OneProcess, payload: bytes, containing: str) -> None:
    """It gets a reply, and an outcome with the same sentence."""
    reply = await one.publish_and_wait(TASKS, payload)
    is_a_sentence(reply, containing=containing)
    outcome = await one.scene.outcome(reply.run)
    assert (outcome["status"], outcome["why"]) == ("refused", reply.sentence)


async def test_a_task_for_an_unknown_agent_is_refused_by_name(one: OneProcess) -> None:
    """The sentence names the agent, and the outcome is published under that agent."""
    reply = await one.publish_and_wait(f"tasks.{TENANT}.nobody", b'{"text": "go"}')
    is_a_sentence(reply, containing="nobody")
    assert (await one.scene.outcome(reply.run))["agent"] == "nobody"


@pytest.mark.parametrize(
    "subject", ["tasks.E2E.clerk", "tasks.e2e.CLERK", "tasks.e2e", "tasks.e2e.clerk.more", "tasks.e2e.-"]
)
async def test_a_task_on_an_invalid_subject_becomes_a_dead_letter(one: OneProcess, subject: str) -> None:
    """It gets a reply, is stored once with its payload, and is not delivered again."""
    payload = json.dumps({"text": f"go {subject}"}).encode()
    reply = await one.publish_and_wait(subject, payload)
    is_a_sentence(reply, containing=subject)
    dead_letters = [dead_letter for dead_letter in await one.dead_letters() if dead_letter["subject"] == subject]
    assert [dead_letter["payload"] for dead_letter in dead_letters] == [payload.decode()]


async def test_a_dead_letter_of_the_largest_message_is_stored(one: OneProcess) -> None:
    """Bytes that grow when they are encoded as text are cut, and the dead letter says so."""
    payload = b"\xff" * 262_000
    reply = await one.publish_and_wait("tasks.e2e.largest.more", payload)
    is_a_sentence(reply, containing="tasks.e2e.largest.more")
    dead_letters = [
        dead_letter for dead_letter in await one.dead_letters() if dead_letter["subject"] == "tasks.e2e.largest.more"
    ]
    assert len(dead_letters) == 1
    assert dead_letters[0]["bytes"] == len(payload)


@pytest.mark.parametrize("size", [300_000, 2_000_000])
async def test_a_message_over_the_limit_is_refused_to_its_sender(one: OneProcess, size: int) -> None:
    """The message is never stored; the error names the size."""
    with pytest.raises(TooLarge, match=r"\."):
        await one.scene.publish(TASKS, b'{"text": "' + b"x" * size + b'"}')


@pytest.mark.parametrize(
    ("content_type", "payload"),
    [
        pytest.param("application/json", b'{"text": "go"}', id="binary"),
        pytest.param(
            "application/cloudevents+json; charset=UTF-8",
            b'{"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "data": {"text": "go"}}',
            id="structured",
        ),
    ],
)
async def test_a_cloud_event_opens_a_run(one: OneProcess, content_type: str, payload: bytes) -> None:
    """Both content modes are accepted."""
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "task"}
    reply = await one.publish_and_wait(TASKS, payload, **{"Content-Type": content_type}, **headers)
    assert reply.status == "opened"
    await one.scene.control(reply.run, "stop")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"specversion": "1.0", "id": "1", "source": "/x", "type": "t"}', id="no-data"),
        pytest.param(b'{"specversion": "1.0", "data": "go"}', id="data-is-text"),
        pytest.param(b'{"specversion": "1.0", "data_base64": "e30="}', id="base64-of-no-task"),
        pytest.param(b'{"specversion": "1.0", "data_base64": "*"}', id="no-base64"),
        pytest.param(b'[{"specversion": "1.0", "data": {"text": "go"}}]', id="a-batch"),
        pytest.param(b'{"data": ' + b"[" * NESTING_DEPTH, id="bomb"),
        pytest.param(b'{"data": {"text": "go", "priority": 1' + b"0" * 5_000 + b"}}", id="a-long-number"),
        pytest.param(b"\x00", id="a-byte"),
    ],
)
async def test_an_invalid_structured_cloud_event_is_refused(one: OneProcess, payload: bytes) -> None:
    """The sentence says that the event cannot be read."""
    reply = await one.publish_and_wait(TASKS, payload, **{"Content-Type": "application/cloudevents+json"})
    is_a_sentence(reply, containing="cannot be read")


@pytest.mark.parametrize("verb", ["approve", "edit", "answer", "resolve", "pause"])
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"no", id="words"),
        pytest.param(b"[]", id="a-list"),
        pytest.param(b'{"by": 5}', id="wrong-type"),
        pytest.param(b"\xff", id="a-byte"),
        pytest.param(b"[" * NESTING_DEPTH, id="bomb"),
        pytest.param(b'{"args": ' + b"[" * NESTING_DEPTH, id="bomb-in-args"),
        pytest.param(b'{"expires_at": "tomorrow"}', id="no-moment"),
        pytest.param(b'{"expires_at": "2030-01-01T00:00:00"}', id="no-zone"),
    ],
)
async def test_a_bad_control_message_is_refused_in_one_sentence(one: OneProcess, verb: str, payload: bytes) -> None:
    """It gets a reply, and changes nothing."""
    run = "controlled"
    if (await one.scene.fold(run)).opened is None:
        await one.scene.task(run)
    state = await one.scene.until(run, asked)
    is_a_sentence(await one.publish_and_wait(f"control.{TENANT}.{run}.{verb}", payload), containing="cannot be read")
    assert (await one.scene.fold(run)).n == state.n


@pytest.mark.parametrize(
    ("verb", "fields", "containing"),
    [
        ("approve", {"by": "ann", "call": "no-such-call"}, "no-such-call"),
        ("approve", {"by": "ann", "call": "c" * 60_000}, "call"),
        ("deny", {"by": "ann"}, "call"),
        ("edit", {"by": "ann", "call": "?", "args": [1]}, "arguments"),
        ("answer", {"by": "ann", "call": "?", "answer": {"a": 1}}, "approve"),
        ("resolve", {"by": "ann", "call": "?", "action": "done"}, "nothing to resolve"),
        ("resume", {}, "not paused"),
        ("approve", {"by": "ann", "call": "?", "args_sha256": "0"}, "arguments"),
        ("approve", {"by": "ann", "call": "?", "nonce": "n" * 60_000}, "nonce"),
    ],
)
async def test_a_control_message_that_does_not_fit_the_run_is_refused(
    one: OneProcess, verb: str, fields: dict[str, object], containing: str
) -> None:
    """The sentence names the wrong field, and the run keeps waiting."""
    run = "controlled-again"
    if (await one.scene.fold(run)).opened is None:
        await one.scene.task(run)
    state = await one.scene.until(run, asked)
    control_fields = {**fields, **({"call": call_of(state)} if fields.get("call") == "?" else {})}
    is_a_sentence(
        await one.publish_and_wait(f"control.{TENANT}.{run}.{verb}", json.dumps(control_fields).encode()),
        containing=containing,
    )
    assert asked(await one.scene.fold(run))


@pytest.mark.parametrize("subject", ["control.E2E.r1.approve", "control.e2e.R_1.stop"])
async def test_a_control_message_for_an_invalid_run_id_becomes_a_dead_letter(one: OneProcess, subject: str) -> None:
    """It gets a reply and is stored."""
    is_a_sentence(await one.publish_and_wait(subject, b"{}"), containing=subject)
    assert [dead_letter for dead_letter in await one.dead_letters() if dead_letter["subject"] == subject]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"enough!", UNREADABLE, id="words"),
        pytest.param(b"\xff\xfe", UNREADABLE, id="bytes"),
        pytest.param(b'{"why": "\\ud800"}', UNREADABLE, id="half-a-surrogate"),
        pytest.param(b"[" * NESTING_DEPTH, UNREADABLE, id="bomb"),
        pytest.param(b'{"args": ' + b"[" * NESTING_DEPTH, UNREADABLE, id="bomb-in-a-field"),
        pytest.param(b'{"by": 5, "why": "now"}', "now", id="wrong-type"),
        pytest.param(b'{"mode": "nuke"}', "", id="no-such-mode"),
        pytest.param(b'{"why": "' + b"w" * 60_000 + b'"}', "w" * FIELD_CHARS_MAX, id="long"),
    ],
)
async def test_a_stop_whose_body_cannot_be_read_still_stops_the_run(one: OneProcess, payload: bytes, why: str) -> None:
    """The subject is enough for a stop; the reply says that the run is stopped."""
    run = f"badly-stopped-{next(_numbers)}"
    await one.scene.task(run)
    await one.scene.until(run, asked)
    reply = await one.publish_and_wait(f"control.{TENANT}.{run}.stop", payload)
    assert (reply.status, reply.run) == ("done", run)
    state = await one.scene.until(run, lambda s: s.sealed is not None)
    assert state.stopped is not None
    assert (state.stopped.by, state.stopped.why) == ("unknown", why)


async def test_a_verb_that_does_not_exist_is_refused_by_the_broker(one: OneProcess) -> None:
    """At once, and with the subject: the message is not stored in a stream from which no role would pull it."""
    for verb in ("halt", "stop.now"):
        subject = f"control.{TENANT}.any.{verb}"
        with pytest.raises(PermissionDenied, match=f"may not publish to '{subject}'"):
            await one.publish_and_wait(subject, b'{"by": "ann"}')


async def test_a_stop_with_a_very_long_reason_still_stops_the_run(one: OneProcess) -> None:
    """The reason is shortened, so that the stop is not lost."""
    await one.scene.task("talkative")
    await one.scene.until("talkative", asked)
    payload = json.dumps({"by": "b" * 20_000, "why": "\u20ac" * 5_000}).encode()
    reply = await one.publish_and_wait(f"control.{TENANT}.talkative.stop", payload)
    assert reply.status == "done", reply
    state = await one.scene.until("talkative", lambda s: s.sealed is not None)
    assert state.stopped is not None
    assert max(len(state.stopped.why), len(state.stopped.by)) == FIELD_CHARS_MAX
    assert (await one.scene.outcome("talkative"))["status"] == "stopped"


async def test_a_stop_of_an_unknown_run_is_sealed_without_an_agent(one: OneProcess) -> None:
    """The stop is event 1; a later task for the run is refused."""
    reply = await one.publish_and_wait(f"control.{TENANT}.never-was.stop", b"{}")
    assert reply.status == "done"
    assert (await one.scene.outcome("never-was"))["agent"] == "none"
    is_a_sentence(await one.publish_and_wait(TASKS, b'{"text": "go", "run": "never-was"}'), containing="stopped")


async def _write(one: OneProcess, subject: str, payload: bytes) -> None:
    """Publish into the run log as an operator who bypasses everything."""
    await one.scene.publish(subject, payload)


async def test_garbage_written_into_a_run_is_void_and_the_run_continues(one: OneProcess) -> None:
    """Numbers out of order, broken payloads and invalid subjects change nothing but the list of messages."""
    run = "littered"
    await one.scene.task(run)
    state = await one.scene.until(run, asked)
    base, following = f"runs.{TENANT}.{run}.operator", state.n + 1
    envelope = {"id": "x", "prev": state.head}
    garbage = (
        (f"{base}.stopped.99", json.dumps(envelope).encode()),
        (f"{base}.stopped.1", b"{}"),
        (f"{base}.stopped.{following}", b"\xff\x00 no JSON"),
        (f"{base}.stopped.0{following}", json.dumps(envelope).encode()),
        (f"{base}.STOPPED.{following}", json.dumps(envelope).encode()),
        (f"{base}.stopped", b""),
        (f"{base}.a.b.c.d", b""),
        (f"{base}.halted.{following}", b"[" * NESTING_DEPTH),
        (f"{base}.ended.{following}", json.dumps({"id": "x", "prev": "0" * 64}).encode()),
    )
    for subject, payload in garbage:
        await _write(one, subject, payload)
    reply = await one.publish_and_wait(
        f"control.{TENANT}.{run}.approve", json.dumps({"by": "ann", "call": call_of(state)}).encode()
    )
    assert reply.status == "done", reply
    state = await one.scene.until(run, lambda s: s.sealed is not None)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert len([entry for entry in state.entries if entry.n == 0]) == len(garbage)
    assert all(entry.ignored for entry in state.entries if entry.n == 0)


async def test_an_event_that_cannot_be_decoded_keeps_its_number_and_changes_nothing(one: OneProcess) -> None:
    """The event is part of the chain and shown as ignored, and the run continues after it."""
    run = "undecodable"
    await one.scene.task(run)
    state = await one.scene.until(run, asked)
    bad = {"id": "x", "prev": state.head, "at": 5, "by": 5}
    await _write(one, f"runs.{TENANT}.{run}.operator.stopped.{state.n + 1}", json.dumps(bad).encode())
    await one.scene.control(run, "approve", call=call_of(state))
    after = await one.scene.until(run, lambda s: s.sealed is not None)
    assert after.sealed is not None
    assert after.sealed.status == "completed", log_lines(after)
    entry = next(entry for entry in after.entries if entry.n == state.n + 1)
    assert "cannot be decoded" in entry.ignored


async def test_a_run_with_an_unknown_event_accepts_only_a_stop(one: OneProcess) -> None:
    """A process that does not know an event must not continue as if it were not there."""
    run = "unknown-event"
    await one.scene.task(run)
    state = await one.scene.until(run, asked)
    unknown = {"id": "x", "prev": state.head, "at": "2030-01-01T00:00:00Z"}
    await _write(one, f"runs.{TENANT}.{run}.operator.reformed.{state.n + 1}", json.dumps(unknown).encode())
    approve = json.dumps({"by": "ann", "call": call_of(state)}).encode()
    is_a_sentence(await one.publish_and_wait(f"control.{TENANT}.{run}.approve", approve), containing="know")
    reply = await one.publish_and_wait(f"control.{TENANT}.{run}.stop", b'{"by": "ann"}')
    assert reply.status == "done"
    after = await one.scene.fold(run)
    assert [entry.name for entry in after.entries if entry.n > state.n + 1] == ["stopped"]


async def test_garbage_as_a_first_event_does_not_block_the_sweep(one: OneProcess) -> None:
    """The sweep skips runs that begin with garbage or have an invalid tenant, and continues with the others."""
    await _write(one, "runs.BAD.R1.operator.stopped.1", b"{}")
    await _write(one, f"runs.{TENANT}.nonsense.operator.what.1", b"no JSON")
    reply = await one.publish_and_wait(TASKS, msgspec.json.encode({"text": "go", "run": "nonsense"}))
    assert reply.status == "opened"
    await one.publish_and_wait(f"control.{TENANT}.nonsense.stop", b"{}")
    state = await one.scene.until("nonsense", lambda s: s.sealed is not None)
    assert state.stopped is not None
