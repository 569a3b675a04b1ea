"""OpenAI's Chat Completions through the official SDK, for OpenAI and every compatible server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import cast

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

from linestop.models.failures import reworded
from linestop.models.json_mode import has_reserved_name, json_mode_reply, json_mode_request, trial_reply, trial_request
from linestop.models.openai_reply import OpenAIReplyReader
from linestop.models.providers import is_own_host
from linestop.models.transport import HOOKS, HttpResponse, exchange, with_deadline
from linestop.models.wire_names import check_names, to_wire, wire_id
from linestop.schemas.defaults import MODEL_CONNECT_TIMEOUT_S
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import (
    FailureClass,
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    OnDelta,
    ToolMode,
    ToolSpec,
)

PROVIDER = "openai"
BASE_URL = "https://api.openai.com/v1"

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
"""The parameters that an agent may set. Left out on purpose: those that this adapter sets, and those that change the
price (``service_tier``), which would break the bound of the budget. ``extra_body`` is also allowed, except for OpenAI
itself: local servers have their own settings."""

_FORBIDDEN_EXTRAS = frozenset(
    {"best_of", "max_completion_tokens", "max_output_tokens", "max_tokens", "n", "service_tier"}
)
"""Fields that must not be set beside the output limit: they allow more or longer answers than were reserved for."""

_UNSUPPORTED_STATUSES = frozenset({400, 422, 501})
"""The statuses by which servers refuse tools, or a schema, that they cannot handle."""


class _Sdk(AsyncOpenAI):
    """The SDK's client, which ignores its environment variables and never retries."""

    def __init__(self, api_key: str, base_url: str) -> None:
        super().__init__(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            # A redirect must not carry the conversation to its target.
            http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=HOOKS),
        )
        # The constructor always reads OPENAI_ORG_ID, _PROJECT_ID, _ADMIN_KEY and _CUSTOM_HEADERS.
        self.organization = self.project = self.admin_api_key = None
        self._custom_headers = {}


def open_client(model: str, key: str, base_url: str | None, tool_mode: ToolMode) -> ModelClient:
    """Open a client for ``openai/<name>``; see ``models.providers``."""
    del model
    return OpenAIClient(key, base_url or BASE_URL, tool_mode=tool_mode)


