"""A stolen credential of a role, used without linestop's code: its messages are void, and end at most one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.stack import Stack, stack

from linestop.bus.connection import Connection, connect
from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.client import Client
from linestop.schemas.run.fold import Run
from linestop.schemas.run.hash_chain import genesis, link
from linestop.schemas.subjects import ROLES, RoleName, RunId, TenantId, run_event

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]
TENANT = TenantId("default")
WITHIN_S = 30.0
LAST = "Nats-Expected-Last-Subject-Sequence"


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Stack]:
    """The whole of linestop."""
    assert anyio_backend == "asyncio"
    async with stack(tmp_path_factory.mktemp("rogues")) as running:
        yield running


def event_subject(run: str, role: RoleName, event: str, n: int) -> str:
    """The subject of that event of that run."""
    return run_event(TENANT, RunId(run), role=role, event=event, n=n)


async def is_stored(
    rogue: Connection, subject: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> bool:
    """Publish without linestop's code; return whether the stream stored the message."""
    reply = await rogue.request(subject, json.dumps(body).encode(), headers=headers)
    return "error" not in json.loads(reply.data)


async def ended(system: Stack, run: str, text: str = "say hello") -> tuple[Run, Outcome]:
    """Submit a task with that run id and wait for the end of the run."""
    async with Client.connect(system.directory, as_="operator") as client:
        await client.submit("desk", text, run=run)
        outcome = await client.outcome(run, timeout_s=WITHIN_S)
        return await client.run(run), outcome


@pytest.mark.parametrize(
    ("role", "event", "n"),
    [
        ("budget", "held", 2),
        ("planner", "started", 3),
        ("planner", "proposed", 4),
        ("validator", "accepted", 5),
        ("budget", "settled", 6),
        ("recorder", "sealed", 7),
    ],
)
async def test_a_run_whose_next_subject_is_taken_ends_alone(system: Stack, role: RoleName, event: str, n: int) -> None:
    """The event that can no longer be appended is replaced by a stop; the run is sealed, and its outcome published."""
    run = f"taken-{role}-{event}"
    async with await connect(system.server.credential(role), name="rogue") as rogue:
        assert await is_stored(rogue, event_subject(run, role, event, n), {"id": "x", "prev": "0" * 64})
    state, outcome = await ended(system, run)
    assert state.stopped is not None
    assert (state.stopped.code, state.stopped.by, outcome.status) == ("squatted", role, "stopped")
    assert event_subject(run, role, event, n) in state.stopped.why
    assert not [entry.ignored for entry in state.entries if entry.n and entry.ignored]
    assert (await ended(system, f"beside-{role}-{event}"))[1].status == "completed"


async def test_a_task_whose_first_subject_is_taken_is_refused(system: Stack) -> None:
    """Its run is stopped before it begins."""
    async with await connect(system.server.credential("validator"), name="rogue") as rogue:
        assert await is_stored(rogue, event_subject("taken", "validator", "opened", 1), {"id": "x", "prev": "0" * 64})
    state, outcome = await ended(system, "taken")
    assert (state.opened, outcome.status) == (None, "stopped")


HEADERS: dict[str, dict[str, str]] = {
    "none": {},
    "its own subject": {LAST: "0"},
    "another run": {LAST: "0", f"{LAST}-Subject": "runs.default.nobody.>"},
    "another role's subjects": {LAST: "0", f"{LAST}-Subject": "runs.default.*.approver.>"},
    "another stream's subject": {LAST: "0", f"{LAST}-Subject": "tasks.>"},
}


@pytest.mark.parametrize("header", HEADERS)
async def test_a_rival_of_a_stored_event_is_void_with_any_concurrency_header(system: Stack, header: str) -> None:
    """The header only saves retries; the chain, for every role, gives a run one event per number."""
    run = f"rival-{list(HEADERS).index(header)}"
    async with AsyncExitStack() as connections:
        rogues: dict[RoleName, Connection] = {
            role: await connections.enter_async_context(await connect(system.server.credential(role), name="rogue"))
            for role in ROLES
        }
        first = rogues["operator"]
        begin = genesis(TENANT, RunId(run))
        one = {"id": "1", "prev": begin, "at": "2026-01-01T00:00:00Z", "by": "ann", "why": "enough", "code": "person"}
        assert await is_stored(first, event_subject(run, "operator", "stopped", 1), one)
        for role, rogue in rogues.items():
            for n, prev in ((1, begin), (2, begin), (2, "0" * 64)):
                claim = {
                    **one,
                    "role": "approver",
                    "tenant": "other",
                    "n": 1,
                    "id": f"{n}",
                    "prev": prev,
                    "why": "a lie",
                }
                name = "failed" if prev != begin else "stopped"
                claim_subject = event_subject(run, role, name, n)
                # The operator's claim has the subject of the first event.
                stored = await is_stored(rogue, claim_subject, claim, HEADERS[header])
                assert not (stored and (role, n) == ("operator", 1))
    state, outcome = await ended(system, run)
    assert state.stopped is not None
    assert (state.stopped.why, outcome.status, outcome.why) == ("enough", "stopped", "enough")
    counted = [(entry.role, entry.name) for entry in state.entries if entry.n]
    assert counted[0] == ("operator", "stopped")
    assert set(counted[1:]) <= {("budget", "settled"), ("recorder", "sealed"), ("validator", "refused")}
    assert state.entries[0].subject == event_subject(run, "operator", "stopped", 1)
    assert hashlib.sha256(f"{TENANT}/{run}".encode()).hexdigest() == begin != link(state.entries[0].subject, b"")


@pytest.mark.parametrize("role", ROLES)
async def test_an_event_that_its_role_may_not_append_is_ignored(system: Stack, role: RoleName) -> None:
    """An event of another role in the chain, with that role's name in its payload, changes nothing."""
    run, event = f"not-its-own-{role}", "granted" if role != "approver" else "finished"
    async with Client.connect(system.directory, as_="operator") as client:
        await client.submit("desk", "pay 5", run=run)
        async for entry in client.events(run, follow=True):
            if entry.name == "asked":
                break
        state = await client.run(run)
        call = next(iter(state.calls.values()))
        claim: dict[str, Any] = {"id": "x", "prev": state.head, "at": state.at.isoformat(), "call": call.call}
        claim |= {"by": "ann", "role": "approver", "args_sha256": call.args_sha256, "contract_digest": ""}
        claim |= {"attempt": 1, "status": "ok", "result": '{"paid":5}'}
        async with await connect(system.server.credential(role), name="rogue") as rogue:
            assert await is_stored(rogue, event_subject(run, role, event, state.n + 1), claim)
        await client.deny(run, why="no")
        outcome = await client.outcome(run, timeout_s=WITHIN_S)
        after = await client.run(run)
    forged = after.entries[state.n]
    assert (forged.n, forged.ignored) == (state.n + 1, f"'{event}' is not an event of the {role}")
    assert (outcome.status, system.effects.paid) == ("completed", [])
