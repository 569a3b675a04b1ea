"""Reads Anthropic's answer, event by event, into ``ModelReply`` or ``ModelFailed``.

Pure. Content blocks are rebuilt as plain dictionaries, unknown fields included, because thinking blocks must
go back exactly as they came. Side parts that cannot be read (usage, ids, indexes) are ignored. The parts that carry the
answer are never guessed: an unknown delta or stop reason means that the answer may be incomplete.
"""

from __future__ import annotations

from typing import Never, cast

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
from linestop.models.wire_names import from_wire, unique_id, wire_id
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import FailureClass, ModelFailed, ModelReply, StopReason, ToolCall, Usage

_STOPS: dict[str, StopReason] = {
    "end_turn": "end",
    "stop": "end",
    "end": "end",
    "tool_use": "calls",
    "tool_calls": "calls",
    "stop_sequence": "stop_sequence",
}
_FAILURES: dict[str, tuple[FailureClass, str]] = {
    "max_tokens": ("truncated", "stopped at output_tokens_max in the middle of its answer; raise it"),
    "model_context_window_exceeded": (
        "truncated",
        "ran out of its context window in the middle of its answer; compact the conversation",
    ),
    "length": ("truncated", "stopped at output_tokens_max in the middle of its answer; raise it"),
    "pause_turn": ("truncated", "paused in the middle of its turn, as only the provider's own tools make it do"),
    "refusal": ("refusal", "refused to answer"),
}
_FIELD_BY_TYPE = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_TYPE_BY_FIELD = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
"""The type of a delta that does not name its type, by its field."""

_PLAIN_BLOCK_TYPES = frozenset({"text", "tool_use"})


_COUNTERS = {
    "input": ("input_tokens",),
    "output": ("output_tokens",),
    "read": ("cache_read_input_tokens",),
    "written": ("cache_creation_input_tokens",),
    "thinking": ("output_tokens_details", "thinking_tokens"),
}
_TYPE_BY_FIRST_DELTA = {"text_delta": "text", "thinking_delta": "thinking", "citations_delta": "text"}
"""The type of a block whose start does not name it, by its first delta."""


class _Block:
    """One content block under construction."""

    def __init__(self, start: JsonObject, index: int) -> None:
        self.fields = start
        self.index = index
        self.open = True
        self.args = ""
        self._pieces: dict[str, list[str]] = {}
        self._watcher_text = WholeCharacters()

    def add(self, delta: JsonObject) -> str:
        """Add a delta; return its text for watchers."""
        kind = delta.get("type") or next((_TYPE_BY_FIELD[field] for field in _TYPE_BY_FIELD if delta.get(field)), None)
        if not self.fields.get("type") and kind in _TYPE_BY_FIRST_DELTA:
            self.fields["type"] = _TYPE_BY_FIRST_DELTA[kind]
        if kind == "citations_delta":
            self.fields["citations"] = [*(self.fields.get("citations") or ()), delta.get("citation")]
            return ""
        field = "partial_json" if kind == "input_json_delta" else _FIELD_BY_TYPE.get(str(kind))
        piece = delta.get(field) if field else None
        if field == "partial_json":
            piece = arguments_text(piece)
        if field is None or not isinstance(piece, str | None):
            raise ValueError(f"unknown content delta {kind!r}")
        self._pieces.setdefault(field, []).append(piece or "")
        return self._watcher_text.piece(piece or "") if field == "text" else ""

    def is_complete(self) -> bool:
        """Whether the end of the message may also end this block: it has content, and a call has its whole input."""
        if self.fields.get("type") == "tool_use":
            pieces = self._pieces.get("partial_json", [])
            return is_json_object(assembled_args(pieces)) if any(pieces) else bool(self.fields.get("input"))
        return any(any(pieces) for pieces in self._pieces.values())

    def close(self) -> None:
        """Join the pieces of the block."""
        if not self.open:
            return
        self.open = False
        for field, pieces in self._pieces.items():
            if field != "partial_json":
                self.fields[field] = join_pieces([str(self.fields.get(field) or ""), *pieces])
        if isinstance(self.fields.get("text"), str):
            self.fields["text"] = join_pieces([self.fields["text"]])
        if self.fields.get("type") == "tool_use" or "input" in self.fields:
            whole_input = self.fields.get("input")
            self.args = (
                assembled_args(self._pieces.get("partial_json", []))
                or join_pieces([arguments_text(whole_input)])
                or "{}"
            )
            self.fields["input"] = arguments_object(self.args)


