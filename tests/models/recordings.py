"""Reads recorded traffic of providers by a few plain lines: the requests, and the expected outcome of each answer.

Nothing here knows a particular recording. Whether an answer is to be understood or refused, and why, follows from
its path, its status and its content, so an unknown recording is judged like the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from linestop.models.wire_names import from_wire
from linestop.schemas.model_messages import FailureClass, Message, ModelRequest, ToolCall, ToolSpec

Raw = dict[str, Any]

_WIRES = {"/messages": "anthropic", "/chat/completions": "openai"}
_STATUS: dict[int, FailureClass] = {
    408: "availability",
    409: "availability",
    425: "availability",
    429: "rate_limit",
    499: "cancelled",
}
_FAILURE_BY_STOP: dict[str, FailureClass] = {
    "max_tokens": "truncated",
    "length": "truncated",
    "model_context_window_exceeded": "truncated",
    "pause_turn": "truncated",
    "refusal": "refusal",
    "content_filter": "refusal",
}
_STOP_REASONS = {
    "end_turn": "end",
    "stop": "end",
    "tool_use": "calls",
    "tool_calls": "calls",
    "stop_sequence": "stop_sequence",
}


@dataclass
class ExpectedReply:
    """An answer that must be understood, with its intended content."""

    model: str
    stop_reason: str
    text: str
    calls: list[tuple[str, str]]
    usage: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class ExpectedFailure:
    """An answer that must be refused: the class and the words of the failure."""

    kind: FailureClass
    words: str
    status: int | None = None


def wire_of(interaction: Raw) -> str:
    """Which of linestop's two protocols this exchange uses, or None."""
    path = interaction["path"].partition("?")[0].rstrip("/")
    posted = interaction.get("method", "POST") == "POST" and isinstance(interaction["request"], dict)
    return next((wire for end, wire in _WIRES.items() if posted and path.endswith(end)), "")


def expected(interaction: Raw) -> ExpectedReply | ExpectedFailure:
    """The expected outcome of a recorded answer."""
    status, response = interaction["status"], interaction["response"]
    if status >= 300:
        return _failure_of_status(status, response)
    if wire_of(interaction):
        return _expected_of_response(wire_of(interaction), response)
    named = "Responses API" if interaction["path"].partition("?")[0].endswith("/responses") else "not its protocol"
    return ExpectedFailure("malformed", named)


def _failure_of_status(status: int, response: Any) -> ExpectedFailure:
    error = _fields(response).get("error") if isinstance(response, dict) else None
    error = _fields(error) if isinstance(error, dict) else {}
    kind: FailureClass = _STATUS.get(status) or ("availability" if status >= 500 else "permanent")
    if error.get("code") in {"content_filter", "content_policy_violation"}:
        kind = "refusal"
    return ExpectedFailure(kind, str(error.get("message", ""))[:40], status)


def _expected_of_response(wire: str, response: Any) -> ExpectedReply | ExpectedFailure:
    try:
        if isinstance(response, str):
            response = _JOIN_STREAM[wire](_events(response))
        if isinstance(response.get("error"), dict):
            return ExpectedFailure("unknown", str(response["error"].get("message", ""))[:40])
        stop, reply = _READ_RESPONSE[wire](response)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ExpectedFailure("malformed", "not its protocol")
    if stop is None and reply.calls and all(_is_object(args) for _, args in reply.calls):
        # Some proxies send no stop reason; complete calls count all the same.
        stop = "tool_calls"
    if stop is None:
        return ExpectedFailure("unknown", "")
    if stop in _FAILURE_BY_STOP:
        return ExpectedFailure(_FAILURE_BY_STOP[stop], "")
    if stop not in _STOP_REASONS:
        return ExpectedFailure("malformed", str(stop))
    if bool(reply.calls) != (_STOP_REASONS[stop] == "calls"):
        return ExpectedFailure("malformed", f"made {len(reply.calls)} tool calls")
    reply.stop_reason = _STOP_REASONS[stop]
    return reply


# --- answers -----------------------------------------------------------------------------------------------


def _fields(value: Any) -> Raw:
    row: Raw = value or {}
    return row


def items(value: Any) -> list[Raw]:
    """A recorded list, which may be null."""
    found: list[Raw] = value or []
    return found


