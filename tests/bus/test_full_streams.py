"""Full streams: whatever a client sends and whichever stream is full, runs can be stopped, decided on and ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.stack import Stack, stack

from linestop.bus import jetstream_api
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import MIB
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import StreamSizes, streams
from linestop.cli.doctor.stream_checks import check_space
from linestop.client import Client
from linestop.client.result_types import Submitted
from linestop.errors import LinestopError, Refused
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK
from linestop.schemas.defaults import CONTROL_BYTES_MAX
from linestop.schemas.subjects import AgentName, RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
TENANT = TenantId("default")
SMALL = StreamSizes(runs=MIB, forks=MIB, blobs=MIB, tasks=MIB, outcomes=MIB, ids=MIB, small=MIB)
CONCURRENT_MAX = 64
WITHIN_S = 20.0

Message = tuple[str, bytes]


async def _fill(connection: Connection, messages: Iterator[Message], *, messages_max: int) -> int:
    """Publish until the stream refuses or ``messages_max`` are stored; return their number."""
    stored, full = 0, False

    async def one() -> None:
        nonlocal stored, full
        while not full and stored < messages_max:
            subject, payload = next(messages)
            reply = msgspec.json.decode((await connection.request(subject, payload, timeout_s=WITHIN_S)).data)
            full = full or "error" in reply
            stored += "error" not in reply

    await asyncio.gather(*(one() for _ in range(CONCURRENT_MAX)))
    return stored


async def _state(connection: Connection, stream: str) -> dict[str, Any]:
    reply = await connection.api_request(jetstream_api.stream_info(stream))
    return msgspec.convert(reply["state"], dict[str, Any])


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(WITHIN_S):
        while not await condition():  # noqa: ASYNC110 - a server does not report that a stream is empty
            await anyio.sleep(0.02)


def _task(agent: str = "desk", **fields: object) -> Message:
    return subjects.task(TENANT, AgentName(agent)), msgspec.json.encode(fields)


def _kinds() -> dict[str, Iterator[Message]]:
    """All messages that a client can send in any number at no cost."""
    return {
        "tasks for no agent": (_task("nobody", text=f"{n}") for n in count()),
        "tasks that cannot be read": (_task(text=n) for n in count()),
        "keys that are taken": (_task(text=f"{n}", key="k") for n in count()),
        "run ids that are taken": (_task(text=f"{n}", run="mine") for n in count()),
        "stops of absent runs": ((subjects.control(TENANT, RunId(f"a-{n}"), verb="stop"), b"{}") for n in count()),
        "pauses of absent runs": ((subjects.control(TENANT, RunId(f"p-{n}"), verb="pause"), b"{}") for n in count()),
    }


async def _started_run(client: Client, line: Stack, text: str) -> Submitted:
    submitted = await client.submit("desk", text)
    with anyio.fail_after(WITHIN_S):
        async for entry in client.events(submitted.run, follow=True):
            if entry.name == "asked" or (entry.role, entry.name) == ("executor", "started"):
                break
    assert line.effects.paid == []
    return submitted


async def test_nothing_that_a_client_sends_makes_a_stop_impossible(tmp_path: Path) -> None:
    """Above the limit a refusal and a stop of a missing run get a reply but no event, so open runs have space."""
    async with (
        stack(tmp_path, space=SMALL) as line,
        Client.connect(tmp_path, as_="operator") as operator,
        Client.connect(tmp_path) as client,
        await connect(line.server.credential("client"), name="flood") as flood,
        await connect(line.server.credential("bootstrap"), name="look") as reader,
    ):
        first, second, third, fourth = [await _started_run(client, line, t) for t in ("hang", "hang", "pay 5", "pay 5")]
        mine = await client.submit("desk", "say hello", run="mine", key="k")
        await client.outcome(mine.run, timeout_s=WITHIN_S)

        async def handled() -> bool:
            states = [await _state(reader, stream) for stream in (stream_names.TASKS, stream_names.CLIENTS)]
            return not any(state["messages"] for state in states)

        for messages in _kinds().values():
            await _fill(flood, messages, messages_max=300)
            await _until(handled)
        used = (await _state(reader, stream_names.RUNS))["bytes"] / SMALL.runs
        assert SPACE_FOR_NEW_WORK <= used < 0.96

        refused = await client.submit("desk", "say hello", key="later")
        assert (refused.status, refused.sentence[-52:]) == (
            "refused",
            "The key 'later' was not taken and can be used again.",
        )
        with pytest.raises(Refused, match="There is no run 'absent', so there is nothing to stop"):
            await operator.stop("absent")
        assert (await operator.stop(first.run)).n > 0
        assert (await client.stop(second.run)).n > 0
        assert (await operator.approve(third.run)).status == "done"
        assert (await operator.deny(fourth.run, why="no")).status == "done"
        ends = [(await client.outcome(each.run, timeout_s=WITHIN_S)).status for each in (first, second, third, fourth)]
        assert ends == ["stopped", "stopped", "completed", "completed"]
        assert line.effects.paid == [5]


async def test_a_client_that_floods_its_stream_blocks_no_person(tmp_path: Path) -> None:
    """Without an actor a client fills only its own stream; people's messages take effect when an actor runs."""
    async with (
        stack(tmp_path, space=SMALL, actors=False) as line,
        Client.connect(tmp_path, as_="operator") as operator,
        await connect(line.server.credential("client"), name="flood") as flood,
        await connect(line.server.credential("operator"), name="person") as person,
        await connect(line.server.credential("bootstrap"), name="look") as reader,
    ):
        async with line.actors():
            async with Client.connect(tmp_path) as client:
                run = (await _started_run(client, line, "pay 5")).run
            (asked,) = await operator.approvals()
        long = b'{"why":"%s"}' % (b"x" * (CONTROL_BYTES_MAX - 20))
        pauses = ((subjects.control(TENANT, RunId(f"p-{n}"), verb="pause"), long) for n in count())
        assert await _fill(flood, pauses, messages_max=1_000) < 20
        body = {"by": "ada", "call": asked.call, "args_sha256": asked.args_sha256}
        approval = {**body, "contract_digest": asked.contract_digest}
        await person.api_request(subjects.control(TENANT, RunId(run), verb="approve"), approval)
        async with line.actors():
            assert (await operator.outcome(run, timeout_s=WITHIN_S)).status == "completed"

            async def empty() -> bool:
                states = [await _state(reader, stream) for stream in (stream_names.CONTROL, stream_names.CLIENTS)]
                return all(state["bytes"] == 0 for state in states)

            await _until(empty)