class OpenAIClient:
    """A ``ModelClient`` for ``openai/...`` and compatible servers. Safe for concurrent calls.

    One call sends one request, also while ``auto`` still has to find the mode: then the first answers are on trial,
    and an answer without a tool call is a failure, after which the next attempt asks for one JSON object.

    Args:
        api_key: The key; nothing is read from the environment here.
        base_url: With its ``/v1``, if the server has one.
        tool_mode: ``native`` sends tools as tools. ``json_schema`` asks for one JSON object per turn. ``auto``
            finds the mode once per model; for OpenAI itself it is ``native``.
    """

    def __init__(self, api_key: str, base_url: str = BASE_URL, *, tool_mode: ToolMode = "auto") -> None:
        self._api_key = api_key
        self._sdk = _Sdk(api_key, base_url)
        self._official = is_own_host(PROVIDER, base_url)
        self._base_url = base_url
        self._tool_mode: ToolMode = "native" if tool_mode == "auto" and self._official else tool_mode
        self._known_modes: dict[str, ToolMode] = {}
        self._models_without_calls: set[str] = set()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Return the whole answer to ``request``; one attempt, one request, always streamed.

        Raises:
            ModelFailed: for every provider or transport fault, refusal, truncation or malformed answer.
        """
        mode = self._known_modes.get(request.model, self._tool_mode)
        if not request.tools or (mode == "auto" and has_reserved_name(request.tools)):
            mode = "native"

        async def send() -> ModelReply:
            if mode != "auto":
                return await self._request(request, mode, on_delta)
            if request.model in self._models_without_calls:
                return await self._request_json_object(request)
            return await self._request_with_trial_tool(request, on_delta)

        return await with_deadline(request, self._api_key, send)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sdk.close()

    async def _request(self, request: ModelRequest, mode: ToolMode, on_delta: OnDelta | None = None) -> ModelReply:
        if mode == "native":
            return await self._exchange(request, request_body(request, official=self._official), on_delta)
        written, response_format = json_mode_request(request)
        body = request_body(written, official=self._official) | {"response_format": response_format}
        # The pieces of a turn are JSON, not text, so watchers get nothing.
        return json_mode_reply(await self._exchange(written, body, None), request.model)

    async def _request_with_trial_tool(self, request: ModelRequest, on_delta: OnDelta | None) -> ModelReply:
        """Send tools as tools: a call shows that the model can call them."""
        model = request.model
        try:
            reply = await self._request(trial_request(request), "native", on_delta)
        except ModelFailed as failed:
            if failed.status not in _UNSUPPORTED_STATUSES and failed.kind not in {"malformed", "truncated"}:
                raise
            self._models_without_calls.add(model)
            # A server that refuses only tools is asked again, in JSON-schema mode.
            kind: FailureClass = "malformed" if failed.status in _UNSUPPORTED_STATUSES else failed.kind
            sentence = f"{failed} The next attempt asks for one JSON object instead of tool calls."
            raise reworded(failed, sentence, kind) from failed
        if reply.calls:
            self._known_modes[model] = "native"
        elif self._known_modes.get(model) != "native":
            self._models_without_calls.add(model)
            raise ModelFailed(
                "malformed",
                f"{model} answered without calling a tool, so the next attempt asks for one JSON object; "
                'set tool_mode to "native" or "json_schema" to save this attempt.',
                usage=reply.usage if reply.usage_reported else None,
                possibly_billed=not reply.usage_reported,
            )
        return trial_reply(reply, model)

    async def _request_json_object(self, request: ModelRequest) -> ModelReply:
        """Ask for one JSON object; without one, this model cannot be used with tools at all."""
        try:
            reply = await self._request(request, "json_schema")
        except ModelFailed as failed:
            if failed.status not in _UNSUPPORTED_STATUSES and failed.kind != "malformed":
                raise
            # Forgotten, because another run may find that the server has loaded another model.
            self._models_without_calls.discard(request.model)
            sentence = (
                f"{failed} Before that, {request.model} at {self._base_url} did not call a tool when it was offered "
                'tools: use another model or server, or set tool_mode to "native" or "json_schema".'
            )
            raise reworded(failed, sentence, "permanent") from failed
        self._known_modes.setdefault(request.model, "json_schema")
        return reply

    async def _exchange(self, request: ModelRequest, body: JsonObject, on_delta: OnDelta | None) -> ModelReply:
        return await exchange(
            self._open(body, request.deadline_s),
            OpenAIReplyReader(request.model),
            requested_model=request.model,
            sdk_error=OpenAIError,
            on_delta=on_delta,
        )

    @asynccontextmanager
    async def _open(self, body: JsonObject, deadline_s: float) -> AsyncGenerator[HttpResponse]:
        fields = dict(body)
        async with self._sdk.chat.completions.with_streaming_response.create(
            model=fields.pop("model"),
            messages=fields.pop("messages"),
            stream=True,
            extra_body=fields,
            timeout=httpx2.Timeout(deadline_s, connect=MODEL_CONNECT_TIMEOUT_S),
        ) as response:
            yield cast("HttpResponse", response)


def request_body(request: ModelRequest, *, official: bool) -> JsonObject:
    """Encode ``request`` for Chat Completions.

    Raises:
        ModelFailed: ``permanent`` for a tool name or parameter that cannot be sent.
    """
    check_names(request.tools)
    params = dict(request.params)
    extra = cast("JsonObject", {} if official else params.pop("extra_body", {}))
    if unbounded := sorted(_FORBIDDEN_EXTRAS & set(extra)):
        raise ModelFailed(
            "permanent",
            f'"{unbounded[0]}" in extra_body of {request.model} would break the bound that a call reserves; remove it.',
        )
    unknown = sorted(set(params) - PARAMS)
    if unknown:
        raise ModelFailed(
            "permanent",
            f'The parameter "{unknown[0]}" is not supported for {request.model}; '
            f"allowed are {', '.join(sorted(PARAMS))}.",
        )
    # Most compatible servers know only the older name, and ignore a limit under an unknown one.
    limit = str(params.pop("output_tokens_field", "max_completion_tokens" if official else "max_tokens"))
    system = [{"role": "system", "content": request.system}] if request.system else []
    body: JsonObject = {
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


def _tool(tool: ToolSpec) -> JsonObject:
    function = {"name": to_wire(tool.name), "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _message(message: Message) -> JsonObject:
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": wire_id(message.call_id), "content": message.result_text}
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
