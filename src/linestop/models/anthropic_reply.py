"""Anthropic's answer, event by event, into ``ModelReply`` or ``ModelFailed``.

Pure. Content blocks are rebuilt as plain dictionaries, unknown fields included, because thinking blocks must
go back exactly as they came. What is not understood is not guessed at: an unknown delta or stop reason means
that the answer is not whole in our hands.
"""

from __future__ import annotations

from typing import Annotated, Any, Never, cast

import msgspec

from linestop.models.failures import of_body
from linestop.models.names import from_wire
from linestop.models.sse import ServerEvent
from linestop.schemas.model import TOKENS_MAX, FailureClass, ModelFailed, ModelReply, StopReason, ToolCall, Usage

Count = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]

_STOPS: dict[str, StopReason] = {
    "end_turn": "end",
    "tool_use": "calls",
    "stop_sequence": "stop_sequence",
}
_FAILURES: dict[str, tuple[FailureClass, str]] = {
    "max_tokens": ("truncated", "stopped at output_tokens_max in the middle of its answer; raise it"),
    "model_context_window_exceeded": (
        "truncated",
        "ran out of its context window in the middle of its answer; compact the conversation",
    ),
    "pause_turn": ("truncated", "paused in the middle of its turn, as only the provider's own tools make it do"),
    "refusal": ("refusal", "refused to answer"),
}
_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_PLAIN = frozenset({"text", "tool_use"})


