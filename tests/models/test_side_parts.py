"""An unreadable side part never invalidates an answer, streamed or whole; half an answer is never acted on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from linestop.models import open_model
from linestop.schemas.model_messages import Message, ModelFailed, ModelReply, ModelRequest, ToolSpec, Usage

pytestmark = pytest.mark.anyio

Canned = tuple[int, dict[str, str], bytes]
Served = tuple[str, list[tuple[dict[str, str], bytes]]]
Serve = Callable[[list[Canned]], AbstractAsyncContextManager[Served]]
Raw = dict[str, Any]
TOOLS = (ToolSpec(name="clock", description="Tell the time.", parameters={"type": "object"}),)
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
COUNTED = Usage(fresh_in=10, out=4)
CALLS = [("clock", {"zone": "A"}), ("clock", {"zone": "B"})]


async def _ask(serve: Serve, provider: str, body: bytes, media: str = "text/event-stream") -> ModelReply:
    request = ModelRequest(
        model=f"{provider}/m", system="", messages=(Message(role="user", text="Time?"),), tools=TOOLS
    )
    async with serve([(200, {"content-type": media} if media else {}, body)]) as (url, _):
        client = open_model(f"{provider}/m", base_url=url, tool_mode="native")
        try:
            return await client.complete(request)
        finally:
            await client.aclose()


def _sse(*events: object, end: str = "\n\n", last: str = "") -> bytes:
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in events]
    return "".join(line + end for line in [*lines, *([last] if last else [])]).encode()


# --- OpenAI ------------------------------------------------------------------------------------------------


def _chunk(delta: object = None, finish: object = None, **more: object) -> Raw:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _call_row(**more: object) -> Raw:
    function = {"name": "clock", "arguments": '{"zone": "A"}'}
    return {"index": 0, "id": "call_aaaaaaaa", "type": "function", "function": function, **more}


def _function(arguments: object, **more: object) -> Raw:
    return {"function": {"name": "clock", "arguments": arguments, **more}}


TEXT, END = _chunk({"content": "Noon."}), _chunk({}, "stop", usage=USAGE)
TWO = [_call_row(), _call_row(id="call_bbbbbbbb", **_function('{"zone": "B"}'))]
CALLED = _chunk({}, "tool_calls", usage=USAGE)
OPENAI_TEXTS: dict[str, bytes] = {
    "no [DONE]": _sse(TEXT, END),
    "no blank line at the end": _sse(TEXT, END) + b"data: [DONE]",
    "an end without its blank line": _sse(TEXT) + f"data: {json.dumps(END)}\n".encode(),
    "choices null": _sse(_chunk() | {"choices": None}, TEXT, END),
    "choices missing": _sse({"id": "c1"}, TEXT, END),
    "a choice that is null": _sse(_chunk() | {"choices": [None]}, TEXT, END),
    "no index of the choice": _sse({"choices": [{"delta": {"content": "Noon."}}]}, END),
    "no calls, as an object and as a text": _sse(
        _chunk({"content": "No", "tool_calls": dict[str, object]()}), _chunk({"content": "on.", "tool_calls": ""}), END
    ),
    "choices as an empty object": _sse({**_chunk(), "choices": dict[str, object]()}, TEXT, END),
    "events that are no objects": _sse('data: "ping"', TEXT, "data: []", "data: 1", "data: true", END),
    "another index at the end": _sse(
        TEXT, {"choices": [{"index": 1, "delta": dict[str, object](), "finish_reason": "stop"}], "usage": USAGE}
    ),
    "index null": _sse({"choices": [{"index": None, "delta": {"content": "Noon."}}]}, END),
    "index as text": _sse({"choices": [{"index": "0", "delta": {"content": "Noon."}}]}, END),
    "delta null": _sse(_chunk(None), TEXT, END),
    "everything null": _sse(dict.fromkeys(("id", "model", "usage", "error", "object", "choices")), TEXT, END),
    "fields of a delta null": _sse(
        _chunk({"content": None, "role": None, "tool_calls": None, "refusal": None}), TEXT, END
    ),
    "id as a number": _sse(TEXT | {"id": 7}, END | {"id": 7}),
    "model as an object": _sse(TEXT | {"model": {"name": "m"}}, END),
    "empty events": _sse("data:", "data: ", "data: null", TEXT, "data:", END),
    "comments and pings": _sse(": ping", TEXT, "event: ping\ndata: {}", ": OPENROUTER PROCESSING", END),
    "retry and id lines": _sse("retry: 3000", TEXT, "id: 5", END),
    "an event that only names itself": _sse("event: keepalive", TEXT, END),
    "a mark at the beginning": b"\xef\xbb\xbf" + _sse(TEXT, END),
    "CRLF": _sse(TEXT, END, end="\r\n\r\n"),
    "CR": _sse(TEXT, END, end="\r\r"),
    "one choice, in no list": _sse({"choices": {"index": 0, "delta": {"content": "Noon."}}}, END),
    "content as one part": _sse(_chunk({"content": {"type": "text", "text": "Noon."}}), END),
    "no finish yet, as false": _sse(_chunk({"content": "Noon."}, finish=False), END),
    "finish with a space": _sse(TEXT, _chunk({}, " stop ", usage=USAGE)),
    "finish in capitals": _sse(TEXT, _chunk({}, "STOP", usage=USAGE)),
    "finish of another server": _sse(TEXT, _chunk({}, "eos_token", usage=USAGE)),
    "content in parts with null": _sse(_chunk({"content": [None, {"type": "text", "text": None}, "Noon."]}), END),
    "empty error": _sse(TEXT | {"error": None}, END | {"error": dict[str, str]()}),
    "unknown fields": _sse(TEXT | {"x": [1], "service_tier": None}, END | {"system_fingerprint": None}),
    "a character cut by its escape": _sse(
        _chunk({"content": "\ud83d"}), _chunk({"content": "\ude00"}), _chunk({"content": "Noon."}), END
    ),
    "a character cut in its bytes": _sse(_chunk({"content": "AAA"}), _chunk({"content": "BBB"}), TEXT, END)
    .replace(b"AAA", "é😀".encode()[:4])
    .replace(b"BBB", "é😀".encode()[4:]),
}
OPENAI_CALLS: dict[str, bytes] = {
    "both with index 0, at once": _sse(_chunk({"tool_calls": TWO}), CALLED),
    "both with index 0, one after the other": _sse(*(_chunk({"tool_calls": [call]}) for call in TWO), CALLED),
    "no index": _sse(_chunk({"tool_calls": [{**call, "index": None} for call in TWO]}), CALLED),
    "index as text": _sse(_chunk({"tool_calls": [call | {"index": str(i)} for i, call in enumerate(TWO)]}), CALLED),
    "indexes with a hole": _sse(
        _chunk({"tool_calls": [call | {"index": 2 * i} for i, call in enumerate(TWO)]}), CALLED
    ),
    "indexes below zero": _sse(_chunk({"tool_calls": [call | {"index": i - 1} for i, call in enumerate(TWO)]}), CALLED),
    "arguments as objects": _sse(
        _chunk({"tool_calls": [_call_row(**_function({"zone": zone})) | {"index": i} for i, zone in enumerate("AB")]}),
        CALLED,
    ),
    "no ids": _sse(_chunk({"tool_calls": [call | {"id": None, "index": i} for i, call in enumerate(TWO)]}), CALLED),
    "ids as numbers": _sse(
        _chunk({"tool_calls": [call | {"id": i, "index": i} for i, call in enumerate(TWO)]}), CALLED
    ),
    "one id for both": _sse(
        _chunk({"tool_calls": [call | {"id": "call_aaaaaaaa", "index": i} for i, call in enumerate(TWO)]}), CALLED
    ),
    "stop instead of tool_calls": _sse(_chunk({"tool_calls": TWO}), END),
    "end_turn instead of tool_calls": _sse(_chunk({"tool_calls": TWO}), _chunk({}, "end_turn", usage=USAGE)),
    "function_call instead of tool_calls": _sse(_chunk({"tool_calls": TWO}), _chunk({}, "function_call", usage=USAGE)),
    "no type": _sse(
        _chunk({"tool_calls": [{key: call[key] for key in ("index", "id", "function")} for call in TWO]}), CALLED
    ),
    "null among them": _sse(_chunk({"tool_calls": [None, *TWO, None]}), CALLED),
    "index 0 and no ids, at once": _sse(_chunk({"tool_calls": [call | {"id": None} for call in TWO]}), CALLED),
    "index 0 and no ids, one after the other": _sse(
        *(_chunk({"tool_calls": [call | {"id": None}]}) for call in TWO), CALLED
    ),
    "no index and no ids, one after the other": _sse(
        *(_chunk({"tool_calls": [call | {"id": None, "index": None}]}) for call in TWO), CALLED
    ),
    "index 0 and one id, one after the other": _sse(
        *(_chunk({"tool_calls": [call | {"id": "call_aaaaaaaa"}]}) for call in TWO), CALLED
    ),
    "a whole call that is repeated, one after the other": _sse(
        *(_chunk({"tool_calls": [call | {"index": i}]}) for i, call in enumerate(TWO) for _ in range(2)), CALLED
    ),
    "fragments that repeat what came before": _sse(
        *(
            _chunk(
                {"tool_calls": [_call_row(index=i, id=f"call_{i}_xxxxxx", **_function(f'{{"zone": "{zone}"}}'[:end]))]}
            )
            for i, zone in enumerate("AB")
            for end in (4, 9, 13)
        ),
        CALLED,
    ),
    "a placeholder before the fragments": _sse(
        *(
            _chunk({"tool_calls": [_call_row(index=i, id=f"call_{i}_xxxxxx", function={"name": name, "arguments": a})]})
            for i, zone in enumerate("AB")
            for name, a in [("clock", "{}"), (None, '{"zo'), (None, f'ne": "{zone}"}}')]
        ),
        CALLED,
    ),
    "an object of calls": _sse(_chunk({"tool_calls": {str(i): call for i, call in enumerate(TWO)}}), CALLED),
    "an id made up for each fragment": _sse(
        *(
            _chunk(
                {"tool_calls": [_call_row(index=i, id=f"call_{i}_{j}_xxxx", function={"name": name, "arguments": a})]}
            )
            for i, zone in enumerate("AB")
            for j, (name, a) in enumerate([("clock", '{"zo'), (None, f'ne": "{zone}"}}')])
        ),
        CALLED,
    ),
    "flat": _sse(
        _chunk(
            {
                "tool_calls": [
                    {"index": i, "id": f"call_{i}_xxxxxx", "name": "clock", "arguments": f'{{"zone": "{zone}"}}'}
                    for i, zone in enumerate("AB")
                ]
            }
        ),
        CALLED,
    ),
}
UNREADABLE: dict[str, object] = {
    "null inside": {"prompt_tokens": None, "completion_tokens": 4},
    "texts": {"prompt_tokens": "10", "completion_tokens": "4"},
    "below zero": {"prompt_tokens": -1, "completion_tokens": 4},
    "more than there are": {"prompt_tokens": 10**15, "completion_tokens": 4},
    "far more than there are": {"prompt_tokens": 10**30, "completion_tokens": 4},
    "a list": [1, 2],
    "a text": "10",
    "details that are a text": USAGE | {"prompt_tokens_details": "none"},
    "a detail below zero": USAGE | {"prompt_tokens_details": {"cached_tokens": -1}},
    "true": {"prompt_tokens": True, "completion_tokens": 4},
    "a half": {"prompt_tokens": 10.5, "completion_tokens": 4},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "no output for a text": {"prompt_tokens": 10, "completion_tokens": 0},
    "nothing": {},
    "missing": None,
}


@pytest.mark.parametrize("case", OPENAI_TEXTS)
async def test_a_text_of_openai_stands(serve: Serve, case: str) -> None:
    """Whatever is odd beside it."""
    reply = await _ask(serve, "openai", OPENAI_TEXTS[case])
    assert (reply.text.removeprefix("é").removeprefix("😀"), reply.stop_reason) == ("Noon.", "end")
    assert (reply.usage_reported, reply.usage) == (True, COUNTED)
    assert isinstance(reply.request_id, str)
    assert isinstance(reply.model, str)


@pytest.mark.parametrize("case", OPENAI_CALLS)
@pytest.mark.parametrize("streamed", [True, False])
async def test_two_calls_of_openai_stand(serve: Serve, case: str, *, streamed: bool) -> None:
    """Both, with different ids and whole arguments, whatever their numbers are."""
    body, media = OPENAI_CALLS[case], "text/event-stream"
    if not streamed:
        if "fragment" in case or "one after" in case:
            pytest.skip("a whole body has no fragments")
        first, last = (json.loads(line.removeprefix("data: ")) for line in body.decode().split("\n\n")[:2])
        choice = {"message": first["choices"][0]["delta"], "finish_reason": last["choices"][0]["finish_reason"]}
        body, media = json.dumps(first | {"choices": [choice], "usage": USAGE}).encode(), "application/json"
    reply = await _ask(serve, "openai", body, media)
    assert [(call.name, json.loads(call.args)) for call in reply.calls] == CALLS
    assert len({call.id for call in reply.calls}) == 2
    assert (reply.stop_reason, reply.usage) == ("calls", COUNTED)


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("streamed", [True, False])
async def test_usage_of_openai_that_cannot_be_read_is_unreported(serve: Serve, case: str, *, streamed: bool) -> None:
    """The answer stands, and counts at its reservation."""
    body = _sse(TEXT, _chunk({}, "stop", usage=UNREADABLE[case]))
    if not streamed:
        choice = {"message": {"content": "Noon."}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": UNREADABLE[case]}).encode()
    reply = await _ask(serve, "openai", body, "text/event-stream" if streamed else "application/json")
    assert (reply.text, reply.usage_reported, reply.usage) == ("Noon.", False, Usage())


async def test_no_counter_falls(serve: Serve) -> None:
    """Reports are totals: a later, smaller report does not reduce the usage."""
    later = {"prompt_tokens": 0, "completion_tokens": 9, "total_tokens": 9}
    reply = await _ask(serve, "openai", _sse(TEXT | {"usage": USAGE | {"prompt_tokens": 16}}, END | {"usage": later}))
    assert reply.usage == Usage(fresh_in=16, out=9)
    start = {"input_tokens": 4_000, "cache_read_input_tokens": 7, "output_tokens": 1}
    delta = {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 16}
    reply = await _ask(serve, "anthropic", _stream(_block(), usage=start, end={"usage": delta}))
    assert reply.usage == Usage(fresh_in=4_000, cache_read=7, out=16)


# --- Anthropic ---------------------------------------------------------------------------------------------

MESSAGE: Raw = {"id": "msg_1", "model": "m", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}
STOP: Raw = {"type": "message_stop"}


def _block(index: object = 0, text: str = "Noon.") -> list[Raw]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": index},
    ]


def _use(zone: str, index: object = 0, pieces: tuple[object, ...] | None = None, **block: object) -> list[Raw]:
    start: Raw = {"type": "tool_use", "id": f"toolu_{zone}", "name": "clock", "input": {}, **block}
    written = (f'{{"zone": "{zone}"}}',) if pieces is None else pieces
    deltas = [
        {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in written
    ]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *deltas,
        {"type": "content_block_stop", "index": index},
    ]


def _stream(
    *blocks: list[Raw],
    start: Raw = MESSAGE,
    usage: object = None,
    stop: object = "end_turn",
    end: Raw | None = None,
    between: tuple[object, ...] = (),
) -> bytes:
    message = start | ({} if usage is None else {"usage": usage})
    delta = {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 4}, **(end or {})}
    events = [event for block in blocks for event in block]
    return _sse({"type": "message_start", "message": message}, *between, *events, delta, STOP)


ANTHROPIC_TEXTS: dict[str, bytes] = {
    "no content in the message": _stream(_block(), start={"id": "m", "model": "m", "usage": MESSAGE["usage"]}),
    "no model": _stream(_block(), start={"id": "m", "content": [], "usage": MESSAGE["usage"]}),
    "an end in capitals": _stream(_block(), stop="END_TURN"),
    "a piece without its type": _stream([_block()[0], _block()[1] | {"delta": {"text": "Noon."}}, *_block()[2:]]),
    "a piece of an unknown kind with nothing in it": _stream(
        [*_block()[:2], _block()[1] | {"delta": {"type": "pause_delta"}}, *_block()[2:]]
    ),
    "an end of another provider": _stream(_block(), stop="stop"),
    "a message that is a text": _stream(_block(), between=({"type": "message_start", "message": "x"},)),
    "ends that are empty": _stream(
        [*_block(), *({"type": "message_delta", "delta": empty} for empty in (list[object](), "", None))]
    ),
    "an empty piece behind the end": _stream(
        [*_block(), {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}}]
    ),
    "no end of the block": _stream(_block()[:-1]),
    "no id": _stream(_block(), start={"model": "m", "content": [], "usage": MESSAGE["usage"]}),
    "id as a number": _stream(_block(), start=MESSAGE | {"id": 7}),
    "null everywhere": _stream(
        _block(), start=MESSAGE | dict.fromkeys(("id", "model", "content", "role", "stop_reason", "container"))
    ),
    "the index begins at 2": _stream(_block(2)),
    "indexes 0 and 2": _stream(_block(0, "No"), _block(2, "on.")),
    "no index": _stream(_block(None)),
    "index as text": _stream(_block("0")),
    "both blocks with index 0": _stream(_block(0, "No"), _block(0, "on.")),
    "a block without its type": _stream(
        [{"type": "content_block_start", "index": 0, "content_block": None}, *_block()[1:]]
    ),
    "a text that is null at first": _stream(
        [_block()[0] | {"content_block": {"type": "text", "text": None}}, *_block()[1:]]
    ),
    "a piece that is null": _stream(
        [_block()[0], _block()[1] | {"delta": {"type": "text_delta", "text": None}}, *_block()[1:]]
    ),
    "a delta that is null": _stream([_block()[0], _block()[1] | {"delta": None}, *_block()[1:]]),
    "a block that ends twice": _stream([*_block(), _block()[2]]),
    "an end of no block": _stream([*_block(), {"type": "content_block_stop", "index": 9}]),
    "pings and unknown events": _stream(
        [_block()[0], {"type": "ping"}, {"type": "from_the_future", "index": "x"}, *_block()[1:]],
        between=({"type": "ping"}, "event: ping\ndata: {}", ": comment", "data:", "data: null"),
    ),
    "message_start twice": _stream(_block(), between=({"type": "message_start", "message": MESSAGE},)),
    "message_start twice, later": _stream([*_block(), {"type": "message_start", "message": MESSAGE}]),
    "types in the names only": b"".join(
        f"event: {event['type']}\ndata: {json.dumps({k: v for k, v in event.items() if k != 'type'})}\n\n".encode()
        for event in [
            {"type": "message_start", "message": MESSAGE},
            *_block(),
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
            STOP,
        ]
    ),
    "an unknown kind of block": _stream(
        [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "from_the_future", "x": 1}},
            {"type": "content_block_stop", "index": 0},
        ],
        _block(1),
    ),
    "CRLF": _stream(_block()).replace(b"\n", b"\r\n"),
    "CR": _stream(_block()).replace(b"\n", b"\r"),
    "a mark at the beginning": b"\xef\xbb\xbf" + _stream(_block()),
    "no blank line at the end": _stream(_block()).rstrip(b"\n"),
    "[DONE] after it": _stream(_block()) + b"data: [DONE]\n\n",
    "a later message_delta without usage": _stream(_block(), end={}).replace(
        b'data: {"type": "message_stop"}',
        b'data: {"type": "message_delta", "delta": {"stop_reason": null}, "usage": null}\n\n'
        b'data: {"type": "message_stop"}',
    ),
    "a character cut by its escape": _stream(
        [_block()[0], *(_block(0, half)[1] for half in ("\ud83d", "\ude00", "Noon.")), _block()[2]]
    ),
}
ANTHROPIC_CALLS: dict[str, bytes] = {
    "input as an object at the beginning": _stream(
        *(_use(zone, i, (), input={"zone": zone}) for i, zone in enumerate("AB")), stop="tool_use"
    ),
    "input as a text at the beginning": _stream(
        *(_use(zone, i, (), input=f'{{"zone": "{zone}"}}') for i, zone in enumerate("AB")), stop="tool_use"
    ),
    "input null at the beginning": _stream(*(_use(z, i, input=None) for i, z in enumerate("AB")), stop="tool_use"),
    "a piece as an object": _stream(*(_use(z, i, ({"zone": z},)) for i, z in enumerate("AB")), stop="tool_use"),
    "empty pieces": _stream(
        *(_use(z, i, ("", None, f'{{"zone": "{z}"}}', "")) for i, z in enumerate("AB")), stop="tool_use"
    ),
    "no ids": _stream(*(_use(z, i, id=None) for i, z in enumerate("AB")), stop="tool_use"),
    "ids as numbers": _stream(*(_use(z, i, id=i) for i, z in enumerate("AB")), stop="tool_use"),
    "one id for both": _stream(*(_use(z, i, id="toolu_1") for i, z in enumerate("AB")), stop="tool_use"),
    "both with index 0": _stream(_use("A"), _use("B"), stop="tool_use"),
    "indexes with a hole": _stream(_use("A", 1), _use("B", 3), stop="tool_use"),
    "no index": _stream(_use("A", None), _use("B", None), stop="tool_use"),
    "end_turn instead of tool_use": _stream(_use("A"), _use("B", 1)),
    "no stop reason": _stream(_use("A"), _use("B", 1), stop=None),
    "stop instead of tool_use": _stream(_use("A"), _use("B", 1), stop="stop"),
    "no ends of the blocks": _stream(_use("A")[:-1], _use("B", 1)[:-1], stop="tool_use"),
    "no ends, and both with index 0": _stream(_use("A")[:-1], _use("B")[:-1], stop="tool_use"),
    "no ends and no index": _stream(_use("A", None)[:-1], _use("B", None)[:-1], stop="tool_use"),
    "no ends, and inputs at the beginning": _stream(
        *(_use(zone, i, (), input={"zone": zone})[:-1] for i, zone in enumerate("AB")), stop="tool_use"
    ),
    "tool_calls instead of tool_use": _stream(_use("A"), _use("B", 1), stop="tool_calls"),
    "pieces that repeat what came before": _stream(
        *(_use(z, i, ('{"zo', f'{{"zone": "{z}', f'{{"zone": "{z}"}}')) for i, z in enumerate("AB")), stop="tool_use"
    ),
    "a placeholder before the pieces": _stream(
        *(_use(z, i, ("{}", '{"zo', f'ne": "{z}"}}')) for i, z in enumerate("AB")), stop="tool_use"
    ),
}
ANTHROPIC_UNREADABLE: dict[str, tuple[Any, Any]] = {
    "null inside": ({"input_tokens": None}, {"output_tokens": 4}),
    "texts": ({"input_tokens": "10"}, {"output_tokens": 4}),
    "texts at the end": ({"input_tokens": 10}, {"output_tokens": "4"}),
    "below zero": ({"input_tokens": -10}, {"output_tokens": 4}),
    "too many": ({"input_tokens": 10}, {"output_tokens": 10**30}),
    "a cache counter that is a text": ({"input_tokens": 10, "cache_read_input_tokens": "x"}, {"output_tokens": 4}),
    "details that are a list": ({"input_tokens": 10}, {"output_tokens": 4, "output_tokens_details": [1]}),
    "a list": ([1], {"output_tokens": 4}),
    "a text": ({"input_tokens": 10}, "4"),
    "zeros": ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 0, "output_tokens": 0}),
    "no output for a text": ({"input_tokens": 10, "output_tokens": 1}, {"output_tokens": 0}),
    "no end": ({"input_tokens": 10, "output_tokens": 1}, None),
}


@pytest.mark.parametrize("case", ANTHROPIC_TEXTS)
async def test_a_text_of_anthropic_stands(serve: Serve, case: str) -> None:
    """Whatever is odd beside it."""
    reply = await _ask(serve, "anthropic", ANTHROPIC_TEXTS[case])
    assert (reply.text.removeprefix("😀"), reply.stop_reason) == ("Noon.", "end")
    assert (reply.usage_reported, reply.usage) == (True, COUNTED)


@pytest.mark.parametrize("case", ANTHROPIC_CALLS)
async def test_two_calls_of_anthropic_stand(serve: Serve, case: str) -> None:
    """Both, with different ids and whole arguments."""
    reply = await _ask(serve, "anthropic", ANTHROPIC_CALLS[case])
    assert [(call.name, json.loads(call.args)) for call in reply.calls] == CALLS
    assert len({call.id for call in reply.calls}) == 2
    assert (reply.stop_reason, reply.usage) == ("calls", COUNTED)


@pytest.mark.parametrize("case", ANTHROPIC_UNREADABLE)
@pytest.mark.parametrize("streamed", [True, False])
async def test_usage_of_anthropic_that_cannot_be_read_is_unreported(serve: Serve, case: str, *, streamed: bool) -> None:
    """The answer stands, and counts at its reservation."""
    start, end = ANTHROPIC_UNREADABLE[case]
    body, media = _stream(_block(), usage=start, end={"usage": end}), "text/event-stream"
    if not streamed:
        usage: Raw | None = None
        if isinstance(start, dict) and isinstance(end, dict):
            usage = {**cast("Raw", start), **cast("Raw", end)}
        whole: Raw = MESSAGE | {
            "content": [{"type": "text", "text": "Noon."}],
            "stop_reason": "end_turn",
            "usage": usage,
        }
        body, media = json.dumps(whole).encode(), "application/json"
    reply = await _ask(serve, "anthropic", body, media)
    assert (reply.text, reply.usage_reported, reply.usage) == ("Noon.", False, Usage())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"content": [{"type": "text", "text": None}, {"type": "text", "text": "Noon."}]}, "Noon."),
        ({"content": [None, {"type": "text", "text": "Noon."}]}, "Noon."),
        ({"content": [{"type": "text", "text": "Noon.", "citations": None}], "id": None, "model": None}, "Noon."),
        ({"content": [{"type": "text", "text": None}]}, ""),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "Noon."}], "stop_reason": "End_Turn"}, "Noon."),
    ],
)
async def test_a_whole_answer_of_anthropic_stands(serve: Serve, changes: Raw, text: str) -> None:
    """A text that is null is empty; it is not the word None."""
    whole = MESSAGE | {"type": "message", "stop_reason": "end_turn", **changes}
    reply = await _ask(serve, "anthropic", json.dumps(whole).encode(), "application/json")
    assert (reply.text, reply.stop_reason) == (text, "end")


def _bytewise(head: bytes, tail: bytes) -> list[bytes]:
    """The bytes of an emoji, one per event."""
    return [head + bytes([byte]) + tail for byte in "é😀".encode()]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("cut", ["in its bytes", "in its surrogates"])
async def test_watchers_see_a_character_whole_or_not_yet(serve: Serve, provider: str, cut: str) -> None:
    """The first half of a character waits for the second, and no mark replaces it."""
    halves = ["é", "\ud83d", "\ude00"]
    if provider == "openai":
        pieces, end = [_chunk({"content": half}) for half in halves], _sse(END)
        start, marked = b"", _sse(_chunk({"content": "MARK"}))
    else:
        pieces, whole = [_block(text=half)[1] for half in halves], _stream(_block(text="MARK"))
        start, marked, end = (part + b"\n\n" for part in _parted(whole))
    middle = b"".join(_bytewise(*marked.split(b"MARK"))) if cut == "in its bytes" else _sse(*pieces)
    seen: list[str] = []

    async def watch(text: str) -> None:
        seen.append(text)

    request = ModelRequest(model=f"{provider}/m", system="", messages=(Message(role="user", text="Time?"),))
    async with serve([(200, {"content-type": "text/event-stream"}, start + middle + end)]) as (url, _):
        client = open_model(f"{provider}/m", base_url=url, tool_mode="native")
        reply = await client.complete(request, watch)
        await client.aclose()
    assert reply.text == "é😀"
    assert [text for text in seen if text] == ["é", "😀"]


def _parted(whole: bytes) -> tuple[bytes, bytes, bytes]:
    """The part before the event with the text, that event, and the part after it."""
    events = whole.removesuffix(b"\n\n").split(b"\n\n")
    at = next(place for place, event in enumerate(events) if b"MARK" in event)
    return b"\n\n".join(events[:at]), events[at], b"\n\n".join(events[at + 1 :])


async def test_one_call_in_pieces_is_never_two(serve: Serve) -> None:
    """A fragment that is a whole object inside other arguments does not begin a call."""
    fragments = ['{"zone": ', '{"of": "A"}', "}"]
    rows = [_call_row(id=None, function={"name": "clock", "arguments": fragment}) for fragment in fragments]
    reply = await _ask(serve, "openai", _sse(*(_chunk({"tool_calls": [row]}) for row in rows), CALLED))
    assert [json.loads(call.args) for call in reply.calls] == [{"zone": {"of": "A"}}]


# --- both --------------------------------------------------------------------------------------------------

STREAMS = {"openai": _sse(TEXT, END), "anthropic": _stream(_block())}
BODIES = {
    "openai": json.dumps({"choices": [{"message": {"content": "Noon."}, "finish_reason": "stop"}], "usage": USAGE}),
    "anthropic": json.dumps(
        MESSAGE
        | {"content": [{"type": "text", "text": "Noon."}], "stop_reason": "end_turn"}
        | {"usage": {"input_tokens": 10, "output_tokens": 4}}
    ),
}


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize(
    "media",
    ["", "text/plain", "application/octet-stream", "application/json", "text/event-stream", "TEXT/EVENT-STREAM"],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_label_does_not_decide_how_an_answer_is_read(
    serve: Serve, provider: str, media: str, *, streamed: bool
) -> None:
    """Proxies mislabel both forms; the content decides."""
    body = STREAMS[provider] if streamed else b"\xef\xbb\xbf\n" + BODIES[provider].encode()
    reply = await _ask(serve, provider, body, media)
    assert (reply.text, reply.usage) == ("Noon.", COUNTED)


HALF = '{"zone": "A'
UNFINISHED: dict[str, tuple[str, bytes, str]] = {
    "half arguments that end with stop": (
        "openai",
        _sse(_chunk({"tool_calls": [_call_row(**_function(HALF))]}), END),
        "malformed",
    ),
    "half arguments without a finish reason": (
        "openai",
        _sse(_chunk({"tool_calls": [_call_row(**_function(HALF))]}), _chunk({}, None, usage=USAGE)),
        "malformed",
    ),
    "a call without arguments that ends with stop": (
        "openai",
        _sse(_chunk({"tool_calls": [_call_row(**_function(""))]}), END),
        "malformed",
    ),
    "a call without arguments behind a whole one, without a finish reason": (
        "openai",
        _sse(
            _chunk({"tool_calls": [_call_row(), _call_row(index=1, id="call_bbbbbbbb", **_function(""))]}),
            _chunk({}, None, usage=USAGE),
        ),
        "malformed",
    ),
    "two calls that are mixed": (
        "openai",
        _sse(
            _chunk({"tool_calls": [_call_row(**_function(HALF))]}),
            _chunk({"tool_calls": [_call_row(id="call_bbbbbbbb", **_function('"}'))]}),
            CALLED,
        ),
        "malformed",
    ),
    "a text without an end": ("openai", _sse(TEXT), "availability"),
    "an error in the middle": (
        "openai",
        _sse(TEXT, {"error": {"code": 502, "message": "upstream"}}, END),
        "availability",
    ),
    "an error in the middle, by its name": (
        "openai",
        _sse(TEXT, 'event: error\ndata: {"code": 502, "message": "upstream"}', END),
        "availability",
    ),
    "a broken event in the middle": ("openai", _sse(TEXT, 'data: {"choices": [', END), "malformed"),
    "an unpaired surrogate": ("openai", _sse(_chunk({"content": "\ud83d"}), END), "malformed"),
    "two choices": ("openai", _sse(TEXT, {"choices": [{"index": 1, "delta": {"content": "x"}}]}, END), "malformed"),
    "a call without an input whose block has no end": (
        "anthropic",
        _stream(_use("A", 0, ())[:-1], stop="tool_use"),
        "malformed",
    ),
    "half an input whose block has no end": (
        "anthropic",
        _stream(_use("A", 0, (HALF,))[:-1], stop="tool_use"),
        "malformed",
    ),
    "a piece behind the end": (
        "anthropic",
        _stream([*_block(), {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}]),
        "malformed",
    ),
    "a legacy call that ends with stop": (
        "openai",
        _sse(_chunk({"function_call": {"name": "clock", "arguments": "{}"}}), END),
        "malformed",
    ),
    "choices that are a text": ("openai", _sse(_chunk() | {"choices": "x"}, TEXT, END), "malformed"),
    "an event that is a list with something in it": ("openai", _sse([TEXT], END), "malformed"),
    "half an input that ends with end_turn": ("anthropic", _stream(_use("A", 0, (HALF,))), "malformed"),
    "no message_stop": ("anthropic", _stream(_block())[: -len(_sse(STOP))], "availability"),
    "half of message_stop": ("anthropic", _stream(_block())[:-8], "availability"),
    "an error at the end": (
        "anthropic",
        _stream(_block()).replace(
            b'data: {"type": "message_stop"}', b'data: {"type": "error", "error": {"type": "overloaded_error"}}'
        ),
        "availability",
    ),
    "another message in the middle": (
        "anthropic",
        _stream([*_block(), {"type": "message_start", "message": MESSAGE | {"id": "msg_2"}}]),
        "malformed",
    ),
    "a text without a stop reason": ("anthropic", _stream(_block(), stop=None), "malformed"),
    "a piece of no block": ("anthropic", _stream([_block()[1]]), "malformed"),
    "a block of which there is nothing but its beginning": ("anthropic", _stream(_block()[:1]), "malformed"),
}


@pytest.mark.parametrize("case", UNFINISHED)
async def test_an_unfinished_answer_is_never_acted_on(serve: Serve, case: str) -> None:
    """Leniency ends where a part of the answer may be missing."""
    provider, body, kind = UNFINISHED[case]
    with pytest.raises(ModelFailed) as failed:
        await _ask(serve, provider, body)
    assert failed.value.kind == kind


@pytest.mark.parametrize(
    ("provider", "body", "kind"),
    [
        ("openai", _sse(TEXT | {"usage": USAGE}, 'data: {"choices": ['), "malformed"),
        ("openai", _sse(TEXT | {"usage": USAGE}, {"error": {"code": 502}}), "availability"),
        ("openai", _sse(_chunk({"refusal": "No."}), END), "refusal"),
        ("openai", _sse(_chunk({"tool_calls": [_call_row(**_function(HALF))]}), END), "malformed"),
        ("anthropic", _stream(_use("A", 0, (HALF,)), _block(1)).replace(b'"text_delta"', b'"odd"'), "malformed"),
        ("anthropic", _stream(_block(), stop="refusal"), "refusal"),
        ("anthropic", _stream(_block(), stop="max_tokens"), "truncated"),
        ("anthropic", _stream(_block())[: -len(_sse(STOP))], "availability"),
    ],
)
async def test_a_failed_answer_carries_the_usage_that_was_reported(
    serve: Serve, provider: str, body: bytes, kind: str
) -> None:
    """The reported usage is charged, not the reservation; without a report at the end it may be billed in full."""
    with pytest.raises(ModelFailed) as failed:
        await _ask(serve, provider, body)
    early = b'"odd"' in body
    assert failed.value.kind == kind
    assert (failed.value.usage, failed.value.possibly_billed) == ((None, True) if early else (COUNTED, False))
