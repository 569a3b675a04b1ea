"""Hostile answers: each becomes one event of bounded size and cost, and never a traceback."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from linestop.actors.planner import Planner
from linestop.models import open_model
from linestop.models.caller import Requester
from linestop.models.planner_function import Plan, load_planner
from linestop.models.transport import ERROR_BYTES_MAX
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.events import AnyEvent, Compacted, ModelFailedEvent, ModelStarted, Proposed, encode
from linestop.schemas.model_messages import Message, ModelFailed, ModelRequest, Price, ToolSpec
from linestop.schemas.performer_interfaces import ModelWork

pytestmark = pytest.mark.anyio

WriteResponse = Callable[[asyncio.StreamWriter], Awaitable[None]]
KEY = "sk-not-to-be-repeated"
PRICE = Price(input=3_000_000, output=15_000_000)
RESERVED = 70_000
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
TOOLS = (ToolSpec(name="clock", description="Tell the time.", parameters={"type": "object"}),)
both = pytest.mark.parametrize("provider", ["anthropic", "openai"])


@asynccontextmanager
async def _server(play: WriteResponse, request_sizes: list[int]) -> AsyncGenerator[str]:
    """A server that reads a request's head and body, then lets ``play`` write anything."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            request_sizes.append(len(await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))))
            await play(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client has stopped reading, as it should.
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def _event(play: WriteResponse, provider: str, *, purpose: Any = "turn", deadline_s: float = 10.0) -> AnyEvent:
    """The planner's event for an answer; the planner has sent one request, and the event fits into a message."""
    now = datetime.now(UTC)
    request = ModelRequest(
        model=f"{provider}/m",
        system="",
        messages=(Message(role="user", text="Time?"),),
        tools=TOOLS,
        deadline_s=deadline_s,
    )
    started = ModelStarted(turn=1, attempt=1, model="m", worker="w#1", start_by=now, done_by=now, purpose=purpose)
    request_sizes: list[int] = []
    caller = Requester()
    try:
        async with _server(play, request_sizes) as url:
            work = ModelWork(
                tenant="acme",
                run="r1",
                turn=1,
                attempt=1,
                request=request,
                price=PRICE,
                base_url=url,
                cost_max_micros=RESERVED,
                start_by=now + timedelta(seconds=60),
                tool_mode="native",
            )
            (event,) = [event async for event in Planner(caller).perform(work, started)]
    finally:
        await caller.aclose()
    assert len(request_sizes) == 1
    if not (isinstance(event, Proposed) and isinstance(event.text, str) and len(event.text) > MESSAGE_BYTES_MAX):
        # A long text alone becomes a blob before it is appended.
        assert len(encode(event)) < MESSAGE_BYTES_MAX
    return event


def _respond_with(
    body: bytes, status: str = "200 OK", media: str = "text/event-stream", *headers: str
) -> WriteResponse:
    lines = [f"HTTP/1.1 {status}", f"content-type: {media}", f"content-length: {len(body)}", *headers, "", ""]

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(lines).encode("latin-1") + body)
        await writer.drain()

    return play


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: object) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _call(index: int = 0, name: str = "clock", args: str = "{}") -> dict[str, Any]:
    return {"index": index, "id": f"call_{index:08}", "function": {"name": name, "arguments": args}}