FULL: dict[str, tuple[CredentialName, Callable[[int], Message]]] = {
    stream_names.FORKS: ("fork", lambda n: (f"forks.default.f-{n}.planner.proposed.1", os.urandom(20_000))),
    stream_names.BLOBS: ("executor", lambda n: (f"blobs.default.{n:064x}.0", os.urandom(50_000))),
    stream_names.OUTCOMES: ("recorder", lambda n: (f"outcomes.default.desk.o-{n}", os.urandom(20_000))),
    stream_names.ALERTS: ("planner", lambda _: ("alerts.default.noise", os.urandom(20_000))),
    stream_names.DEAD: ("planner", lambda n: (f"dead.planner.default.d-{n}", os.urandom(20_000))),
    stream_names.TIMERS: ("planner", lambda n: (f"timers.set.default.t-{n}.noise", os.urandom(20_000))),
    stream_names.bucket_stream(stream_names.IDS_BUCKET): (
        "validator",
        lambda n: (f"$KV.ids.default.{n}", os.urandom(20_000)),
    ),
    stream_names.bucket_stream(stream_names.AGENTS_BUCKET): (
        "operator",
        lambda n: (f"$KV.agents.a-{n}", os.urandom(20_000)),
    ),
    stream_names.bucket_stream(stream_names.POSITIONS_BUCKET): (
        "client",
        lambda n: (f"$KV.positions.client.outcomes.{n}-{'x' * 800}", os.urandom(900)),
    ),
    stream_names.bucket_stream(stream_names.SHARED_BUCKET): (
        "budget",
        lambda n: (f"$KV.shared.account.a.{n}", os.urandom(20_000)),
    ),
    stream_names.bucket_stream(stream_names.WORKERS_BUCKET): (
        "planner",
        lambda n: (f"$KV.workers.w-{n}", os.urandom(20_000)),
    ),
}
"""The credential that may fill each stream, and the message. CONTROL, CLIENTS, TASKS and RUNS have separate tests."""


