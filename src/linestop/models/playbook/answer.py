"""Which step answers a request, and what it says. Pure and stateless.

The rule: each step answers once a conversation (or always, with ``repeat``), and the first step of the file
that has not answered yet and whose ``when`` holds is next. Which steps have answered is not remembered but
worked out from the conversation that is sent: the rule is applied again to each answer it already holds. So a
server may be restarted or serve any number of runs at once.
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
_BYTES_A_TOKEN = 4


class NoAnswer(Exception):  # noqa: N818 - what it says at the place where it is raised
    """Raised when the script has no answer; the message is for whoever wrote the script."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it goes on the wire: dotted name, argument text."""

    tool: str
    args: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, still independent of a wire format. ``stop`` is one of end, calls and length."""

    text: str
    calls: tuple[Said, ...]
    thinking: str
    stop: str
    stop_verbatim: str | None
    usage: Tokens


def choose(playbook: Playbook, conversation: Conversation) -> int:
    """Return the number of the step that answers.

    Raises:
        NoAnswer: naming model, turn and last tool, when no step does.
    """
    used: set[int] = set()
    heard: list[str] = []
    found: int | None = None
    for number, turn in enumerate(conversation.turns, start=1):
        heard += [text.casefold() for text in turn.texts]
        heard += [result.casefold() for _, result in turn.results]
        found = _first(playbook.steps, used, number, (turn, heard))
        if found is not None and not playbook.steps[found].repeat:
            used.add(found)
    if found is None:
        after = f' after a result of "{conversation.last_tool}"' if conversation.last_tool else ""
        raise NoAnswer(
            f'No step of the playbook "{playbook.name}" answers turn {len(conversation.turns)}{after}: '
            f"{len(used)} of {len(playbook.steps)} steps are used up and no other one's `when` holds."
        )
    return found


def compose(playbook: Playbook, step: Step, conversation: Conversation) -> Answer:
    """Fill in a step's placeholders and count its tokens.

    Raises:
        NoAnswer: when a placeholder names something that the last result does not have.
    """
    text = _filled(step.say, conversation)
    text, calls = _as_able(playbook, text, tuple(_say(call, conversation) for call in step.call), conversation)
    thinking = _filled(step.thinking, conversation)
    size = len(text) + len(thinking) + sum(len(call.tool) + len(call.args) for call in calls)
    counted = Tokens(input=-(-conversation.request_bytes // _BYTES_A_TOKEN), output=size // _BYTES_A_TOKEN + 1)
    answer = Answer(
        text=text,
        calls=calls,
        thinking=thinking,
        stop="calls" if calls else "end",
        stop_verbatim=step.stop,
        usage=step.usage or counted,
    )
    if step.usage is None and counted.output > conversation.tokens_max:
        return shorten(answer, conversation.tokens_max)
    return answer


def shorten(answer: Answer, tokens_max: int | None = None) -> Answer:
    """Cut an answer as a provider does at its token limit: the last thing it was writing is half there."""
    calls = answer.calls
    text = answer.text if calls else answer.text[: len(answer.text) // 2]
    if calls:
        last = calls[-1]
        calls = (*calls[:-1], Said(tool=last.tool, args=last.args[: len(last.args) // 2]))
    output = answer.usage.output if tokens_max is None else tokens_max
    usage = msgspec.structs.replace(answer.usage, output=output)
    return msgspec.structs.replace(answer, text=text, calls=calls, stop="length", usage=usage)


def _first(steps: Sequence[Step], used: set[int], number: int, said: tuple[Turn, Sequence[str]]) -> int | None:
    free = ((place, step) for place, step in enumerate(steps) if place not in used)
    return next((place for place, step in free if _holds(step.when, number, *said)), None)


def _holds(when: When, number: int, turn: Turn, heard: Sequence[str]) -> bool:
    return (
        (when.turn is None or when.turn == number)
        and (when.contains is None or any(when.contains.casefold() in text for text in heard))
        and (when.not_contains is None or not any(when.not_contains.casefold() in text for text in heard))
        and (when.tool_result is None or any(tool == when.tool_result for tool, _ in turn.results))
    )


def _say(call: Call, conversation: Conversation) -> Said:
    if call.raw_args is not None:
        return Said(tool=call.tool, args=_filled(call.raw_args, conversation))
    return Said(tool=call.tool, args=msgspec.json.encode(_fill(call.args, conversation)).decode())


def _as_able(
    playbook: Playbook, text: str, calls: tuple[Said, ...], conversation: Conversation
) -> tuple[str, tuple[Said, ...]]:
    """Say it as the scripted model is able to: with tool calls, as one JSON step, or only in words."""
    if conversation.steps_wanted and playbook.tools != "none":
        if calls:
            return _as_step(calls[0].tool, calls[0].args), ()
        return _as_step("final_answer", msgspec.json.encode({"answer": text}).decode()), ()
    if playbook.tools == "native":
        return text, calls
    return " ".join([text, *(f"I would call {call.tool}." for call in calls)]).strip(), ()


def _as_step(tool: str, args: str) -> str:
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
    def written(match: re.Match[str]) -> str:
        value = _value(match.group(1), conversation)
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    return _PLACEHOLDER.sub(written, text) if "{{" in text else text


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
            return _look_up(_json_in(conversation.last_result), path, name)
        case _:
            raise NoAnswer(f"The placeholder {{{{{name}}}}} does not exist: use turn, task, last_result, result.…")


def _look_up(value: object, path: str, name: str) -> object:
    for key in path.split(".") if path else []:
        try:
            # Whatever cannot be looked into raises one of the three below.
            place = int(key) if isinstance(value, list) else key
            value = cast("object", cast("Any", value)[place])
        except (LookupError, TypeError, ValueError):
            sentence = f'The placeholder {{{{{name}}}}} finds no "{key}" in the last tool result.'
            raise NoAnswer(sentence) from None
    return value


def _json_in(text: str) -> object:
    """The JSON of a result, also inside the wrapping that a runtime puts around what tools say."""
    for start in sorted(place for place in (text.find("{"), text.find("[")) if place >= 0):
        try:
            # Only the standard decoder can stop where the value ends.
            return cast("object", json.JSONDecoder().raw_decode(text, start)[0])
        except ValueError:
            continue
    return text
