"""A request of either wire format as one conversation, so that a script is independent of the provider."""

from __future__ import annotations

import hashlib
from typing import Literal, cast

import msgspec

from linestop.schemas.json_values import JsonObject

WireFormat = Literal["anthropic", "openai"]
JSON_MODE_SCHEMA = "linestop_step"
"""The name of the ``response_format`` that linestop uses for models that cannot call tools."""


class _Request(msgspec.Struct):
    model: str
    messages: list[JsonObject]
    stream: bool = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: JsonObject | None = None


class _ToolResultForm(msgspec.Struct):
    """The form of a result: see ``schemas.run.state.call_outcome``."""

    status: str
    result: msgspec.Raw = msgspec.Raw()
    message: str = ""
    left_out: str = ""


class Turn(msgspec.Struct, frozen=True):
    """The input of one answer of the model: the texts since its last answer, and the results of tools."""

    texts: tuple[str, ...]
    results: tuple[tuple[str, str], ...]
    """Pairs of tool and result."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """One request, normalised. ``turns`` has one entry per previous answer, and one for the next."""

    wire: WireFormat
    model: str
    stream: bool
    tokens_max: int
    request_bytes: int
    wants_json_mode: bool
    turns: tuple[Turn, ...]
    digest: bytes
    """The digest of the messages: equal for a repeated request, different at every other place."""

    @property
    def task(self) -> str:
        """The first text of a user."""
        return next((text for turn in self.turns for text in turn.texts), "")

    @property
    def last_tool(self) -> str:
        """The tool of the last result in the whole conversation; empty without a result."""
        return self._last_result_with_tool[0]

    @property
    def last_result(self) -> str:
        """The last result; empty without one."""
        return self._last_result_with_tool[1]

    @property
    def _last_result_with_tool(self) -> tuple[str, str]:
        results = (turn.results[-1] for turn in reversed(self.turns) if turn.results)
        return next(results, ("", ""))


def read_conversation(wire: WireFormat, body: bytes) -> Conversation:
    """Read a request body.

    Raises:
        msgspec.MsgspecError: when the body is not a request.
    """
    request = msgspec.json.decode(body, type=_Request)
    schema = (request.response_format or {}).get("json_schema")
    return Conversation(
        wire=wire,
        model=request.model,
        stream=request.stream,
        tokens_max=request.max_completion_tokens or request.max_tokens or 1_000_000,
        request_bytes=len(body),
        wants_json_mode=isinstance(schema, dict) and cast("JsonObject", schema).get("name") == JSON_MODE_SCHEMA,
        turns=_turns(request.messages),
        digest=hashlib.sha256(msgspec.json.encode([request.model, request.messages])).digest(),
    )


def _turns(messages: list[JsonObject]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    texts: list[str] = []
    results: list[tuple[str, str]] = []
    tool_by_call_id: dict[str, str] = {}
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            tool_by_call_id |= _tools_by_call_id(message)
            turns.append(Turn(tuple(texts), tuple(results)))
            texts, results = [], []
        elif role == "tool":
            results.append((tool_by_call_id.get(str(message.get("tool_call_id")), ""), _result(message.get("content"))))
        elif role == "user":
            for block in _blocks(message.get("content")):
                if block.get("type") == "tool_result":
                    tool = tool_by_call_id.get(str(block.get("tool_use_id")), "")
                    results.append((tool, _result(block.get("content"))))
                else:
                    texts.append(str(block.get("text", "")))
    turns.append(Turn(tuple(texts), tuple(results)))
    return tuple(turns)


def _tools_by_call_id(message: JsonObject) -> dict[str, str]:
    """Tool names, dotted again, by call id, from either wire format."""
    tool_by_call_id: dict[str, str] = {}
    for call in cast("list[JsonObject]", message.get("tool_calls") or []):
        tool_by_call_id[str(call.get("id"))] = str(call.get("function", {}).get("name", "")).replace("__", ".")
    for block in _blocks(message.get("content")):
        if block.get("type") == "tool_use":
            tool_by_call_id[str(block.get("id"))] = str(block.get("name", "")).replace("__", ".")
    return tool_by_call_id


def _blocks(content: object) -> list[JsonObject]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        return []
    items = cast("list[object]", content)
    return [cast("JsonObject", block) for block in items if isinstance(block, dict)]


def _joined_text(content: object) -> str:
    return "".join(str(block.get("text", "")) for block in _blocks(content))


def _result(content: object) -> str:
    """The result or error of a tool, taken from the form in which linestop sends it to models."""
    text = _joined_text(content)
    try:
        form = msgspec.json.decode(text, type=_ToolResultForm)
    except (msgspec.DecodeError, RecursionError):
        return text
    result = bytes(form.result)
    if not result:
        return form.message or form.left_out
    return msgspec.json.decode(result, type=str) if result.startswith(b'"') else result.decode()
