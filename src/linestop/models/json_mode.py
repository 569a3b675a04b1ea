"""Tools for models that may not be able to call them, or certainly are not.

On trial, the final answer is a tool like the others: a model that can call tools then has no reason to answer
without a call, so its first answer shows whether it can. In JSON-schema mode each turn is one JSON object
that a schema constrains.

Small local models mostly ignore ``tools`` and even ``tool_choice: required``, but fill in a schema reliably.
So the tools become alternatives of one schema, the conversation becomes plain text, and the returned object
becomes a call again. The schema bounds strings, because such answers are otherwise cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import msgspec

from linestop.models.embedded_schemas import Pointer, embed_schema, transform_schema
from linestop.models.wire_names import from_wire, json_mode_call_id, to_wire
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import Message, ModelFailed, ModelReply, ModelRequest, ToolCall, ToolSpec

SCHEMA_NAME = "linestop_step"
FINAL_ANSWER_TOOL = "final_answer"
STRING_CHARS_MAX = 2_000

_JSON_MODE_RULES = (
    "Answer with exactly one JSON object and nothing else. To use a tool: "
    '{"tool": "<its name>", "args": {...}}. When you know the answer: '
    '{"tool": "final_answer", "args": {"answer": ...}}. After a tool you get its result and may go on.\n'
    "The tools:"
)


_TRIAL_RULES = f'Always answer by calling a tool. When you know the answer, call "{FINAL_ANSWER_TOOL}".'


class _JsonTurn(msgspec.Struct, forbid_unknown_fields=True):
    tool: str
    args: msgspec.Raw


class _FinalAnswer(msgspec.Struct):
    answer: msgspec.Raw


def has_reserved_name(tools: Iterable[ToolSpec]) -> bool:
    """Whether one of the tools has the name of the final answer."""
    return any(to_wire(tool.name) == FINAL_ANSWER_TOOL for tool in tools)


def trial_request(request: ModelRequest) -> ModelRequest:
    """The same request with the final answer among its tools."""
    final = ToolSpec(
        name=FINAL_ANSWER_TOOL,
        description="Gives the final answer.",
        parameters=_final_answer_schema({"type": "string"}),
    )
    system = f"{request.system}\n{_TRIAL_RULES}".strip()
    return msgspec.structs.replace(request, system=system, tools=(*request.tools, final))


def trial_reply(reply: ModelReply, requested_model: str) -> ModelReply:
    """Turn a call of the final answer into the answer; beside other calls it came too early and is dropped.

    Raises:
        ModelFailed: ``malformed`` when the call has no answer.
    """
    others = tuple(call for call in reply.calls if call.name != FINAL_ANSWER_TOOL)
    if others or not reply.calls:
        return msgspec.structs.replace(reply, calls=others)
    try:
        text = _final_answer_text(reply.calls[0].args.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(reply, f"{requested_model} called {FINAL_ANSWER_TOOL} without an answer ({error}).") from error
    return msgspec.structs.replace(reply, text=text, calls=(), stop_reason="end")


def json_mode_request(request: ModelRequest) -> tuple[ModelRequest, JsonObject]:
    """Rewrite a request with tools as a request without, and its ``response_format``.

    Raises:
        ModelFailed: ``permanent`` when a tool has the name of the final answer.
    """
    if has_reserved_name(request.tools):
        raise ModelFailed(
            "permanent", f'The tool name "{FINAL_ANSWER_TOOL}" is taken in JSON-schema mode; rename the tool.'
        )
    lines = [
        f"- {to_wire(tool.name)}: {tool.description} Arguments: {_json(tool.parameters)}" for tool in request.tools
    ]
    system = "\n".join([request.system, _JSON_MODE_RULES, *lines]).strip()
    messages = tuple(_message(message) for message in request.messages)
    written = msgspec.structs.replace(request, system=system, messages=messages, tools=(), output_schema=None)
    schema = _schema(request.tools, request.output_schema)
    return written, {
        "type": "json_schema",
        "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": schema},
    }


def json_mode_reply(reply: ModelReply, requested_model: str) -> ModelReply:
    """Read the object back into a call or an answer.

    Raises:
        ModelFailed: ``malformed`` when the reply is not such an object.
    """
    try:
        turn = msgspec.json.decode(reply.text, type=_JsonTurn)
        if turn.tool == FINAL_ANSWER_TOOL:
            return msgspec.structs.replace(reply, text=_final_answer_text(bytes(turn.args)))
    except (msgspec.DecodeError, RecursionError) as error:
        sentence = (
            f"{requested_model} did not keep to the JSON schema of its turn ({error}); use another model or server."
        )
        raise _malformed(reply, sentence) from error
    call = ToolCall(
        id=json_mode_call_id(reply.request_id or reply.text),
        name=from_wire(turn.tool),
        args=bytes(turn.args).decode(),
    )
    return msgspec.structs.replace(reply, text="", calls=(call,), stop_reason="calls")


def bound_strings(schema: JsonObject) -> JsonObject:
    """Copy a JSON Schema with every unbounded string bounded."""

    def visit(fields: JsonObject, at: Pointer) -> JsonObject:
        del at
        kinds = fields.get("type")
        is_text = kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
        if not is_text or fields.keys() & {"maxLength", "enum", "const", "pattern", "format"}:
            return fields
        return fields | {"maxLength": max(STRING_CHARS_MAX, fields.get("minLength", 0))}

    return transform_schema(schema, visit)


def _final_answer_text(args: bytes) -> str:
    """The text of a final answer; the exact JSON of a structured one."""
    answer = bytes(msgspec.json.decode(args, type=_FinalAnswer).answer)
    value = cast("object", msgspec.json.decode(answer))
    return value if isinstance(value, str) else answer.decode()


def _malformed(reply: ModelReply, sentence: str) -> ModelFailed:
    usage = reply.usage if reply.usage_reported else None
    return ModelFailed("malformed", sentence, usage=usage, possibly_billed=usage is None)


def _final_answer_schema(answer: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": {"answer": answer},
        "required": ["answer"],
        "additionalProperties": False,
    }


def _schema(tools: Iterable[ToolSpec], output_schema: JsonObject | None) -> JsonObject:
    definitions: JsonObject = {}
    named = ((to_wire(tool.name), tool.parameters) for tool in tools)
    turns = [(name, embed_schema(parameters, name, definitions)) for name, parameters in named]
    turns.append(
        (
            FINAL_ANSWER_TOOL,
            _final_answer_schema(embed_schema(output_schema or {"type": "string"}, FINAL_ANSWER_TOOL, definitions)),
        )
    )
    schema: JsonObject = {
        "anyOf": [
            {
                "type": "object",
                "properties": {"tool": {"const": name}, "args": args},
                "required": ["tool", "args"],
                "additionalProperties": False,
            }
            for name, args in turns
        ]
    }
    return bound_strings(schema | ({"$defs": definitions} if definitions else {}))


def _message(message: Message) -> Message:
    if message.role == "tool":
        head = "The tool failed:" if message.is_error and message.outcome is None else "Result of the tool:"
        return Message(role="user", text=f"{head}\n{message.result_text}")
    if message.role == "assistant":
        turns = [f'{{"tool": "{to_wire(call.name)}", "args": {call.args}}}' for call in message.calls]
        lines = turns or [_json({"tool": FINAL_ANSWER_TOOL, "args": {"answer": message.text}})]
        return Message(role="assistant", text="\n".join(lines))
    return message


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