def _openai(*deltas: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    chunks = [*(_chunk(delta) for delta in deltas), _chunk({}, finish, **{"usage": USAGE, **more})]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


def _anthropic(*blocks: dict[str, Any], stop: str = "end_turn", **start: Any) -> bytes:
    message: dict[str, Any] = {"id": "msg", "model": "m", "content": [], **start}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": start.get("usage")})
    events.append({"type": "message_stop"})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


def _text(provider: str, text: str) -> bytes:
    if provider == "openai":
        return _openai({"content": text})
    return _anthropic({"type": "text", "text": text}, usage={"input_tokens": 10, "output_tokens": 4})


CASES: dict[str, tuple[str, bytes, str, int]] = {
    "call without a name": (
        "openai",
        _openai({"tool_calls": [_call(name="")]}, finish="tool_calls"),
        "without a name",
        90,
    ),
    "block without a name": (
        "anthropic",
        _anthropic({"type": "tool_use", "id": "t", "name": "", "input": {}}, stop="tool_use", usage={}),
        "without a name",
        RESERVED,
    ),
    "a thousand calls": (
        "openai",
        _openai({"tool_calls": [_call(i) for i in range(1_000)]}, finish="tool_calls"),
        "makes 1000 calls; at most 64",
        90,
    ),
    "a cut answer that goes on to end well": (
        "openai",
        _openai({"content": "half"}, finish="stop").replace(b'"finish_reason": null', b'"finish_reason": "length"'),
        "output_tokens_max",
        90,
    ),
    "an answer of the Responses API": (
        "openai",
        b'data: {"type": "response.created", "response": {"id": "r"}}\n\n',
        "Responses API",
        RESERVED,
    ),
    "bytes that are no text": (
        "openai",
        _text("openai", "ABC").replace(b"ABC", b"\xff\xfe"),
        "not its protocol",
        90,
    ),
    "an unpaired surrogate": (
        "anthropic",
        _text("anthropic", "ABC").replace(b"ABC", b"\\ud800"),
        "not its protocol",
        RESERVED,
    ),
    "a refusal that calls": (
        "openai",
        _openai({"refusal": "No.", "tool_calls": [_call()]}, finish="tool_calls"),
        "refused to answer: No",
        90,
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_answer_that_cannot_be_used_is_one_failure_with_its_reason(case: str) -> None:
    """It costs the reported and plausible usage, else the reservation."""
    provider, body, sentence, charged = CASES[case]
    event = await _event(_respond_with(body), provider)
    assert isinstance(event, ModelFailedEvent)
    assert sentence in event.message
    assert event.charged_micros == charged


async def test_names_that_a_provider_invents_are_cut() -> None:
    """Only people read them; no tool has such a long name, so a cut name never selects another tool."""
    body = _openai({"tool_calls": [_call(name="x" * 400_000)]}, finish="tool_calls", model="m" * 400_000)
    event = await _event(_respond_with(body.replace(b'"c1"', b'"%b"' % (b"c" * 400_000))), "openai")
    assert isinstance(event, Proposed)
    assert (len(event.calls[0].tool), len(event.request_id)) == (200, 200)


async def test_more_cached_tokens_than_tokens_are_not_charged() -> None:
    """The cached tokens cannot be more than all tokens."""
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": 10**9, "cache_write_tokens": 10**9}}
    event = await _event(_respond_with(_openai({"content": "x"}, usage=usage)), "openai")
    assert isinstance(event, Proposed)
    assert (event.usage.cache_read, event.usage.cache_write, event.usage.fresh_in) == (10, 0, 0)
    assert event.cost_micros <= RESERVED


@pytest.mark.parametrize("start", [{}, {"usage": None}])
async def test_an_answer_without_usage_stands_and_counts_at_its_reservation(start: dict[str, Any]) -> None:
    """A compatible server may report no usage."""
    event = await _event(_respond_with(_anthropic({"type": "text", "text": "Noon."}, **start)), "anthropic")
    assert isinstance(event, Proposed)
    assert (event.text, event.usage_source, event.cost_micros) == ("Noon.", "reserved", RESERVED)


@both
async def test_a_long_answer_is_complete(provider: str) -> None:
    """Ten megabytes are unusual, but still an answer."""
    piece = "x" * 5_000_000
    body = _openai({"content": piece}, {"content": piece}) if provider == "openai" else b""
    if provider == "anthropic":
        texts = [{"type": "text", "text": piece}, {"type": "text", "text": piece}]
        body = _anthropic(*texts, usage={"input_tokens": 10, "output_tokens": 4})
    event = await _event(_respond_with(body), provider)
    assert isinstance(event, Proposed)
    assert len(str(event.text)) == 10_000_000


@both
@pytest.mark.parametrize(
    ("wait", "seconds"),
    [
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2000 07:28:00 GMT", 0.0),
        ("-5", None),
        ("NaN", None),
        ("1e400", None),
        ("soon", None),
        ("7", 7.0),
    ],
)
async def test_an_unreadable_retry_after_is_left_out(provider: str, wait: str, seconds: float | None) -> None:
    """The failure stays the same, whatever the header contains."""
    event = await _event(_respond_with(b"{}", "429 Slow", "application/json", f"retry-after: {wait}"), provider)
    assert isinstance(event, ModelFailedEvent)
    assert (event.kind, event.retry_after_s, event.charged_micros) == ("rate_limit", seconds, 0)


@both
@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        ({"code": "content_filter", "message": "Filtered."}, "refusal", "Filtered."),
        ({"message": "\ud800 broken"}, "permanent", "? broken"),
        ({"message": f"You sent Bearer {KEY}"}, "permanent", "You sent Bearer [key]"),
        ({"message": {"deep": "x" * 5_000}}, "permanent", '{"deep": "xxx'),
    ],
)
async def test_an_error_message_is_passed_on_without_the_key(
    provider: str, error: dict[str, Any], kind: str, sentence: str
) -> None:
    """The message is stored in a log permanently."""
    if kind == "refusal" and provider == "anthropic":
        kind = "permanent"
    request = ModelRequest(model=f"{provider}/m", system="", messages=(Message(role="user", text="Time?"),))
    play = _respond_with(json.dumps({"error": error}).encode(), "400 No", "application/json")
    async with _server(play, []) as url:
        client = open_model(f"{provider}/m", base_url=url, api_key=KEY)
        with pytest.raises(ModelFailed) as failed:
            await client.complete(request)
        await client.aclose()
    assert (failed.value.kind, failed.value.status, failed.value.possibly_billed) == (kind, 400, False)
    assert sentence in str(failed.value)
    assert KEY not in str(failed.value)


@both
async def test_the_body_of_an_error_is_read_to_a_bound(provider: str) -> None:
    """A server that never ends its error can neither fill the memory nor delay the request to its deadline."""
    sent = 0

    async def play(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 Oh\r\ncontent-type: text/plain\r\n\r\n")
        while sent < 500 * ERROR_BYTES_MAX:
            writer.write(b"x" * ERROR_BYTES_MAX)
            sent += ERROR_BYTES_MAX
            await writer.drain()

    event = await _event(play, provider)
    assert isinstance(event, ModelFailedEvent)
    assert (event.kind, event.status) == ("availability", 500)
    assert sent < 500 * ERROR_BYTES_MAX


@both
async def test_a_compressed_answer_is_read_and_a_false_one_fails(provider: str) -> None:
    """Decompression stops as soon as the answer is over its limit."""
    packed = "content-encoding: gzip"
    good = await _event(
        _respond_with(gzip.compress(_text(provider, "Noon.")), "200 OK", "text/event-stream", packed), provider
    )
    false = await _event(_respond_with(b"not gzip", "200 OK", "text/event-stream", packed), provider)
    bomb = await _event(
        _respond_with(gzip.compress(b"data: " + b"x" * 20_000_000, 1), "200 OK", "text/event-stream", packed), provider
    )
    assert isinstance(good, Proposed)
    assert good.text == "Noon."
    assert [isinstance(one, ModelFailedEvent) and one.kind for one in (false, bomb)] == ["availability", "malformed"]


@both
async def test_a_byte_order_mark_before_the_first_event_is_skipped(provider: str) -> None:
    """If it were kept, the first piece of the answer would be lost without a trace."""
    event = await _event(_respond_with(b"\xef\xbb\xbf" + _text(provider, "Noon.")), provider)
    assert isinstance(event, Proposed)
    assert event.text == "Noon."


@both
@pytest.mark.parametrize(
    "body", [b"", b"SSH-2.0-hello\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"HTTP/1.1 204 No\r\n\r\n"]
)
async def test_an_empty_response_is_unavailable_and_charged(provider: str, body: bytes) -> None:
    """The server took the request, so it may be billed."""

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        await writer.drain()

    event = await _event(play, provider)
    assert isinstance(event, ModelFailedEvent)
    assert (event.kind, event.charged_micros) == ("availability", RESERVED)


@both
async def test_an_endless_error_body_ends_at_the_deadline(provider: str) -> None:
    """The deadline bounds the whole request, including reading the reason of its failure."""
    left = asyncio.Event()

    async def play(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Oh\r\ncontent-type: text/plain\r\n\r\n")
        await writer.drain()
        await left.wait()

    task = asyncio.ensure_future(_event(play, provider, deadline_s=0.1))
    task.add_done_callback(lambda _: left.set())
    event = await task
    assert isinstance(event, ModelFailedEvent)
    assert "no whole answer within 0.1 s" in event.message


async def test_a_summary_that_is_too_long_to_store_is_a_failure() -> None:
    """It would be in every later prompt, and does not fit into an event."""
    event = await _event(_respond_with(_text("openai", "x" * 40_000)), "openai", purpose="compact")
    assert isinstance(event, ModelFailedEvent)
    assert "at most 32768 can be stored" in event.message
    summary = await _event(_respond_with(_text("openai", "x" * 30_000)), "openai", purpose="compact")
    assert isinstance(summary, Compacted)


@both
async def test_a_connection_that_the_server_closed_is_not_used_again(provider: str) -> None:
    """A server may close an idle connection at any time; the next request opens a new one."""
    asked: list[int] = []
    now = datetime.now(UTC)
    request = ModelRequest(model=f"{provider}/m", system="", messages=(Message(role="user", text="Time?"),))
    async with _server(_respond_with(_text(provider, "Noon.")), asked) as url:
        caller = Requester()
        for _ in range(3):
            work = ModelWork(
                tenant="acme",
                run="r1",
                turn=1,
                attempt=1,
                request=request,
                price=PRICE,
                base_url=url,
                cost_max_micros=RESERVED,
                start_by=now + timedelta(seconds=60),
            )
            reply, _ = await caller.request(work)
            assert reply.text == "Noon."
        await caller.aclose()
    assert len(asked) == 3


@pytest.mark.parametrize("key", ["n", "best_of", "max_completion_tokens", "service_tier"])
async def test_an_extra_that_breaks_the_bound_is_refused_before_anything_is_sent(key: str) -> None:
    """Five answers cost five times the reservation of one."""
    request = ModelRequest(model="openai/m", system="", messages=(), params={"extra_body": {key: 5}})
    caller = Requester()
    work = ModelWork(
        tenant="acme",
        run="r1",
        turn=1,
        attempt=1,
        request=request,
        price=PRICE,
        cost_max_micros=RESERVED,
        base_url="http://127.0.0.1:9/v1",
        start_by=datetime.now(UTC) + timedelta(seconds=60),
    )
    with pytest.raises(ModelFailed, match="would break the bound") as failed:
        await caller.request(work)
    await caller.aclose()
    assert (failed.value.kind, failed.value.possibly_billed) == ("permanent", False)


def nothing(messages: tuple[Message, ...]) -> Any:
    """A planner that forgot to return a plan."""
    del messages


def leaving(messages: tuple[Message, ...]) -> Plan:
    """A planner that ends the process."""
    raise SystemExit(len(messages))


def unwritable(messages: tuple[Message, ...]) -> Plan:
    """A planner whose arguments are not JSON."""
    return Plan(calls=(("clock", {"messages": object(), "n": messages}),))


@pytest.mark.parametrize("function", ["nothing", "leaving", "unwritable", "CASES", "no_such_function"])
async def test_a_planner_function_that_returns_no_plan_is_a_permanent_failure(function: str) -> None:
    """A mistake of an author is reported in one sentence, like one of a model."""
    request = ModelRequest(model="function/f", system="", messages=())
    work = ModelWork(
        tenant="acme",
        run="r1",
        turn=1,
        attempt=1,
        request=request,
        price=PRICE,
        cost_max_micros=0,
        planner=f"python:{__name__}.{function}",
        start_by=datetime.now(UTC) + timedelta(seconds=60),
    )
    with pytest.raises(ModelFailed, match="planner") as failed:
        await Requester().request(work)
    assert failed.value.kind == "permanent"


async def test_a_planner_module_that_cannot_be_imported_is_a_permanent_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing runs the code of the module, which may raise anything."""
    (tmp_path / "broken_flow.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModelFailed, match=r"cannot be imported \(ZeroDivisionError"):
        load_planner("python:broken_flow.plan")
