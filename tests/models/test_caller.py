"""The planner's requests: each one was started and paid for, and none leaves too late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest
from tests.builders import CONTRACTS, OK, Story, agent

from linestop.actors.planner import Planner
from linestop.models import open_model
from linestop.models.caller import Requester, without_lone_surrogates
from linestop.models.planner_function import Plan
from linestop.models.playbook import PlaybookServer, parse_playbook
from linestop.models.playbook.wire import PIECE_CHARS
from linestop.schemas.events import ModelChoice, ModelStarted
from linestop.schemas.model_messages import (
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    Price,
    ToolCall,
    ToolMode,
    Usage,
)
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.text.redaction import Redactor

pytestmark = pytest.mark.anyio

PRICE = Price(input=3_000_000, output=15_000_000)
BOOK = """
name = "m"
tools = "MODE"
[[step]]
call = [{tool = "look", args = {q = "order 4711"}}]
usage = {input = 100, output = 10}
[[step]]
say = "Done."
usage = {input = 200, output = 20}
"""


@asynccontextmanager
async def _caller(**options: Any) -> AsyncGenerator[Requester]:
    caller = Requester(**options)
    try:
        yield caller
    finally:
        await caller.aclose()


def _work(model: str, **changes: Any) -> ModelWork:
    request = ModelRequest(model=model, system="", messages=(Message(role="user", text="Time?"),), deadline_s=5)
    fields: dict[str, Any] = {
        "tenant": "acme",
        "run": "r1",
        "turn": 1,
        "attempt": 1,
        "request": request,
        "price": PRICE,
        "cost_max_micros": 1,
        "start_by": datetime.now(UTC) + timedelta(seconds=30),
        **changes,
    }
    return ModelWork(**fields)


async def _turn(story: Story, caller: Requester) -> None:
    """Perform the open model request with real HTTP, then let the roles continue."""
    started = story.run.entries[story.open_model() - 1].event
    assert isinstance(started, ModelStarted)
    planner = Planner(caller)
    view = planner.prepare(story.run, started, story.planner_facts)
    view = msgspec.structs.replace(view, start_by=datetime.now(UTC) + timedelta(seconds=30))
    events = [event async for event in planner.perform(view, started)]
    story.given(*events).run_until_idle()
    while not story.run.open_attempts and not story.run.done:
        story.advance_s(5).run_until_idle()


@pytest.mark.parametrize(
    ("able", "mode", "requests"),
    [
        ("native", "auto", 2),
        ("json_schema", "auto", 3),
        ("none", "auto", 2),
        ("native", "native", 2),
        ("json_schema", "json_schema", 2),
    ],
)
async def test_a_server_gets_exactly_the_requests_that_were_started_and_paid_for(
    able: str, mode: ToolMode, requests: int
) -> None:
    """Also while the abilities of a server are unknown, every request has its own start."""
    price = ModelChoice(model="openai/m", price=PRICE)
    async with PlaybookServer(parse_playbook(BOOK.replace("MODE", able))) as server, _caller() as caller:
        tools = tuple(contract for contract in CONTRACTS if contract.name == "look")
        version = agent(model=price, base_url=f"{server.url}/v1", tool_mode=mode, tools=tools)
        story = Story(version).open_run().run_until_idle()
        while story.run.open_attempts:
            await _turn(story, caller)
            for call in story.run.calls.values():
                if call.open_attempt:
                    story.finish_tools(**{call.call: OK})
        counted = list(server.requests)
    starts = [entry.event for entry in story.run.entries if isinstance(entry.event, ModelStarted)]
    assert len(counted) == len(starts) == requests
    spent = [(100, 10)] * (requests - 1) + [(100, 10) if able == "none" else (200, 20)]
    assert story.run.spent_micros == sum(3 * fresh + 15 * out for fresh, out in spent)
    assert story.run.spent_micros <= story.run.held_micros
    assert all(start.cost_max_micros >= 3 * 200 + 15 * 20 for start in starts)


@pytest.mark.parametrize("provider", ["anthropic", "openai", "playbook"])
async def test_a_request_whose_start_by_has_passed_sends_nothing(provider: str) -> None:
    """It is free, and it is tried again with a new start."""
    async with PlaybookServer(parse_playbook('name = "m"\n[[step]]\nsay = "x"')) as server, _caller() as caller:
        expired = _work(f"{provider}/m", base_url=server.url, start_by=datetime.now(UTC))
        with pytest.raises(ModelFailed, match="start_by") as failed:
            await caller.request(expired)
        assert not server.requests
        assert (failed.value.kind, failed.value.possibly_billed, failed.value.usage) == ("cancelled", False, None)
        reply, _ = await caller.request(
            _work(f"{provider}/m", base_url=server.url.rstrip("/") + ("/v1" if provider == "openai" else ""))
        )
    assert reply.text == "x"


async def test_start_by_is_checked_when_the_connection_is_open() -> None:
    """Connecting may take longer than the time in which a request may begin."""
    got: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connect = asyncio.get_running_loop().getaddrinfo
    start_by = datetime.now(UTC) + timedelta(seconds=0.1)

    async def slow(*args: Any, **options: Any) -> Any:
        await anyio.sleep(max(0.0, (start_by - datetime.now(UTC)).total_seconds()) + 0.01)
        return await connect(*args, **options)

    asyncio.get_running_loop().getaddrinfo = slow  # type: ignore[method-assign]
    try:
        async with _caller() as caller:
            with pytest.raises(ModelFailed, match="start_by") as failed:
                await caller.request(_work("playbook/m", base_url=f"http://localhost:{port}", start_by=start_by))
    finally:
        del asyncio.get_running_loop().getaddrinfo
        server.close()
        await server.wait_closed()
    assert failed.value.kind == "cancelled"
    assert got in ([], [b""])


ASKED: list[int] = []


def plan(messages: tuple[Message, ...]) -> Plan:
    """A planner that is a function."""
    ASKED.append(len(messages))
    return Plan(answer="done")


async def test_a_function_is_not_called_after_its_start_by_either() -> None:
    """The guarantee covers every start, of a model as of a function."""
    async with _caller() as caller:
        name = f"python:{__name__}.plan"
        with pytest.raises(ModelFailed, match="start_by"):
            await caller.request(_work("function/plan", planner=name, start_by=datetime.now(UTC)))
        assert not ASKED
        reply, _ = await caller.request(_work("function/plan", planner=name))
    assert isinstance(reply, ModelReply)
    assert (reply.text, ASKED) == ("done", [1])


@pytest.mark.parametrize("provider", ["anthropic", "playbook"])
async def test_deltas_contain_a_known_secret_neither_whole_nor_in_pieces(provider: str) -> None:
    """Tokens are shown as they come, and a server may split them anywhere."""
    deltas: list[str] = []
    at: list[int] = []

    async def watch(_: ModelWork, text: str, offset: int) -> None:
        deltas.append(text)
        at.append(offset)

    before = "." * (PIECE_CHARS - 7)
    scripted_text = f"{before}hunter2hunter2, so it is."
    async with (
        PlaybookServer(parse_playbook(f'name = "m"\n[[step]]\nsay = "{scripted_text}"')) as server,
        _caller(on_delta=watch) as caller,
    ):
        work = _work(f"{provider}/m", base_url=server.url, redactor=Redactor(["hunter2hunter2"]))
        reply, _ = await caller.request(work)
    assert reply.text == scripted_text
    assert deltas == [before, "[redacted:secret], so it is."]
    assert at == [0, len(before)]


async def test_a_failing_watcher_does_not_lose_the_answer() -> None:
    """Also at the very last piece."""

    async def watch(_: ModelWork, text: str, __: int) -> None:
        raise OSError(text)

    async with (
        PlaybookServer(parse_playbook('name = "m"\n[[step]]\nsay = "x"')) as server,
        _caller(on_delta=watch) as caller,
    ):
        reply, _ = await caller.request(_work("playbook/m", base_url=server.url))
    assert reply.text == "x"


async def test_other_runs_continue_while_an_sdk_is_imported_for_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import waits for something that only the event loop does; both requests use the same client."""
    imported, opened = threading.Event(), list[str]()

    def import_slowly(model: str) -> None:
        assert imported.wait(timeout=30), model

    def open_once(model: str, **options: Any) -> ModelClient:
        opened.append(model)
        return open_model(model, **options)

    monkeypatch.setattr("linestop.models.caller.import_sdk", import_slowly)
    monkeypatch.setattr("linestop.models.caller.open_model", open_once)
    replies: list[ModelReply] = []
    async with PlaybookServer(parse_playbook('name = "m"\n[[step]]\nsay = "x"')) as server, _caller() as caller:

        async def request() -> None:
            replies.append((await caller.request(_work("playbook/m", base_url=server.url)))[0])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request)
            tasks.start_soon(request)
            await anyio.wait_all_tasks_blocked()
            assert (replies, opened) == ([], [])
            imported.set()
    assert [reply.text for reply in replies] == ["x", "x"]
    assert opened == ["playbook/m"]


def test_unpaired_surrogates_are_replaced_in_answers_and_failures() -> None:
    """An event cannot hold them: the attempt would stay open until its deadline, and be charged in full."""
    half = "a\ud83d"
    reply = ModelReply(
        text="t",
        calls=(ToolCall(id="c", name=half, args="{}"),),
        stop_reason="calls",
        usage=Usage(out=3),
        usage_reported=True,
        model=half,
        request_id=half,
        blocks=({"type": half, half: [half, 1, None]},),
    )
    sound = without_lone_surrogates(reply)
    assert msgspec.json.encode(sound)
    assert (sound.calls[0].name, sound.model, sound.usage) == ("a?", "a?", Usage(out=3))
    assert sound.blocks == ({"type": "a?", "a?": ["a?", 1, None]},)
    whole = msgspec.structs.replace(reply, calls=(), model="m", request_id="", blocks=({"x": 1},))
    assert without_lone_surrogates(whole) is whole
    assert str(ModelFailed("malformed", half)) == "a?"
