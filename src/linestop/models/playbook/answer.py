"""Chooses the step that answers a request, and composes its answer. Pure and stateless.

The rule: each step answers once per conversation (or always, with ``repeat``), and the first step of the file
that has not answered yet and whose ``when`` holds is next. The steps that have answered are not stored but
derived from the conversation in the request: the rule is applied again to each answer in it. So a server may be
restarted or serve any number of runs at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from linestop.models.playbook.conversation import Conversation, Turn
from linestop.models.playbook.script import Call, Playbook, Step, Tokens, When

_PLACEHOLDER = re.compile(r"\{\{\s*([a-z_]+(?:\.[^{}\s]+)?)\s*\}\}")
_BYTES_PER_TOKEN = 4


class NoScriptedReply(Exception):
    """Raised when the script has no answer; the message is for the author of the script."""


class ScriptedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it is sent: dotted name, argument text."""

    tool: str
    args: str


class ScriptedReply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, still independent of a wire format. ``stop`` is one of end, calls and length."""

    text: str
    calls: tuple[ScriptedCall, ...]
    thinking: str
    stop: str
    stop_verbatim: str | None
    usage: Tokens


def choose_step(playbook: Playbook, conversation: Conversation) -> int:
    """Return the number of the step that answers.

    Raises:
        NoScriptedReply: naming model, turn and last tool, when no step answers.
    """
    used: set[int] = set()
    seen_texts: list[str] = []
    found: int | None = None
    for number, turn in enumerate(conversation.turns, start=1):
        seen_texts += [text.casefold() for text in turn.texts]
        seen_texts += [result.casefold() for _, result in turn.results]
        found = _first_matching_step(playbook.steps, used, number, (turn, seen_texts))
        if found is not None and not playbook.steps[found].repeat:
            used.add(found)
    if found is None:
        after = f' after a result of "{conversation.last_tool}"' if conversation.last_tool else ""
        raise NoScriptedReply(
            f'No step of the playbook "{playbook.name}" answers turn {len(conversation.turns)}{after}: '
            f"{len(used)} of {len(playbook.steps)} steps are used up and no other one's `when` holds."
        )
    return found


def compose_reply(playbook: Playbook, step: Step, conversation: Conversation) -> ScriptedReply:
    """Fill in a step's placeholders and count its tokens.

    Raises:
        NoScriptedReply: when a placeholder names a field that the last result does not have.
    """
    text = _filled(step.say, conversation)
    text, calls = _as_model_can(
        playbook, text, tuple(_scripted_call(call, conversation) for call in step.call), conversation
    )
    thinking = _filled(step.thinking, conversation)
    size = len(text) + len(thinking) + sum(len(call.tool) + len(call.args) for call in calls)
    counted = Tokens(input=-(-conversation.request_bytes // _BYTES_PER_TOKEN), output=size // _BYTES_PER_TOKEN + 1)
    reply = ScriptedReply(
        text=text,
        calls=calls,
        thinking=thinking,
        stop="calls" if calls else "end",
        stop_verbatim=step.stop,
        usage=step.usage or counted,
    )
    if step.usage is None and counted.output > conversation.tokens_max:
        return truncate_reply(reply, conversation.tokens_max)
    return reply


def truncate_reply(reply: ScriptedReply, tokens_max: int | None = None) -> ScriptedReply:
    """Cut an answer as a provider does at its token limit: the last part is only half there."""
    calls = reply.calls
    text = reply.text if calls else reply.text[: len(reply.text) // 2]
    if calls:
        last = calls[-1]
        calls = (*calls[:-1], ScriptedCall(tool=last.tool, args=last.args[: len(last.args) // 2]))
    output = reply.usage.output if tokens_max is None else tokens_max
    usage = msgspec.structs.replace(reply.usage, output=output)
    return msgspec.structs.replace(reply, text=text, calls=calls, stop="length", usage=usage)


def _first_matching_step(
    steps: Sequence[Step], used: set[int], number: int, seen: tuple[Turn, Sequence[str]]
) -> int | None:
    unused = ((place, step) for place, step in enumerate(steps) if place not in used)
    return next((place for place, step in unused if _matches(step.when, number, *seen)), None)


def _matches(when: When, number: int, turn: Turn, seen_texts: Sequence[str]) -> bool:
    return (
        (when.turn is None or when.turn == number)
        and (when.contains is None or any(when.contains.casefold() in text for text in seen_texts))
        and (when.not_contains is None or not any(when.not_contains.casefold() in text for text in seen_texts))
        and (when.tool_result is None or any(tool == when.tool_result for tool, _ in turn.results))
    )


def _scripted_call(call: Call, conversation: Conversation) -> ScriptedCall:
    if call.raw_args is not None:
        return ScriptedCall(tool=call.tool, args=_filled(call.raw_args, conversation))
    return ScriptedCall(tool=call.tool, args=msgspec.json.encode(_fill(call.args, conversation)).decode())


def _as_model_can(
    playbook: Playbook, text: str, calls: tuple[ScriptedCall, ...], conversation: Conversation
) -> tuple[str, tuple[ScriptedCall, ...]]:
    """Express a step as the scripted model can: with tool calls, as one JSON object, or only in words."""
    if conversation.wants_json_mode and playbook.tools != "none":
        if calls:
            return _as_json_turn(calls[0].tool, calls[0].args), ()
        return _as_json_turn("final_answer", msgspec.json.encode({"answer": text}).decode()), ()
    if playbook.tools == "native":
        return text, calls
    return " ".join([text, *(f"I would call {call.tool}." for call in calls)]).strip(), ()


def _as_json_turn(tool: str, args: str) -> str:
    return f'{{"tool": "{tool.replace(".", "__")}", "args": {args}}}'


def _fill(value: object, conversation: Conversation) -> object:
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        return _value(whole.group(1), conversation) if whole else _filled(value, conversation)
    if isinstance(value, list):
        return [_fill(item, conversation) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _fill(item, conversation) for key, item in cast("dict[str, object]", value).items()}
    return value


def _filled(text: str, conversation: Conversation) -> str:
    def value_text(match: re.Match[str]) -> str:
        value = _value(match.group(1), conversation)
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    return _PLACEHOLDER.sub(value_text, text) if "{{" in text else text


def _value(name: str, conversation: Conversation) -> object:
    root, _, path = name.partition(".")
    match root, path:
        case "turn", "":
            return len(conversation.turns)
        case "task", "":
            return conversation.task
        case "last_result", "":
            return conversation.last_result
        case "result", _:
            return _value_at(_json_in(conversation.last_result), path, name)
        case _:
            raise NoScriptedReply(
                f"The placeholder {{{{{name}}}}} does not exist: use turn, task, last_result, result.…"
            )


def _value_at(value: object, path: str, name: str) -> object:
    for key in path.split(".") if path else []:
        try:
            # A value without such a key or index raises one of the three below.
            place = int(key) if isinstance(value, list) else key
            value = cast("object", cast("Any", value)[place])
        except (LookupError, TypeError, ValueError):
            sentence = f'The placeholder {{{{{name}}}}} finds no "{key}" in the last tool result.'
            raise NoScriptedReply(sentence) from None
    return value


def _json_in(text: str) -> object:
    """The JSON of a result, also inside the frame that a runtime puts around results."""
    for start in sorted(place for place in (text.find("{"), text.find("[")) if place >= 0):
        try:
            # Only the decoder of the standard library can stop where the value ends.
            return cast("object", json.JSONDecoder().raw_decode(text, start)[0])
        except ValueError:
            continue
    return text