def _events(stream: str) -> list[Raw]:
    lines = [line.removeprefix("data:").strip() for line in stream.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _is_object(args: str) -> bool:
    try:
        return isinstance(json.loads(args), dict)
    except ValueError:
        return False


def _text_of(content: Any) -> str:
    return content or "" if not isinstance(content, list) else "".join(part.get("text", "") for part in items(content))


def _anthropic(response: Raw) -> tuple[str | None, ExpectedReply]:
    blocks, usage = items(response["content"]), _fields(response.get("usage"))
    calls = [(from_wire(block["name"]), json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"]
    counts = {
        "fresh_in": usage["input_tokens"],
        "cache_read": usage.get("cache_read_input_tokens") or 0,
        "cache_write": usage.get("cache_creation_input_tokens") or 0,
        "out": usage["output_tokens"],
        "reasoning": _fields(usage.get("output_tokens_details")).get("thinking_tokens", 0),
    }
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    return response["stop_reason"], ExpectedReply(response["model"], "", text, calls, counts)


def _anthropic_joined(events: list[Raw]) -> Raw:
    message: Raw = {}
    parts: dict[int, list[str]] = {}
    for event in events:
        if event["type"] == "error":
            return event
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append(event["content_block"])
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            parts.setdefault(event["index"], []).append(delta.get("text", delta.get("partial_json", "")))
        elif event["type"] == "message_delta":
            message["usage"] |= event["usage"]
            message["stop_reason"] = event["delta"]["stop_reason"]
    for index, block in enumerate(message["content"]):
        joined = "".join(parts.get(index, []))
        if block["type"] == "text":
            block["text"] = joined
        elif block["type"] == "tool_use":
            block["input"] = json.loads(joined or "{}")
    return message


def _openai(response: Raw) -> tuple[str | None, ExpectedReply]:
    (choice,) = response["choices"]
    message, usage = choice["message"], _fields(response.get("usage"))
    details = _fields(usage.get("prompt_tokens_details"))
    calls = [call["function"] for call in items(message.get("tool_calls"))]
    counts: dict[str, int] = {}
    if usage:
        cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
        counts = {
            "fresh_in": usage["prompt_tokens"] - cached - written,
            "cache_read": cached,
            "cache_write": written,
            # Some servers leave reasoning out of the output.
            "out": max(usage["completion_tokens"], usage.get("total_tokens", 0) - usage["prompt_tokens"]),
            "reasoning": _fields(usage.get("completion_tokens_details")).get("reasoning_tokens") or 0,
        }
    stop = "refusal" if message.get("refusal") else choice["finish_reason"]
    named = [(from_wire(call["name"]), call["arguments"] or "{}") for call in calls]
    return stop, ExpectedReply(response["model"], "", _text_of(message.get("content")), named, counts)


def _openai_joined(chunks: list[Raw]) -> Raw:
    message: Raw = {"content": "", "tool_calls": [], "refusal": ""}
    usage: Raw = {}
    stop: str | None = None
    for chunk in chunks:
        if chunk.get("error"):
            return chunk
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            stop = choice.get("finish_reason") or stop
            message["content"] += _text_of(choice["delta"].get("content"))
            message["refusal"] += choice["delta"].get("refusal") or ""
            for call in items(choice["delta"].get("tool_calls")):
                made, fragment = message["tool_calls"], call["function"]
                index = call.get("index", len(made) if call.get("id") else len(made) - 1)
                if index == len(made):
                    made.append({"function": {"name": fragment["name"], "arguments": ""}})
                made[index]["function"]["arguments"] += fragment.get("arguments") or ""
    return {"model": chunks[0]["model"], "choices": [{"message": message, "finish_reason": stop}], "usage": usage}


_READ_RESPONSE: dict[str, Callable[[Raw], tuple[str | None, ExpectedReply]]] = {
    "anthropic": _anthropic,
    "openai": _openai,
}
_JOIN_STREAM: dict[str, Callable[[list[Raw]], Raw]] = {"anthropic": _anthropic_joined, "openai": _openai_joined}


# --- requests ----------------------------------------------------------------------------------------------


def request_of(interaction: Raw) -> ModelRequest:
    """The recorded request in linestop's types, without server-side tools; for another protocol only its model."""
    wire, recorded = wire_of(interaction), interaction["request"]
    if not wire:
        provider = "anthropic" if "anthropic" in interaction.get("host", "") else "openai"
        model = _fields(recorded).get("model", "any") if isinstance(recorded, dict) else "any"
        return ModelRequest(model=f"{provider}/{model}", system="", messages=(Message(role="user", text="hello"),))
    tools: list[ToolSpec] = []
    for tool in items(recorded.get("tools")):
        body = tool.get("function", tool)
        schema = body.get("input_schema") or body.get("parameters")
        if schema is not None:
            name, description = from_wire(body["name"]), body.get("description") or ""
            tools.append(ToolSpec(name=name, description=description, parameters=schema))
    read = _anthropic_message if wire == "anthropic" else _openai_message
    messages = [message for entry in recorded["messages"] for message in read(entry)]
    return ModelRequest(model=f"{wire}/{recorded['model']}", system="", messages=tuple(messages), tools=tuple(tools))


def blocks_of(entry: Raw) -> list[Raw]:
    """The content blocks of a recorded message."""
    content = entry["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _anthropic_message(entry: Raw) -> list[Message]:
    blocks = blocks_of(entry)
    if entry["role"] == "assistant":
        return [Message(role="assistant", blocks=tuple(blocks), blocks_of="anthropic")]
    messages: list[Message] = []
    for block in blocks:
        if block["type"] == "tool_result":
            text = json.dumps(block.get("content", ""))
            messages.append(Message(role="tool", call_id=block["tool_use_id"], text=text))
        else:
            messages.append(Message(role="user", text=str(block.get("text", block["type"]))))
    return messages


def _openai_message(entry: Raw) -> list[Message]:
    text = entry.get("content") or ""
    text = text if isinstance(text, str) else json.dumps(text)
    if entry["role"] == "assistant":
        made = [call for call in items(entry.get("tool_calls")) if "function" in call]
        calls = tuple(
            ToolCall(id=c["id"], name=from_wire(c["function"]["name"]), args=c["function"]["arguments"]) for c in made
        )
        return [Message(role="assistant", text=text, calls=calls)]
    if entry["role"] == "tool":
        return [Message(role="tool", call_id=entry["tool_call_id"], text=text)]
    return [Message(role="user", text=text)]
