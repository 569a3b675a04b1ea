"""Tools for models that cannot call them: each turn is one JSON object that a schema constrains.

Small local models mostly ignore ``tools`` and even ``tool_choice: required``, but fill in a schema reliably.
So the tools become alternatives of one schema, the conversation becomes plain text, and the object that
comes back becomes a call again. Strings are bounded in the schema, or such answers get cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from linestop.models.names import from_wire, to_wire, unique_id
from linestop.schemas.model import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, ToolSpec

SCHEMA_NAME = "linestop_step"
FINAL = "final_answer"
STRING_CHARS_MAX = 2_000

_INTRODUCTION = (
    "Answer with exactly one JSON object and nothing else. To use a tool: "
    '{"tool": "<its name>", "args": {...}}. When you know the answer: '
    '{"tool": "final_answer", "args": {"answer": ...}}. After a tool you get its result and may go on.\n'
    "The tools:"
)


class _Step(msgspec.Struct, forbid_unknown_fields=True):
    tool: str
    args: msgspec.Raw


class _Final(msgspec.Struct):
    answer: msgspec.Raw


def step_request(request: ModelRequest) -> tuple[ModelRequest, dict[str, Any]]:
    """Rewrite a request with tools as one without, and the ``response_format`` that goes with it.

    Raises:
        ModelFailed: ``permanent`` when a tool has the name of the final answer.
    """
    if any(to_wire(tool.name) == FINAL for tool in request.tools):
        raise ModelFailed("permanent", f'The tool name "{FINAL}" is taken in JSON-schema mode; rename the tool.')
    lines = [
        f"- {to_wire(tool.name)}: {tool.description} Arguments: {_json(tool.parameters)}" for tool in request.tools
    ]
    system = "\n".join([request.system, _INTRODUCTION, *lines]).strip()
    messages = tuple(_message(message) for message in request.messages)
    written = msgspec.structs.replace(request, system=system, messages=messages, tools=(), output_schema=None)
    schema = _schema(request.tools, request.output_schema)
    return written, {
        "type": "json_schema",
        "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": schema},
    }


def step_reply(reply: ModelReply, who: str) -> ModelReply:
    """Read the object back into a call or an answer.

    Raises:
        ModelFailed: ``malformed`` when it is no such object.
    """
    try:
        step = msgspec.json.decode(reply.text, type=_Step)
        if step.tool == FINAL:
            answer = bytes(msgspec.json.decode(step.args, type=_Final).answer)
            value = cast("object", msgspec.json.decode(answer))
            return msgspec.structs.replace(reply, text=value if isinstance(value, str) else answer.decode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFailed(
            "malformed",
            f"{who} did not keep to the JSON schema of its turn ({error}); use another model or server.",
            usage=reply.usage if reply.usage_reported else None,
            possibly_billed=not reply.usage_reported,
        ) from error
    call = ToolCall(
        id=unique_id("", reply.request_id or reply.text),
        name=from_wire(step.tool),
        args=bytes(step.args).decode(),
    )
    return msgspec.structs.replace(reply, text="", calls=(call,), stop_reason="calls")


def bounded(schema: object) -> object:
    """Copy a JSON Schema with every free string bounded."""
    if isinstance(schema, list):
        return [bounded(item) for item in cast("list[object]", schema)]
    if not isinstance(schema, dict):
        return schema
    fields = {key: bounded(value) for key, value in cast("dict[str, object]", schema).items()}
    if fields.get("type") == "string" and not fields.keys() & {
        "maxLength",
        "enum",
        "const",
        "pattern",
        "format",
    }:
        fields["maxLength"] = STRING_CHARS_MAX
    return fields


def _schema(tools: Iterable[ToolSpec], output_schema: dict[str, Any] | None) -> dict[str, Any]:
    answer = output_schema or {"type": "string"}
    final = {
        "type": "object",
        "properties": {"answer": answer},
        "required": ["answer"],
        "additionalProperties": False,
    }
    turns = [(to_wire(tool.name), tool.parameters) for tool in tools] + [(FINAL, final)]
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {"tool": {"const": name}, "args": bounded(parameters)},
                "required": ["tool", "args"],
                "additionalProperties": False,
            }
            for name, parameters in turns
        ]
    }


def _message(message: Message) -> Message:
    if message.role == "tool":
        head = "The tool failed:" if message.is_error else "Result of the tool:"
        return Message(role="user", text=f"{head}\n{message.text}")
    if message.role == "assistant":
        turns = [f'{{"tool": "{to_wire(call.name)}", "args": {call.args}}}' for call in message.calls]
        said = turns or [_json({"tool": FINAL, "args": {"answer": message.text}})]
        return Message(role="assistant", text="\n".join(said))
    return message


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
