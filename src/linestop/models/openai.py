"""OpenAI's Chat Completions through the official SDK, for OpenAI and every server that speaks the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import msgspec
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from linestop.models.names import check_names, to_wire, wire_id
from linestop.models.openai_reply import OpenAIReply
from linestop.models.steps import step_reply, step_request
from linestop.models.transport import CONNECT_S, HttpAnswer, exchange, within
from linestop.schemas.model import Message, ModelFailed, ModelReply, ModelRequest, OnDelta, ToolSpec, Usage

BASE_URL = "https://api.openai.com/v1"
ToolMode = Literal["native", "json_schema", "probe"]

PARAMS = frozenset(
    {
        "frequency_penalty",
        "output_tokens_field",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "seed",
        "stop",
        "temperature",
        "top_p",
        "user",
        "verbosity",
    }
)
"""What an agent may set. Left out on purpose: what this adapter owns, and what changes the price
(``service_tier``), which would break the budget's bound. ``extra_body`` is allowed besides, except for OpenAI
itself: local servers have knobs of their own."""

_PROBE_TOKENS_MAX = 1_024
_PROBE_TOOL = ToolSpec(
    name="calculator",
    description="Calculates one arithmetic expression.",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "maxLength": 100}},
        "required": ["expression"],
        "additionalProperties": False,
    },
)
_PROBE_TEXT = "What is 17*23? Use the calculator tool."
_CANNOT: frozenset[str] = frozenset({"malformed", "permanent", "truncated", "refusal"})


class _Sdk(AsyncOpenAI):
    """The SDK's client, deaf to its environment variables, without retries."""

    def __init__(self, api_key: str, base_url: str) -> None:
        super().__init__(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            # A redirect must not carry the conversation to wherever it points.
            http_client=DefaultAsyncHttpxClient(follow_redirects=False),
        )
        # The constructor reads OPENAI_ORG_ID, _PROJECT_ID, _ADMIN_KEY and _CUSTOM_HEADERS without asking.
        self.organization = self.project = self.admin_api_key = None
        self._custom_headers = {}


