"""What real servers send beyond the standard: whole bodies, odd streams, garbage."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from linestop.models import anthropic, open_model, openai
from linestop.schemas.model_messages import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, ToolSpec, Usage

pytestmark = pytest.mark.anyio

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]
SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
TOOLS = (ToolSpec(name="clock", description="Tell the time.", parameters={"type": "object"}),)
CALL = {"index": 0, "id": "0", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
both = pytest.mark.parametrize("provider", ["anthropic", "openai"])


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: object) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _sse(*events: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events] + (["data: [DONE]\n\n"] if done else [])
    return "".join(lines).encode()


async def _ask(serve: Serve, answer: Canned, provider: str = "openai", **changes: Any) -> ModelReply:
    request = ModelRequest(
        model=f"{provider}/m", system="", messages=(Message(role="user", text="Time?"),), tools=TOOLS
    )
    async with serve([answer]) as (url, _):
        client = open_model(f"{provider}/m", base_url=url, tool_mode="native")
        try:
            return await client.complete(msgspec.structs.replace(request, **changes))
        finally:
            await client.aclose()


@pytest.mark.parametrize(
    "events",
    [
        (_chunk({"tool_calls": [CALL]}), _chunk({"content": ""}, None, usage=USAGE)),
        (_chunk({"tool_calls": [CALL]}), {"choices": [], "usage": USAGE}),
    ],
)
async def test_complete_calls_without_a_finish_reason_are_usable_when_the_stream_ended_well(
    serve: Serve, events: tuple[object, ...]
) -> None:
    """Some proxies never send tool_calls; usage or the end mark shows that nothing was cut off."""
    for done in (True, False):
        reply = await _ask(serve, (200, SSE, _sse(*events, done=done)))
        assert (reply.stop_reason, [call.name for call in reply.calls]) == ("calls", ["clock"])
        assert reply.usage == Usage(fresh_in=10, out=4)


async def test_calls_without_any_end_are_not_usable(serve: Serve) -> None:
    """Without finish reason, usage and end mark the arguments may be half of what the model wrote."""
    with pytest.raises(ModelFailed, match="without a finish reason") as failed:
        await _ask(serve, (200, SSE, _sse(_chunk({"tool_calls": [CALL]}), done=False)))
    assert failed.value.kind == "availability"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "It is noon, and"},
        {"tool_calls": [CALL | {"function": {"name": "clock", "arguments": '{"zone": "U'}}]},
        {"tool_calls": [CALL | {"function": {"name": "clock", "arguments": "12"}}]},
    ],
)
async def test_an_answer_that_may_be_half_needs_a_finish_reason(serve: Serve, delta: dict[str, Any]) -> None:
    """Text may stop anywhere and look complete; cut arguments do not even look complete."""
    with pytest.raises(ModelFailed, match="without saying why") as failed:
        await _ask(serve, (200, SSE, _sse(_chunk(delta), _chunk({}, None, usage=USAGE))))
    assert failed.value.kind == "malformed"


async def test_ids_that_start_at_zero_every_time_become_unique(serve: Serve) -> None:
    """Two calls of one run must never share an id."""
    first = _sse(_chunk({"tool_calls": [CALL]}, "tool_calls"))
    second = first.replace(b'"c1"', b'"c2"')
    ids = [(await _ask(serve, (200, SSE, body))).calls[0].id for body in (first, second)]
    assert len(set(ids)) == 2


async def test_fragments_without_an_index_are_put_together(serve: Serve) -> None:
    """A fragment with an id begins a call, and one without an id continues it."""
    parts = [
        {"id": "call_aaaaaaaa", "function": {"name": "clock", "arguments": '{"a"'}},
        {"function": {"arguments": ": 1}"}},
        {"id": "call_bbbbbbbb", "function": {"name": "clock", "arguments": "{}"}},
    ]
    events = [_chunk({"tool_calls": [part]}) for part in parts]
    reply = await _ask(serve, (200, SSE, _sse(*events, _chunk({}, "tool_calls"))))
    assert reply.calls == (
        ToolCall(id="call_aaaaaaaa", name="clock", args='{"a": 1}'),
        ToolCall(id="call_bbbbbbbb", name="clock", args="{}"),
    )


async def test_usage_that_is_not_reported_is_missing_in_the_reply(serve: Serve) -> None:
    """The budget then charges the reservation instead of nothing."""
    reply = await _ask(serve, (200, SSE, _sse(_chunk({"content": "Noon."}, "stop"))))
    assert (reply.text, reply.usage_reported, reply.usage) == ("Noon.", False, Usage())


async def test_reasoning_that_is_left_out_of_the_output_is_counted(serve: Serve) -> None:
    """The total shows what the completion figure of some servers hides."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 114,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    reply = await _ask(serve, (200, SSE, _sse(_chunk({"content": "Noon."}, "stop", usage=usage))))
    assert reply.usage == Usage(fresh_in=3, cache_read=6, cache_write=1, out=104, reasoning=100)