def arguments_object(args: str) -> JsonObject:
    """Arguments as the object that the provider requires of past calls, even if they are not JSON."""
    try:
        value = msgspec.json.decode(args)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return cast("JsonObject", value) if isinstance(value, dict) else {"not_an_object": args}


class AnthropicReplyReader:
    """Reads one answer of the Messages API, streamed or whole."""

    def __init__(self, requested_model: str) -> None:
        self.finished = False
        self._requested_model = requested_model
        self._begun = False
        self._id = ""
        self._model = ""
        self._blocks: list[_Block] = []
        self._stop_reason = ""
        self._counts = TokenCounts(_COUNTERS)
        self._last_output_tokens: int | None = None

    def take_event(self, event: SseEvent) -> str:
        """Read one event; return the text that it adds."""
        data = read_object(event.data)
        if data is None:
            return ""
        match data.get("type") or event.name:
            case "message_start":
                message = data.get("message")
                self._begin(cast("JsonObject", message) if isinstance(message, dict) else {})
            case "content_block_start":
                self._open_block(data)
            case "content_block_delta":
                return self._add(data)
            case "content_block_stop":
                self._close_block(read_index(data.get("index")))
            case "message_delta":
                self._end(fields_of(data.get("delta")).get("stop_reason"), data.get("usage"))
            case "message_stop":
                self._finish()
            case "error":
                raise failure_of_error_body(data.get("error") or data, self._requested_model)
            case _:
                # `ping`, and kinds that the provider may add later, as it announced.
                pass
        return ""

    def take_body(self, body: bytes) -> str:
        """Read an answer that was not streamed; return its text."""
        message = read_object(body) or {}
        if message.get("type") == "error" or (message.get("error") and "content" not in message):
            raise failure_of_error_body(message.get("error") or message, self._requested_model)
        if "content" not in message:
            raise ValueError("an answer without content")
        self._begin(message)
        content = message["content"]
        if content is not None and not isinstance(content, list):
            raise ValueError("content that is not a list of blocks")
        for place, row in enumerate(cast("list[object]", content or [])):
            if row is not None:
                block = _Block(fields_of(row), place)
                block.close()
                self._blocks.append(block)
        self._end(message.get("stop_reason"), message.get("usage"))
        self._finish()
        return replace_surrogates(self._text())

    def reply(self) -> ModelReply:
        """Return the answer.

        Raises:
            ModelFailed: when the answer is cut short, refused, or contradicts itself.
        """
        if not self.finished:
            self._fail("availability", "ended its stream without message_stop")
        calls, reason = self._calls(), self._stop_reason
        all_complete = bool(calls) and all(is_json_object(call.args) for call in calls)
        if reason in _FAILURES:
            kind, what = _FAILURES[reason]
            self._fail(kind, what)
        # Some servers send no stop reason, or end_turn, after calls; complete calls count all the same.
        stop = "calls" if all_complete and reason in ("", "end_turn", "stop") else _STOPS.get(reason)
        if stop is None:
            self._fail("malformed", f'stopped for the unknown reason "{reason[:100] or "none"}"')
        if bool(calls) != (stop == "calls"):
            self._fail("malformed", f"made {len(calls)} tool calls but stopped with {reason}")
        keep_blocks = any(
            block.fields.get("type") not in _PLAIN_BLOCK_TYPES or block.fields.get("citations")
            for block in self._blocks
        )
        usage = self.reported_usage()
        return ModelReply(
            text=self._text(),
            calls=calls,
            stop_reason=stop,
            usage=usage or Usage(),
            usage_reported=usage is not None,
            model=self._model or self._requested_model.partition("/")[2],
            request_id=self._id,
            blocks=tuple(block.fields for block in self._blocks) if keep_blocks else (),
        )

    def reported_usage(self) -> Usage | None:
        """The usage that the provider reported; None if it reported none, or an impossible one.

        The output of message_start is a placeholder: only the report at the end counts.
        ``input_tokens`` excludes both cache figures here, so nothing is subtracted.
        """
        counts = self._counts
        read = counts["input"] + counts["read"] + counts["written"]
        has_content = any(_has_content(block) for block in self._blocks)
        if not counts.is_readable or "input" not in counts or not read:
            return None
        if self._last_output_tokens is None or (has_content and not self._last_output_tokens):
            return None
        return Usage(
            fresh_in=counts["input"],
            cache_read=counts["read"],
            cache_write=counts["written"],
            out=counts["output"],
            reasoning=counts["thinking"],
        )

    def _begin(self, message: JsonObject) -> None:
        message_id = id_text(message.get("id"))
        if self._blocks and message_id != self._id:
            raise ValueError("a second message_start in the middle of an answer")
        self._begun = True
        self._id, self._model = self._id or message_id, self._model or id_text(message.get("model"))
        self._counts.add_report(message.get("usage"))

    def _open_block(self, data: JsonObject) -> None:
        index = read_index(data.get("index"))
        ended = [block for block in self._blocks if block.open and index in (None, block.index)]
        if not self._begun or not all(block.is_complete() for block in ended):
            raise ValueError("content_block_start out of order")
        for block in ended:
            # A server that never ends its blocks ends one by starting the next.
            block.close()
        self._blocks.append(_Block(fields_of(data.get("content_block")), len(self._blocks) if index is None else index))

    def _add(self, data: JsonObject) -> str:
        delta, index = fields_of(data.get("delta")), read_index(data.get("index"))
        if not delta:
            return ""
        block = self._open(index)
        if not any(value for key, value in delta.items() if key != "type"):
            return ""
        if block is None:
            raise ValueError("a content block that is not open")
        return block.add(delta)

    def _close_block(self, index: int | None) -> None:
        # A block that ends twice is still complete.
        if block := self._open(index):
            block.close()

    def _open(self, index: int | None) -> _Block | None:
        """The open block of that index; without an index, the only open block."""
        open_blocks = [block for block in self._blocks if block.open and index in (None, block.index)]
        return open_blocks[0] if len(open_blocks) == 1 else None

    def _end(self, stop_reason: object, usage: object) -> None:
        if stop_reason is not None and not isinstance(stop_reason, str):
            raise ValueError("a stop reason that is not a text")
        if self._stop_reason not in _FAILURES:
            # No later stop reason makes a truncated answer complete.
            self._stop_reason = (stop_reason or "").strip().lower() or self._stop_reason
        reported = self._counts.add_report(usage)
        self._last_output_tokens = reported.get("output", self._last_output_tokens)

    def _finish(self) -> None:
        if not self._begun or any(block.open and not block.is_complete() for block in self._blocks):
            raise ValueError("message_stop in the middle of a call, or without a message")
        for block in self._blocks:
            block.close()
        self.finished = True

    def _text(self) -> str:
        return "".join(str(block.fields.get("text") or "") for block in self._blocks if _is_of_type(block, "text"))

    def _calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        used_ids: set[str] = set()
        for place, block in enumerate(self._blocks):
            if not _is_of_type(block, "tool_use"):
                continue
            name, call_id = block.fields.get("name"), id_text(block.fields.get("id"))
            if not isinstance(name, str) or not name:
                raise ValueError("a tool_use block without a name")
            if not call_id or call_id in used_ids:
                call_id = unique_id("", f"{self._id}:{place}")
            used_ids.add(call_id)
            block.fields["id"] = wire_id(call_id)
            calls.append(ToolCall(id=call_id, name=from_wire(name), args=block.args))
        return tuple(calls)

    def _fail(self, kind: FailureClass, what: str) -> Never:
        usage = self.reported_usage()
        raise ModelFailed(kind, f"{self._requested_model} {what}.", usage=usage, possibly_billed=usage is None)


def _is_of_type(block: _Block, kind: str) -> bool:
    return block.fields.get("type") == kind


def _has_content(block: _Block) -> bool:
    """Whether a block has content, so that tokens were spent on it."""
    return not _is_of_type(block, "text") or bool(block.fields.get("text"))
