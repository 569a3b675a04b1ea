"""Reads a Chat Completions answer, chunk by chunk, into ``ModelReply`` or ``ModelFailed``.

Pure. Many servers speak this protocol, each with deviations: whole answers instead of streams, call ids that
begin at "0" every time, content in parts, arguments as objects, and proxies that send no stop reason. Such
deviations are accepted, and side parts that cannot be read (usage, ids, indexes) are ignored; anything that could
hide half an answer is an error.
"""

from __future__ import annotations

from typing import Final, Never, cast

import msgspec

from linestop.models.failures import failure_of_error_body
from linestop.models.lenient_values import (
    TokenCounts,
    WholeCharacters,
    arguments_text,
    assembled_args,
    fields_of,
    id_text,
    is_json_object,
    join_pieces,
    read_index,
    read_object,
    replace_surrogates,
)
from linestop.models.sse import SseEvent
from linestop.models.wire_names import from_wire, unique_id
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import FailureClass, ModelFailed, ModelReply, StopReason, ToolCall, Usage

_STOPS: dict[str, StopReason] = {
    "stop": "end",
    "end_turn": "end",
    "eos": "end",
    "eos_token": "end",
    "tool_calls": "calls",
    "tool_use": "calls",
    "function_call": "calls",
    "stop_sequence": "stop_sequence",
}
LEGACY: Final = "function_call"
_CONTENT_FIELDS: Final = ("content", "tool_calls", "refusal", "function_call")
"""The fields that carry a piece of the answer; a delta without them only ends it."""

_TRUNCATED: tuple[FailureClass, str] = (
    "truncated",
    "stopped at output_tokens_max in the middle of its answer; raise it",
)
_FAILURES: dict[str, tuple[FailureClass, str]] = {
    "length": _TRUNCATED,
    "max_tokens": _TRUNCATED,
    "model_length": _TRUNCATED,
    "content_filter": ("refusal", "had its answer withheld by the provider's content filter"),
    "function_call": (
        "malformed",
        'made a legacy function_call; use a server that speaks tool_calls, or tool_mode "json_schema"',
    ),
}
_COUNTERS = {
    "prompt": ("prompt_tokens",),
    "completion": ("completion_tokens",),
    "total": ("total_tokens",),
    "read": ("prompt_tokens_details", "cached_tokens"),
    "written": ("prompt_tokens_details", "cache_write_tokens"),
    "reasoning": ("completion_tokens_details", "reasoning_tokens"),
}
JOINED_FRAGMENTS_MAX: Final = 1_000
"""A call in more fragments is not checked again at each of them, which would take quadratic time."""

_TEXT_PARTS = frozenset({None, "text", "output_text"})


class _PartialCall(msgspec.Struct):
    """A tool call under construction."""

    index: int
    id: str = ""
    name: str = ""
    args: list[str] = []

    def is_complete(self) -> bool:
        """Whether the arguments are a whole object already."""
        return is_json_object(assembled_args(self.args))

    def followed_by(self, name: str, args: str) -> bool:
        """Whether a fragment is another call: both are complete, and the fragment does not repeat this one."""
        if not name or not is_json_object(args) or len(self.args) > JOINED_FRAGMENTS_MAX:
            return False
        return self.is_complete() and not self.repeated_by(name, args)

    def repeated_by(self, name: str, args: str) -> bool:
        """Whether a fragment repeats the whole call."""
        if name != self.name or not is_json_object(args) or len(self.args) > JOINED_FRAGMENTS_MAX:
            return False
        return args == "".join(self.args)