async def test_with_every_other_stream_full_runs_are_decided_on_stopped_and_ended(tmp_path: Path) -> None:
    """Without space an outcome waits in the log, and a long text is left out; no other stream is needed."""
    async with (
        stack(tmp_path, space=SMALL) as line,
        Client.connect(tmp_path, as_="operator") as operator,
        Client.connect(tmp_path) as client,
    ):
        runs = [(await _started_run(client, line, text)).run for text in ("hang", "hang", "pay 5", "pay 5")]
        await operator.kill_switches.close("agent:another")
        for stream, (name, message) in FULL.items():
            # A position is small, so more of them fit.
            messages_max = 2_000 if stream == stream_names.bucket_stream(stream_names.POSITIONS_BUCKET) else 100
            async with await connect(line.server.credential(name), name="fill") as connection:
                await _fill(connection, (message(n) for n in count()), messages_max=messages_max)
        async with await connect(line.server.credential("bootstrap"), name="look") as reader:
            with pytest.raises(LinestopError) as found:
                await check_space(reader)
        async with await connect(line.server.credential("recorder"), name="look") as recorder:
            # The recorder sees the same, and raises an alert.
            fills = {fill.stream: fill.used for fill in await JetStream(recorder).log().fills()}
        assert set(fills) == {spec.name for spec in streams()}
        assert {stream for stream in FULL if fills[stream] < SPACE_FOR_NEW_WORK} == set()
        shares = dict(part.split() for part in str(found.value).partition(";")[0].split(", "))
        assert {stream for stream in FULL if int(shares[stream].rstrip("%")) < 90} == set()
        assert (await operator.stop(runs[0])).n > 0
        assert (await client.stop(runs[1])).n > 0
        assert (await operator.approve(runs[2])).status == "done"
        assert (await operator.deny(runs[3], why="no")).status == "done"
        for run in runs:
            with anyio.fail_after(WITHIN_S):
                async for _ in operator.events(run, follow=True):
                    pass
        assert [(await operator.run(run)).sealed is not None for run in runs] == [True] * 4
        refused = await client.submit("desk", "say hello", key="new")
        assert refused.status == "refused"
        assert "full: no run can begin until it has room" in refused.sentence
        assert await operator.kill_switches.close("all") == {"agent:another", "all"}
        assert await client.kill_switches.closed() == {"agent:another", "all"}
        assert await operator.kill_switches.open("all", "agent:another") == set()


async def test_a_client_that_fills_the_task_stream_prevents_no_stop_and_no_decision(tmp_path: Path) -> None:
    """A task without space is refused to its sender in a sentence; after some were handled, the next is accepted."""
    async with (
        stack(tmp_path, space=SMALL, actors=False) as line,
        Client.connect(tmp_path, as_="operator") as operator,
        await connect(line.server.credential("client"), name="flood") as flood,
    ):
        async with line.actors(), Client.connect(tmp_path) as client:
            waits, goes = [(await _started_run(client, line, "pay 5")).run for _ in range(2)]
        assert await _fill(flood, (_task("nobody", text="x" * 50_000) for _ in count()), messages_max=1_000) < 30
        with pytest.raises(LinestopError, match="wait until some are handled"):
            await operator.submit("desk", "y" * 50_000, key="mine", wait_opened=False)
        assert (await operator.stop(waits)).n > 0
        async with line.actors():
            assert (await operator.approve(goes)).status == "done"
            assert (await operator.outcome(goes, timeout_s=WITHIN_S)).status == "completed"

            async def taken() -> bool:
                return (await operator.submit("desk", "say hello", key="mine")).status == "opened"

            await _until(taken)