async def test_a_refusal_field_is_a_refusal(serve: Serve) -> None:
    """OpenAI refuses in a separate field, with an innocent finish reason."""
    with pytest.raises(ModelFailed, match="I will not") as failed:
        await _ask(serve, (200, SSE, _sse(_chunk({"refusal": "I will not."}), _chunk({}, "stop"))))
    assert failed.value.kind == "refusal"


async def test_an_error_in_the_stream_keeps_its_class(serve: Serve) -> None:
    """A provider that fails after the 200 reports that in an event."""
    event = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    with pytest.raises(ModelFailed, match="Overloaded") as failed:
        await _ask(serve, (200, SSE, _sse(event, done=False)), "anthropic")
    assert (failed.value.kind, failed.value.status) == ("availability", 529)
    with pytest.raises(ModelFailed, match="Overloaded") as failed:
        await _ask(serve, (200, JSON, json.dumps(event).encode()), "anthropic")
    assert failed.value.kind == "availability"
    with pytest.raises(ModelFailed, match="upstream") as failed:
        await _ask(serve, (200, SSE, _sse({"error": {"code": 502, "message": "upstream"}})))
    assert (failed.value.kind, failed.value.possibly_billed) == ("availability", True)


@both
@pytest.mark.parametrize(
    "body",
    [
        b'{"unexpected": true}',
        b"{}",
        b"[]",
        b"null",
        b"",
        b'"text"',
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"choices": []}',
        b'{"choices": null, "content": null}',
        b'{"id": "x", "model": "m", "content": [{"type": "tool_use"}], "usage": {}, "stop_reason": "tool_use"}',
        b'{"id": "x", "model": "m", "content": "text", "usage": {}, "stop_reason": "end_turn"}',
        b'{"choices": [{"message": {"tool_calls": [{"id": "a"}]}, "finish_reason": "tool_calls"}]}',
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_garbage_with_a_good_status_is_malformed(
    serve: Serve, provider: str, body: bytes, *, streamed: bool
) -> None:
    """Bodies that the SDKs turn into objects full of None, or into raw errors, are one clear failure."""
    answer = (200, SSE, b"data: %b\n\n" % body) if streamed else (200, JSON, body)
    with pytest.raises(ModelFailed) as failed:
        await _ask(serve, answer, provider)
    # An empty object is an event without a type for one provider and an empty stream for the other.
    assert failed.value.kind in ("malformed", "availability") if streamed else failed.value.kind == "malformed"
    assert failed.value.possibly_billed


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}],
        [{"type": "message_stop"}],
    ],
)
async def test_events_out_of_order_are_malformed(serve: Serve, events: list[dict[str, Any]]) -> None:
    """An event before the start of its message belongs to nothing."""
    with pytest.raises(ModelFailed) as failed:
        await _ask(serve, (200, SSE, _sse(*events, done=False)), "anthropic")
    assert failed.value.kind == "malformed"


def _message_start() -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 1}
    return {"type": "message_start", "message": {"id": "msg", "model": "m", "content": [], "usage": usage}}