class OpenAIReplyReader:
    """Reads one answer of the Chat Completions API, streamed or whole."""

    def __init__(self, requested_model: str) -> None:
        self.finished = False
        self._requested_model = requested_model
        self._id = ""
        self._model = ""
        self._choice: int | None = None
        self._has_unknown_chunk = False
        self._legacy = False
        self._text: list[str] = []
        self._watcher_text = WholeCharacters()
        self._refusal: list[str] = []
        self._calls: list[_PartialCall] = []
        self._finish_reason = ""
        self._counts = TokenCounts(_COUNTERS)

    def take_event(self, event: SseEvent) -> str:
        """Read one event; return the text that it adds."""
        if event.data.strip() == b"[DONE]":
            self.finished = True
            return ""
        chunk = read_object(event.data)
        if chunk is None:
            return ""
        if event.name == "error" and not chunk.get("error"):
            raise failure_of_error_body(chunk, self._requested_model)
        return self._watcher_text.piece(self._take(chunk))

    def take_body(self, body: bytes) -> str:
        """Read an answer that was not streamed; return its text."""
        chunk = read_object(body) or {}
        text = self._take(chunk)
        if not chunk.get("choices"):
            raise ValueError("an answer without choices")
        self.finished = True
        return replace_surrogates(text)

    def reply(self) -> ModelReply:
        """Return the answer.

        Raises:
            ModelFailed: when the answer is cut short, refused, or contradicts itself.
        """
        reason = self._finish_reason
        if self._choice is None and self._has_unknown_chunk:
            raise ValueError("an answer without choices")
        calls = self._tool_calls()
        if not reason:
            stop = self._stop_without_reason()
        elif self._legacy or (reason in _FAILURES and not (reason == LEGACY and self._all_complete())):
            self._fail(*_FAILURES[LEGACY if self._legacy else reason])
        elif reason not in _STOPS:
            self._fail("malformed", f'stopped for the unknown reason "{reason[:100]}"')
        else:
            stop = _STOPS[reason]
        if self._refusal:
            self._fail("refusal", f"refused to answer: {join_pieces(self._refusal)[:500]}")
        if stop == "end" and self._all_complete():
            # Some servers send "stop" after calls; complete calls count all the same.
            stop = "calls"
        if bool(calls) != (stop == "calls"):
            self._fail("malformed", f"made {len(calls)} tool calls but stopped with {reason}")
        usage = self.reported_usage()
        return ModelReply(
            text=join_pieces(self._text),
            calls=calls,
            stop_reason=stop,
            usage=usage or Usage(),
            usage_reported=usage is not None,
            model=self._model or self._requested_model.partition("/")[2],
            request_id=self._id,
        )

    def reported_usage(self) -> Usage | None:
        """The usage that the server reported; None if it reported none, or an impossible one.

        ``prompt_tokens`` includes both cache figures; some servers leave reasoning out of the output.
        """
        counts = self._counts
        prompt = counts["prompt"]
        out = max(counts["completion"], counts["total"] - prompt)
        has_content = any(self._text) or self._calls
        if not counts.is_readable or "prompt" not in counts or not prompt or (has_content and not out):
            return None
        read = min(counts["read"], prompt)
        written = min(counts["written"], prompt - read)
        return Usage(
            fresh_in=prompt - read - written,
            cache_read=read,
            cache_write=written,
            out=out,
            reasoning=counts["reasoning"],
        )

    def _take(self, chunk: JsonObject) -> str:
        kind = id_text(chunk.get("object")) or id_text(chunk.get("type"))
        if kind.startswith("response"):
            raise ValueError("an answer of the Responses API; base_url must lead to Chat Completions")
        if chunk.get("error") or kind == "error":
            raise failure_of_error_body(chunk.get("error") or chunk, self._requested_model)
        self._id = self._id or id_text(chunk.get("id"))
        self._model = self._model or id_text(chunk.get("model"))
        self._counts.add_report(chunk.get("usage"))
        self._has_unknown_chunk = self._has_unknown_chunk or not chunk.keys() & {"choices", "usage"}
        choices = chunk.get("choices")
        if isinstance(choices, dict) and cast("dict[str, object]", choices).keys() & {"delta", "message"}:
            choices = [cast("object", choices)]
        if choices and not isinstance(choices, list):
            raise ValueError("choices that are not a list")
        rows = (fields_of(row) for row in cast("list[object]", choices or []) if row)
        return "".join([self._take_choice(row) for row in rows])

    def _take_choice(self, choice: JsonObject) -> str:
        index, delta = read_index(choice.get("index")) or 0, fields_of(choice.get("delta") or choice.get("message"))
        if self._choice not in (None, index) and any(delta.get(key) for key in _CONTENT_FIELDS):
            raise ValueError("a second choice, although one was asked for")
        self._choice = index if self._choice is None else self._choice
        reason = choice.get("finish_reason") or None
        if reason is not None and not isinstance(reason, str):
            raise ValueError("a finish reason that is not a text")
        if self._finish_reason not in _FAILURES:
            # No later stop reason makes a truncated answer complete.
            self._finish_reason = (reason or "").strip().lower() or self._finish_reason
        return self._take_delta(delta)

    def _take_delta(self, delta: JsonObject) -> str:
        if refusal := delta.get("refusal"):
            self._refusal.append(str(refusal))
        rows = _rows(delta.get("tool_calls"))
        calls_before = len(self._calls)
        self._legacy = self._legacy or bool(delta.get("function_call"))
        for place, row in enumerate(row for row in rows if row):
            self._take_call(fields_of(row), place, calls_before)
        text = _text_of(delta.get("content"))
        self._text.append(text)
        return text

    def _take_call(self, row: JsonObject, place: int, calls_before: int) -> None:
        """Add one fragment; ``calls_before`` is the number of calls before this chunk."""
        function = fields_of(row.get("function")) or row
        call_id, name = id_text(row.get("id")), id_text(function.get("name"))
        args, index = arguments_text(function.get("arguments")), read_index(row.get("index"))
        call = self._call_of(index, place, call_id=call_id, name=name, calls_before=calls_before)
        if call.followed_by(name, args) or (
            self._calls.index(call) >= calls_before and place and call.repeated_by(name, args)
        ):
            call = self._new_call(len(self._calls) if index is None else index)
        if not call.repeated_by(name, args):
            call.args.append(args)
        call.id, call.name = call.id or call_id, call.name or name

    def _call_of(self, index: int | None, place: int, *, call_id: str, name: str, calls_before: int) -> _PartialCall:
        """The call of a fragment: by its id, else the last one of its index; a new call if there is none."""
        call_with_id = next((call for call in self._calls if call_id and call.id == call_id), None)
        if index is None:
            # Without an index, a fragment with an id begins a call, and one without an id continues the last.
            last = self._calls[-1] if self._calls and not call_id and (place == 0 or not name) else None
            return call_with_id or last or self._new_call(len(self._calls))
        call_with_index = next((call for call in reversed(self._calls) if call.index == index), None)
        if call_with_index is None or (call_with_id is not None and call_with_id.index == index):
            return call_with_id if call_with_id is not None and call_with_id.index == index else self._new_call(index)
        has_other_id = bool(name) and bool(call_id) and bool(call_with_index.id) and call_id != call_with_index.id
        if not has_other_id and (not name or not call_with_index.name or name == call_with_index.name):
            # Some proxies repeat name and id in each fragment, or invent an id for each.
            return call_with_index
        if call_with_index.is_complete() or self._calls.index(call_with_index) >= calls_before:
            return self._new_call(index)
        raise ValueError("two tool calls under one index")

    def _new_call(self, index: int) -> _PartialCall:
        call = _PartialCall(index)
        self._calls.append(call)
        return call

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        used_ids: set[str] = set()
        for place, call in enumerate(sorted(self._calls, key=lambda call: call.index)):
            if not call.name:
                raise ValueError("a tool call without a name")
            usable = "" if call.id in used_ids else call.id
            used_ids.add(call.id)
            call_id = unique_id(usable, f"{self._id}:{place}")
            calls.append(ToolCall(id=call_id, name=from_wire(call.name), args=assembled_args(call.args) or "{}"))
        return tuple(calls)

    def _all_complete(self) -> bool:
        """Whether there are calls and all are complete. A call without arguments is not: they may still come."""
        return bool(self._calls) and all(call.is_complete() for call in self._calls)

    def _stop_without_reason(self) -> StopReason:
        """The stop reason of an answer that has none; the answer is usable only if nothing can be missing.

        That is, the stream ended properly and holds only calls whose arguments are complete. Text may stop
        anywhere and still look complete, so text alone is not usable.
        """
        if not self.finished and "prompt" not in self._counts:
            self._fail("availability", "ended its stream without a finish reason")
        if self._all_complete():
            return "calls"
        return self._fail("malformed", "ended its answer without saying why it stopped")

    def _fail(self, kind: FailureClass, what: str) -> Never:
        usage = self.reported_usage()
        raise ModelFailed(kind, f"{self._requested_model} {what}.", usage=usage, possibly_billed=usage is None)


def _rows(calls: object) -> list[object]:
    """The call fragments of a delta, which may be a list, a single one, or an object by index."""
    by_index = cast("dict[str, object]", calls) if isinstance(calls, dict) else {}
    if by_index and all(key.isdecimal() for key in by_index):
        return [{"index": key, **fields_of(row)} for key, row in by_index.items()]
    return cast("list[object]", calls if isinstance(calls, list) else [calls])


def _text_of(content: object) -> str:
    """The text of a content that is a text or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        content = [cast("object", content)]
    if not isinstance(content, list):
        raise ValueError("content that is neither a text nor a list of parts")  # noqa: TRY004 - of the answer
    texts: list[str] = []
    for part in cast("list[object]", content):
        fields = {"text": part} if isinstance(part, str) else fields_of(part)
        text = fields.get("text") if fields.get("type") in _TEXT_PARTS else None
        if text is not None and not isinstance(text, str):
            raise ValueError("a content part whose text is not a string")
        texts.append(text or "")
    return "".join(texts)