class OpenAIClient:
    """A ``ModelClient`` for ``openai/...`` and compatible servers. Safe for concurrent calls.

    Args:
        api_key: The key; nothing is read from the environment here.
        base_url: With its ``/v1``, where the server has one.
        tool_mode: ``native`` sends tools as tools. ``json_schema`` asks for one JSON object a turn.
            ``probe`` finds out once a model, before its first request with tools; for OpenAI itself it is
            ``native``.
    """

    def __init__(self, api_key: str, base_url: str = BASE_URL, *, tool_mode: ToolMode = "probe") -> None:
        self._sdk = _Sdk(api_key, base_url)
        self._official = is_official(base_url)
        self._base_url = base_url
        self._tool_mode: ToolMode = "native" if tool_mode == "probe" and self._official else tool_mode
        self._probed: dict[str, Literal["native", "json_schema", "none"]] = {}
        self._probing = anyio.Lock()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Return the whole answer to ``request``; one attempt, always streamed.

        A probe that precedes it is within the same deadline, and its tokens are in the reply's usage.

        Raises:
            ModelFailed: for every provider or transport fault, refusal, truncation or malformed answer.
        """
        # Checked here once more: a probe must not be paid for a request that cannot be sent.
        request_body(request, official=self._official)

        async def call() -> ModelReply:
            mode, spent = await self._mode(request)
            try:
                reply = await self._ask(request, mode, on_delta)
            except ModelFailed as failed:
                if failed.usage is not None or (spent.total and not failed.possibly_billed):
                    failed.usage = _sum(spent, failed.usage or Usage())
                raise
            return msgspec.structs.replace(reply, usage=_sum(spent, reply.usage))

        return await within(request.deadline_s, request.model, call)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sdk.close()

    async def _ask(self, request: ModelRequest, mode: str, on_delta: OnDelta | None = None) -> ModelReply:
        if mode == "native" or not request.tools:
            return await self._exchange(request, request_body(request, official=self._official), on_delta)
        written, response_format = step_request(request)
        body = request_body(written, official=self._official) | {"response_format": response_format}
        # Pieces of a step are JSON, not text: watchers get nothing rather than that.
        return step_reply(await self._exchange(written, body, None), request.model)

    async def _exchange(self, request: ModelRequest, body: dict[str, Any], on_delta: OnDelta | None) -> ModelReply:
        return await exchange(
            self._open(body, request.deadline_s),
            OpenAIReply(request.model),
            who=request.model,
            sdk_error=OpenAIError,
            on_delta=on_delta,
        )

    async def _mode(self, request: ModelRequest) -> tuple[str, Usage]:
        """How to offer tools to this model, and what finding out cost."""
        if self._tool_mode != "probe" or not request.tools:
            return self._tool_mode, Usage()
        async with self._probing:
            spent = Usage()
            if request.model not in self._probed:
                self._probed[request.model], spent = await self._probe(request)
        mode = self._probed[request.model]
        if mode == "none":
            raise ModelFailed(
                "permanent",
                f"{request.model} at {self._base_url} neither calls tools nor keeps to a JSON schema; "
                'use another model or server, or set tool_mode to "native" or "json_schema".',
                usage=spent if spent.total else None,
            )
        return mode, spent

    async def _probe(self, request: ModelRequest) -> tuple[Literal["native", "json_schema", "none"], Usage]:
        """Ask a question with one tool: a call back means native; failing that, a well-formed step will do.

        What says nothing about the model (no connection, a rate limit) is raised and not remembered.
        """
        question = ModelRequest(
            model=request.model,
            system="",
            messages=(Message(role="user", text=_PROBE_TEXT),),
            tools=(_PROBE_TOOL,),
            output_tokens_max=min(_PROBE_TOKENS_MAX, request.output_tokens_max),
            deadline_s=request.deadline_s,
            params=request.params,
        )
        spent = Usage()
        for mode in ("native", "json_schema"):
            try:
                reply = await self._ask(question, mode)
            except ModelFailed as failed:
                spent = _sum(spent, failed.usage or Usage())
                if failed.kind not in _CANNOT or failed.status in (401, 402, 403, 404):
                    raise
                continue
            spent = _sum(spent, reply.usage)
            if mode == "json_schema" or reply.calls:
                return mode, spent
        return "none", spent

    @asynccontextmanager
    async def _open(self, body: dict[str, Any], deadline_s: float) -> AsyncGenerator[HttpAnswer]:
        fields = dict(body)
        async with self._sdk.chat.completions.with_streaming_response.create(
            model=fields.pop("model"),
            messages=fields.pop("messages"),
            stream=True,
            extra_body=fields,
            timeout=httpx2.Timeout(deadline_s, connect=CONNECT_S),
        ) as answer:
            yield cast("HttpAnswer", answer)


def is_official(base_url: str) -> bool:
    """Whether a base URL is OpenAI's own, regional ones included."""
    host = urlsplit(base_url).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def request_body(request: ModelRequest, *, official: bool) -> dict[str, Any]:
    """Write ``request`` as Chat Completions wants it.

    Raises:
        ModelFailed: ``permanent`` for a tool name or parameter that cannot be sent.
    """
    check_names(request.tools)
    params = dict(request.params)
    extra = cast("dict[str, Any]", {} if official else params.pop("extra_body", {}))
    unknown = sorted(set(params) - PARAMS)
    if unknown:
        raise ModelFailed(
            "permanent",
            f'The parameter "{unknown[0]}" is not supported for {request.model}; '
            f"allowed are {', '.join(sorted(PARAMS))}.",
        )
    # Most compatible servers know the older name only, and an unknown one means no limit at all there.
    limit = str(params.pop("output_tokens_field", "max_completion_tokens" if official else "max_tokens"))
    system = [{"role": "system", "content": request.system}] if request.system else []
    body: dict[str, Any] = {
        **extra,
        "model": request.model.partition("/")[2],
        "messages": [*system, *(_message(message) for message in request.messages)],
        "stream_options": {"include_usage": True},
        limit: request.output_tokens_max,
        **params,
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.output_schema is not None:
        schema = {"name": "answer", "strict": False, "schema": request.output_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": to_wire(tool.name), "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": wire_id(message.call_id), "content": message.text}
    if not message.calls:
        return {"role": message.role, "content": message.text}
    calls = [
        {
            "id": wire_id(call.id),
            "type": "function",
            "function": {"name": to_wire(call.name), "arguments": call.args},
        }
        for call in message.calls
    ]
    return {"role": "assistant", "content": message.text or None, "tool_calls": calls}


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        fresh_in=one.fresh_in + other.fresh_in,
        cache_read=one.cache_read + other.cache_read,
        cache_write=one.cache_write + other.cache_write,
        out=one.out + other.out,
        reasoning=one.reasoning + other.reasoning,
    )