@pytest.mark.parametrize(
    "middle",
    [
        [{"type": "content_block_delta", "index": 0, "delta": {"type": "from_the_future", "text": "x"}}],
        [{"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "x"}}],
        [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 1}}],
        [],
    ],
)
async def test_a_block_that_is_not_whole_is_malformed(serve: Serve, middle: list[dict[str, Any]]) -> None:
    """An unknown delta, a delta for another block, or a block that never ends: something is missing."""
    events = [
        _message_start(),
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *middle,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    with pytest.raises(ModelFailed) as failed:
        await _ask(serve, (200, SSE, _sse(*events, done=False)), "anthropic")
    assert failed.value.kind == "malformed"


async def test_unknown_events_between_the_others_are_left_out(serve: Serve) -> None:
    """The provider announced that it may add kinds of events; `ping` is one."""
    events = [
        {"type": "ping"},
        _message_start(),
        {"type": "from_the_future", "index": 7},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "No"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "on."}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"n": 1}}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    reply = await _ask(serve, (200, SSE, _sse(*events, done=False)), "anthropic")
    assert (reply.text, reply.usage) == ("Noon.", Usage(fresh_in=5, out=2))
    assert reply.blocks == ({"type": "text", "text": "Noon.", "citations": [{"n": 1}]},)


async def test_text_in_parts_is_text(serve: Serve) -> None:
    """Some servers send content as a list, with thinking that is not part of the answer."""
    parts: list[dict[str, Any]] = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Noon."}]
    reply = await _ask(serve, (200, SSE, _sse(_chunk({"content": parts}, "stop"))))
    assert reply.text == "Noon."


@both
async def test_a_redirect_is_not_followed(serve: Serve, provider: str) -> None:
    """It would carry key and conversation to an address that is not configured."""
    with pytest.raises(ModelFailed, match="answered 307") as failed:
        await _ask(serve, (307, {"location": "http://127.0.0.1:9/"}, b""), provider)
    assert failed.value.kind == "permanent"


@pytest.mark.parametrize(
    ("provider", "params", "name"),
    [
        ("anthropic", {"temperature": 0}, "temperature"),
        ("anthropic", {"service_tier": "auto"}, "service_tier"),
        ("anthropic", {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_control"),
        ("openai", {"service_tier": "priority"}, "service_tier"),
        ("openai", {"n": 2}, "n"),
    ],
)
async def test_a_parameter_outside_the_list_is_refused_before_anything_is_sent(
    serve: Serve, provider: str, params: dict[str, Any], name: str
) -> None:
    """A parameter that is unknown, dearer than the reservation or set by the adapter never reaches a provider."""
    async with serve([]) as (url, received):
        client = open_model(f"{provider}/m", base_url=url)
        request = ModelRequest(model=f"{provider}/m", system="", messages=(), params=params)
        with pytest.raises(ModelFailed, match=f'parameter "{name}"') as failed:
            await client.complete(request)
        await client.aclose()
        assert (failed.value.kind, received) == ("permanent", [])


async def test_configured_parameters_reach_the_wire(serve: Serve) -> None:
    """Parameters, limits, schemas and the settings of local servers are in the body that is sent."""
    schema = {"type": "object"}
    async with serve([(500, {}, b""), (500, {}, b"")]) as (url, received):
        for provider, params in (
            ("anthropic", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
            ("openai", {"temperature": 0, "extra_body": {"cache_prompt": True}}),
        ):
            client = open_model(f"{provider}/m", base_url=url)
            request = ModelRequest(
                model=f"{provider}/m",
                system="S",
                messages=(),
                params=params,
                output_tokens_max=77,
                output_schema=schema,
            )
            with pytest.raises(ModelFailed):
                await client.complete(request)
            await client.aclose()
    first, second = (json.loads(body) for _, body in received)
    assert first == {
        "model": "m",
        "max_tokens": 77,
        "messages": [],
        "stream": True,
        "system": "S",
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
    }
    assert second["cache_prompt"] is True
    assert (second["max_tokens"], second["temperature"], second["stream"]) == (77, 0, True)
    assert second["response_format"]["json_schema"]["schema"] == schema
    assert second["stream_options"] == {"include_usage": True}


def test_the_page_lists_the_parameters_that_are_sent() -> None:
    """The documentation and the lists in the code cannot differ."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    section = page.partition("**Parameters.**")[2].partition("## ")[0]
    anthropic_part, _, openai_part = section.partition("- `openai/`")
    assert all(f"`{name}`" in anthropic_part for name in anthropic.PARAMS)
    assert all(f"`{name}`" in openai_part for name in openai.PARAMS)
