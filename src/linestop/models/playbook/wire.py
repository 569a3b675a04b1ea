"""Encodes an answer as bytes: the JSON and event streams of both providers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from linestop.models.playbook.answer import ScriptedReply
from linestop.models.playbook.conversation import Conversation, WireFormat
from linestop.schemas.json_values import JsonObject

PIECE_CHARS = 40
_ANTHROPIC_STOPS = {"end": "end_turn", "calls": "tool_use", "length": "max_tokens"}
_OPENAI_STOPS = {"end": "stop", "calls": "tool_calls", "length": "length"}
_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
TERMINAL_EVENTS = {"anthropic": 2, "openai": 3}
"""How many events at the end of a stream complete the answer: stop reason, usage, end mark."""

BROKEN_EVENT = b'data: {"type": "content_block_del\n\n'


def error_body(wire: WireFormat, status: int, message: str) -> bytes:
    """An error in the form of the provider."""
    if wire == "anthropic":
        error = {"type": _ANTHROPIC_ERRORS.get(status, "api_error"), "message": message}
        return msgspec.json.encode({"type": "error", "error": error})
    kind = "invalid_request_error" if status < 429 else "server_error"
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": None}})


def whole_body(reply: ScriptedReply, conversation: Conversation) -> bytes:
    """The answer as one JSON body."""
    write = _anthropic_body if conversation.wire == "anthropic" else _openai_body
    return msgspec.json.encode(write(reply, conversation))


def stream_events(reply: ScriptedReply, conversation: Conversation) -> list[bytes]:
    """The answer as server-sent events."""
    if conversation.wire == "anthropic":
        events = _anthropic_events(reply, conversation)
        return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(event)) for event in events]
    return [
        *(b"data: %b\n\n" % _encode(chunk) for chunk in _openai_chunks(reply, conversation)),
        b"data: [DONE]\n\n",
    ]


def _anthropic_body(reply: ScriptedReply, conversation: Conversation) -> JsonObject:
    return _message(reply, conversation) | {
        "content": [_with_content(block, text) for block, text in _blocks(reply, conversation)],
        "stop_reason": _stop(reply, _ANTHROPIC_STOPS),
    }


def _anthropic_events(reply: ScriptedReply, conversation: Conversation) -> Iterator[JsonObject]:
    started = _message(reply, conversation)
    yield {"type": "message_start", "message": started | {"usage": started["usage"] | {"output_tokens": 1}}}
    for index, (block, text) in enumerate(_blocks(reply, conversation)):
        yield {"type": "content_block_start", "index": index, "content_block": block}
        kind, field = {
            "text": ("text_delta", "text"),
            "thinking": ("thinking_delta", "thinking"),
            "tool_use": ("input_json_delta", "partial_json"),
        }[block["type"]]
        for piece in _pieces(text):
            yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: piece}}
        if kind == "thinking_delta":
            delta = {"type": "signature_delta", "signature": _signature(conversation)}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _stop(reply, _ANTHROPIC_STOPS), "stop_sequence": None},
        "usage": started["usage"],
    }
    yield {"type": "message_stop"}


def _message(reply: ScriptedReply, conversation: Conversation) -> JsonObject:
    usage = reply.usage
    return {
        "id": f"msg_{_id(conversation)}",
        "type": "message",
        "role": "assistant",
        "model": conversation.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.input,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation_input_tokens": usage.cache_write,
            "output_tokens": usage.output,
            "output_tokens_details": {"thinking_tokens": usage.reasoning},
        },
    }


def _blocks(reply: ScriptedReply, conversation: Conversation) -> Iterator[tuple[JsonObject, str]]:
    """Each content block as it starts, and the text that then fills it."""
    if reply.thinking:
        yield {"type": "thinking", "thinking": "", "signature": ""}, reply.thinking
    if reply.text:
        yield {"type": "text", "text": ""}, reply.text
    for number, call in enumerate(reply.calls):
        call_id = f"toolu_{_id(conversation)}{number:02}"
        yield {"type": "tool_use", "id": call_id, "name": _wire_name(call.tool), "input": {}}, call.args


def _with_content(block: JsonObject, text: str) -> JsonObject:
    if block["type"] != "tool_use":
        return block | {block["type"]: text}
    try:
        return block | {"input": msgspec.json.decode(text)}
    except msgspec.DecodeError:
        # An unstreamed answer has no place for broken arguments, so they become an object around their text.
        return block | {"input": {"not_an_object": text}}


def _openai_body(reply: ScriptedReply, conversation: Conversation) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.calls:
        message["tool_calls"] = [
            _call(reply, conversation, number) | {"function": {"name": _wire_name(call.tool), "arguments": call.args}}
            for number, call in enumerate(reply.calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": _stop(reply, _OPENAI_STOPS)}
    return _completion(conversation, "chat.completion") | {
        "choices": [choice],
        "usage": _openai_usage(reply),
    }


def _openai_chunks(reply: ScriptedReply, conversation: Conversation) -> Iterator[JsonObject]:
    head = _completion(conversation, "chat.completion.chunk")

    def chunk(delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.text):
        yield chunk({"content": piece})
    for number, call in enumerate(reply.calls):
        begun = _call(reply, conversation, number) | {"function": {"name": _wire_name(call.tool), "arguments": ""}}
        yield chunk({"tool_calls": [begun | {"index": number}]})
        for piece in _pieces(call.args):
            yield chunk({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    yield chunk({}, _stop(reply, _OPENAI_STOPS))
    yield head | {"choices": [], "usage": _openai_usage(reply)}


def _call(reply: ScriptedReply, conversation: Conversation, number: int) -> JsonObject:
    assert 0 <= number < len(reply.calls)
    return {"id": f"call_{_id(conversation)}{number:02}", "type": "function"}


def _completion(conversation: Conversation, kind: str) -> JsonObject:
    return {"id": f"chatcmpl-{_id(conversation)}", "object": kind, "created": 0, "model": conversation.model}


def _openai_usage(reply: ScriptedReply) -> JsonObject:
    usage = reply.usage
    prompt = usage.input + usage.cache_read + usage.cache_write
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output,
        "total_tokens": prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _stop(reply: ScriptedReply, names: dict[str, str]) -> str | None:
    # A truncated answer has the stop reason of the limit, whatever the script says.
    if reply.stop_verbatim is not None and reply.stop != "length":
        return reply.stop_verbatim or None
    return names[reply.stop]


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS))


def _id(conversation: Conversation) -> str:
    return conversation.digest.hex()[:20]


def _signature(conversation: Conversation) -> str:
    return f"signed-{conversation.digest.hex()[:40]}"


def _wire_name(tool: str) -> str:
    return tool.replace(".", "__")


def _encode(value: JsonObject) -> bytes:
    return msgspec.json.encode(value)
