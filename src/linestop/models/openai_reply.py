"""A Chat Completions answer, chunk by chunk, into ``ModelReply`` or ``ModelFailed``.

Pure. Many servers speak this protocol, each with its accent: whole answers instead of streams, call ids that
begin at "0" every time, content in parts, and proxies that never say why the model stopped. Accents are
understood; anything that could hide half an answer is not.
"""

from __future__ import annotations

from typing import Annotated, Any, Never, cast

import msgspec

from linestop.models.failures import of_body
from linestop.models.names import from_wire, unique_id
from linestop.models.sse import ServerEvent
from linestop.schemas.model import TOKENS_MAX, FailureClass, ModelFailed, ModelReply, StopReason, ToolCall, Usage

Count = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]

_STOPS: dict[str, StopReason] = {"stop": "end", "tool_calls": "calls"}
_FAILURES: dict[str, tuple[FailureClass, str]] = {
    "length": ("truncated", "stopped at output_tokens_max in the middle of its answer; raise it"),
    "content_filter": ("refusal", "had its answer withheld by the provider's content filter"),
    "function_call": (
        "malformed",
        'made a legacy function_call; use a server that speaks tool_calls, or tool_mode "json_schema"',
    ),
}


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Named(msgspec.Struct):
    object: str | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


class _PartialCall:
    """A tool call under construction."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.args: list[str] = []

    def add(self, call: _Call) -> None:
        """Take one fragment. Some proxies repeat id and name in each; a different one is another call's."""
        function = call.function or _Function()
        if (call.id or self.id) != (self.id or call.id) or (function.name or self.name) != (self.name or function.name):
            raise ValueError("two tool calls under one index")
        self.id = self.id or call.id or ""
        self.name = self.name or function.name or ""
        self.args.append(function.arguments or "")


class OpenAIReply:
    """Reads one answer of the Chat Completions API, streamed or whole."""

    def __init__(self, who: str) -> None:
        self.finished = False
        self._who = who
        self._id = ""
        self._model = ""
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, _PartialCall] = {}
        self._finish_reason: str | None = None
        self._usage: _Usage | None = None

    def event(self, event: ServerEvent) -> str:
        """Take one event; return the text it adds."""
        if event.data.strip() == b"[DONE]":
            self.finished = True
            return ""
        return self._take(_chunk(event.data))

    def whole(self, body: bytes) -> str:
        """Take an answer that was not streamed; return its text."""
        chunk = _chunk(body)
        text = self._take(chunk)
        if not chunk.choices:
            raise ValueError("an answer without choices")
        self.finished = True
        return text

    def reply(self) -> ModelReply:
        """Return the answer.

        Raises:
            ModelFailed: when it is cut short, refused, or contradicts itself.
        """
        reason = self._finish_reason
        calls = self._made_calls()
        if reason is None:
            stop = self._unsaid(calls)
        elif reason in _FAILURES:
            self._fail(*_FAILURES[reason])
        elif reason not in _STOPS:
            self._fail("malformed", f'stopped for the unknown reason "{reason}"')
        else:
            stop = _STOPS[reason]
        if self._refusal:
            self._fail("refusal", f"refused to answer: {''.join(self._refusal)[:500]}")
        if bool(calls) != (stop == "calls"):
            self._fail("malformed", f"made {len(calls)} tool calls but stopped with {reason}")
        return ModelReply(
            text="".join(self._text),
            calls=calls,
            stop_reason=stop,
            usage=self._totals(),
            usage_reported=self._usage is not None,
            model=self._model or self._who.partition("/")[2],
            request_id=self._id,
        )

    def _take(self, chunk: _Chunk) -> str:
        if chunk.error is not None:
            raise of_body(chunk.error, self._who)
        if chunk.choices is None and chunk.usage is None:
            raise ValueError("a chunk without choices, usage or error")
        self._id = self._id or chunk.id or ""
        self._model = self._model or chunk.model or ""
        self._usage = chunk.usage or self._usage
        text = ""
        for choice in chunk.choices or []:
            if choice.index != 0:
                raise ValueError("a second choice, although one was asked for")
            if self._finish_reason not in _FAILURES:
                # Nothing said later makes a cut answer whole.
                self._finish_reason = choice.finish_reason or self._finish_reason
            text += self._take_delta(choice.delta or choice.message or _Delta())
        return text

    def _take_delta(self, delta: _Delta) -> str:
        if delta.refusal:
            self._refusal.append(delta.refusal)
        for position, call in enumerate(delta.tool_calls or []):
            index = call.index if call.index is not None else self._index_of(call, position)
            self._calls.setdefault(index, _PartialCall()).add(call)
        text = delta.content or ""
        if not isinstance(text, str):
            text = "".join(str(part.get("text", "")) for part in text if part.get("type") == "text")
        self._text.append(text)
        return text

    def _index_of(self, call: _Call, position: int) -> int:
        """Without an index a fragment with an id begins a call, one without continues the last."""
        if call.id or not self._calls:
            return max(self._calls, default=-1) + 1
        return max(self._calls) if position == 0 else position

    def _made_calls(self) -> tuple[ToolCall, ...]:
        calls: list[ToolCall] = []
        for index, call in sorted(self._calls.items()):
            if not call.name:
                raise ValueError("a tool call without a name")
            call_id = unique_id(call.id, f"{self._id}:{index}")
            calls.append(ToolCall(id=call_id, name=from_wire(call.name), args="".join(call.args) or "{}"))
        if len({call.id for call in calls}) != len(calls):
            raise ValueError("two tool calls of one id")
        return tuple(calls)

    def _unsaid(self, calls: tuple[ToolCall, ...]) -> StopReason:
        """Judge an answer without a finish reason: usable only if nothing can be missing.

        That is, the stream ended properly and all there is are calls whose arguments are complete. Text may
        stop anywhere and still look whole, so text alone is not usable.
        """
        if not self.finished and self._usage is None:
            self._fail("availability", "ended its stream without a finish reason")
        if calls and all(_is_object(call.args) for call in calls):
            return "calls"
        return self._fail("malformed", "ended its answer without saying why it stopped")

    def _totals(self) -> Usage:
        """``prompt_tokens`` includes both cache figures; some servers leave reasoning out of the output."""
        usage = self._usage
        if usage is None:
            return Usage()
        details = usage.prompt_tokens_details or _PromptDetails()
        outputs = usage.completion_tokens_details or _OutputDetails()
        read = min(details.cached_tokens or 0, usage.prompt_tokens)
        written = min(details.cache_write_tokens or 0, usage.prompt_tokens - read)
        return Usage(
            fresh_in=usage.prompt_tokens - read - written,
            cache_read=read,
            cache_write=written,
            out=max(usage.completion_tokens, usage.total_tokens - usage.prompt_tokens),
            reasoning=outputs.reasoning_tokens or 0,
        )

    def _fail(self, kind: FailureClass, what: str) -> Never:
        counted = self._usage is not None
        usage = self._totals() if counted else None
        raise ModelFailed(kind, f"{self._who} {what}.", usage=usage, possibly_billed=not counted)


def _chunk(data: bytes) -> _Chunk:
    if _kind(data).startswith("response"):
        raise ValueError("an answer of the Responses API; base_url must lead to Chat Completions")
    return msgspec.json.decode(data, type=_Chunk)


def _kind(data: bytes) -> str:
    try:
        named = msgspec.json.decode(data, type=_Named)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    return named.object or named.type or ""


def _is_object(args: str) -> bool:
    try:
        return isinstance(cast("object", msgspec.json.decode(args)), dict)
    except (msgspec.DecodeError, RecursionError):
        return False