class _Thinking(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    output_tokens_details: _Thinking | None = None


class _Message(msgspec.Struct):
    id: str
    model: str
    content: list[dict[str, Any]]
    usage: _Usage | None = None
    stop_reason: str | None = None


class _Stop(msgspec.Struct):
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    index: int | None = None
    content_block: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    usage: _Usage | None = None
    error: dict[str, Any] | None = None


class _Block:
    """One content block under construction."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.fields = start
        self.open = True
        self.args = ""
        self._pieces: dict[str, list[str]] = {}

    def add(self, delta: dict[str, Any]) -> str:
        """Take a delta; return its text for watchers."""
        kind = delta.get("type")
        if kind == "citations_delta":
            self.fields["citations"] = [*(self.fields.get("citations") or ()), delta.get("citation")]
            return ""
        field = "partial_json" if kind == "input_json_delta" else _PIECES.get(str(kind))
        piece = delta.get(field) if field else None
        if field is None or not isinstance(piece, str):
            raise ValueError(f"unknown content delta {kind!r}")
        self._pieces.setdefault(field, []).append(piece)
        return piece if field == "text" else ""

    def close(self) -> None:
        """Join what came in pieces."""
        self.open = False
        for field, pieces in self._pieces.items():
            if field != "partial_json":
                self.fields[field] = str(self.fields.get(field) or "") + "".join(pieces)
        if "input" in self.fields:
            written = "".join(self._pieces.get("partial_json", []))
            self.args = written or msgspec.json.encode(self.fields["input"]).decode()
            self.fields["input"] = as_input(self.args)


def as_input(args: str) -> dict[str, Any]:
    """Arguments as the object that the provider requires of past calls, even if they are no JSON."""
    try:
        value = msgspec.json.decode(args)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"not_an_object": args}


class AnthropicReply:
    """Reads one answer of the Messages API, streamed or whole."""

    def __init__(self, who: str) -> None:
        self.finished = False
        self._who = who
        self._message: _Message | None = None
        self._blocks: list[_Block] = []
        self._stop_reason: str | None = None
        self._usage = _Usage()
        self._counted = False

    def event(self, event: ServerEvent) -> str:
        """Take one event; return the text it adds."""
        data = msgspec.json.decode(event.data, type=_Event)
        match data.type:
            case "message_start":
                self._begin(data)
            case "content_block_start":
                self._open_block(data)
            case "content_block_delta":
                return self._block(data.index).add(data.delta or {})
            case "content_block_stop":
                self._block(data.index).close()
            case "message_delta":
                self._end(msgspec.convert(data.delta or {}, _Stop).stop_reason, data.usage)
            case "message_stop":
                self._finish()
            case "error":
                raise of_body(data.error, self._who)
            case _:
                # `ping`, and kinds that the provider announced it may add between the others.
                pass
        return ""

    def whole(self, body: bytes) -> str:
        """Take an answer that was not streamed; return its text."""
        if msgspec.json.decode(body, type=_Event).type == "error":
            raise of_body(msgspec.json.decode(body, type=_Event).error, self._who)
        message = msgspec.json.decode(body, type=_Message)
        self._message = message
        for fields in message.content:
            block = _Block(fields)
            block.close()
            self._blocks.append(block)
        self._end(message.stop_reason, message.usage)
        self._finish()
        return self._text()

    def reply(self) -> ModelReply:
        """Return the answer.

        Raises:
            ModelFailed: when it is cut short, refused, or contradicts itself.
        """
        if not self.finished or self._message is None:
            self._fail("availability", "ended its stream without message_stop")
        reason = self._stop_reason or "none"
        if reason in _FAILURES:
            kind, what = _FAILURES[reason]
            self._fail(kind, what)
        stop = _STOPS.get(reason)
        if stop is None:
            self._fail("malformed", f'stopped for the unknown reason "{reason}"')
        calls = self._calls()
        if bool(calls) != (stop == "calls"):
            self._fail("malformed", f"made {len(calls)} tool calls but stopped with {reason}")
        kept = any(block.fields.get("type") not in _PLAIN or block.fields.get("citations") for block in self._blocks)
        return ModelReply(
            text=self._text(),
            calls=calls,
            stop_reason=stop,
            usage=self._totals(),
            usage_reported=self._counted,
            model=self._message.model,
            request_id=self._message.id,
            blocks=tuple(block.fields for block in self._blocks) if kept else (),
        )

    def _begin(self, data: _Event) -> None:
        if data.message is None or self._message is not None:
            raise ValueError("message_start without a message, or twice")
        self._message = data.message
        if data.message.usage is not None:
            self._add_usage(data.message.usage)

    def _open_block(self, data: _Event) -> None:
        if self._message is None or data.content_block is None or data.index != len(self._blocks):
            raise ValueError("content_block_start out of order")
        self._blocks.append(_Block(data.content_block))

    def _block(self, index: int | None) -> _Block:
        if index is None or not 0 <= index < len(self._blocks) or not self._blocks[index].open:
            raise ValueError("a content block that is not open")
        return self._blocks[index]

    def _end(self, stop_reason: str | None, usage: _Usage | None) -> None:
        if self._stop_reason not in _FAILURES:
            # Nothing said later makes a cut answer whole.
            self._stop_reason = stop_reason or self._stop_reason
        if usage is not None:
            self._add_usage(usage)
            # The figure of message_start is a placeholder; only the final one counts as reported.
            self._counted = usage.output_tokens is not None and self._usage.input_tokens is not None

    def _finish(self) -> None:
        if self._message is None or any(block.open for block in self._blocks):
            raise ValueError("message_stop with an open content block")
        self.finished = True

    def _add_usage(self, usage: _Usage) -> None:
        """Later figures are totals, not increments: each replaces what it names."""
        for field in usage.__struct_fields__:
            value = getattr(usage, field)
            if value is not None:
                setattr(self._usage, field, value)

    def _totals(self) -> Usage:
        """``input_tokens`` excludes both cache figures here, so nothing is subtracted."""
        usage, details = self._usage, self._usage.output_tokens_details
        return Usage(
            fresh_in=usage.input_tokens or 0,
            cache_read=usage.cache_read_input_tokens or 0,
            cache_write=usage.cache_creation_input_tokens or 0,
            out=usage.output_tokens or 0,
            reasoning=(details.thinking_tokens or 0) if details else 0,
        )

    def _text(self) -> str:
        return "".join(str(block.fields.get("text", "")) for block in self._blocks if _is(block, "text"))

    def _calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        for block in self._blocks:
            if not _is(block, "tool_use"):
                continue
            name, call_id = block.fields.get("name"), block.fields.get("id")
            if not isinstance(name, str) or not name or not isinstance(call_id, str) or not block.args:
                raise ValueError("a tool_use block without id, name or input")
            calls.append(ToolCall(id=call_id, name=from_wire(name), args=block.args))
        if len({call.id for call in calls}) != len(calls):
            raise ValueError("two tool_use blocks of one id")
        return tuple(calls)

    def _fail(self, kind: FailureClass, what: str) -> Never:
        raise ModelFailed(
            kind,
            f"{self._who} {what}.",
            usage=self._totals() if self._counted else None,
            possibly_billed=not self._counted,
        )


def _is(block: _Block, kind: str) -> bool:
    return block.fields.get("type") == kind
