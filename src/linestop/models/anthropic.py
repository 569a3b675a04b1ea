"""Anthropic's Messages API through the official SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import cast

import httpx2
from anthropic import AnthropicError, AsyncAnthropic, DefaultAsyncHttpxClient

from linestop.models.anthropic_reply import AnthropicReplyReader, arguments_object
from linestop.models.transport import HOOKS, HttpResponse, exchange, with_deadline
from linestop.models.wire_names import check_names, to_wire, wire_id
from linestop.schemas.defaults import MODEL_CONNECT_TIMEOUT_S
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import (
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    OnDelta,
    ToolMode,
    ToolSpec,
)
from linestop.schemas.text.visible_text import is_blank

PROVIDER = "anthropic"
BASE_URL = "https://api.anthropic.com"

PARAMS = frozenset({"cache_control", "metadata", "output_config", "stop_sequences", "thinking"})
"""The parameters that an agent may set. Left out on purpose: those that this adapter sets, and those that change the
price (``service_tier``, ``speed``, ``inference_geo``), which would break the bound of the budget."""


class _Sdk(AsyncAnthropic):
    """The SDK's client, which ignores its environment variables, exports nothing to OpenTelemetry and never retries."""

    def __init__(self, api_key: str, base_url: str) -> None:
        super().__init__(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            open_telemetry={"traces": {"enabled": False}, "propagation": False},
            # A redirect would carry the key in `x-api-key` to its target.
            http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=HOOKS),
        )
        # The constructor reads ANTHROPIC_CUSTOM_HEADERS, which cannot be switched off there.
        self._custom_headers = {}


def open_client(model: str, key: str, base_url: str | None, tool_mode: ToolMode) -> ModelClient:
    """Open a client for ``anthropic/<name>``; see ``models.providers``."""
    del model, tool_mode
    return AnthropicClient(key, base_url or BASE_URL)


class AnthropicClient:
    """A ``ModelClient`` for ``anthropic/...``. One connection pool; safe for concurrent calls.

    Args:
        api_key: The key; nothing is read from the environment here.
        base_url: The official API by default; with or without a trailing ``/v1``.
    """

    provider = PROVIDER

    def __init__(self, api_key: str, base_url: str = BASE_URL) -> None:
        self._api_key = api_key
        self._sdk = _Sdk(api_key, base_url.rstrip("/").removesuffix("/v1"))

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Return the whole answer to ``request``; one attempt, always streamed.

        Raises:
            ModelFailed: for every provider or transport fault, refusal, truncation or malformed answer.
        """
        body = request_body(request)

        async def send() -> ModelReply:
            return await exchange(
                self._open(body, request.deadline_s),
                AnthropicReplyReader(request.model),
                requested_model=request.model,
                sdk_error=AnthropicError,
                on_delta=on_delta,
            )

        return await with_deadline(request, self._api_key, send)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sdk.close()

    @asynccontextmanager
    async def _open(self, body: JsonObject, deadline_s: float) -> AsyncGenerator[HttpResponse]:
        fields = dict(body)
        async with self._sdk.messages.with_streaming_response.create(
            model=fields.pop("model"),
            max_tokens=fields.pop("max_tokens"),
            messages=fields.pop("messages"),
            stream=True,
            extra_body=fields,
            timeout=httpx2.Timeout(deadline_s, connect=MODEL_CONNECT_TIMEOUT_S),
        ) as response:
            yield cast("HttpResponse", response)


def request_body(request: ModelRequest) -> JsonObject:
    """Encode ``request`` for the Messages API.

    Raises:
        ModelFailed: ``permanent`` for a tool name or parameter that cannot be sent.
    """
    check_names(request.tools)
    unknown = sorted(set(request.params) - PARAMS)
    if unknown:
        raise ModelFailed(
            "permanent",
            f'The parameter "{unknown[0]}" is not supported for {request.model}; '
            f"allowed are {', '.join(sorted(PARAMS))}.",
        )
    _check_cache(request)
    body: JsonObject = {
        "model": request.model.partition("/")[2],
        "max_tokens": request.output_tokens_max,
        "messages": _messages(request.messages),
        **request.params,
    }
    if request.system:
        body["system"] = request.system
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.output_schema is not None:
        config = cast("JsonObject", body.get("output_config") or {})
        body["output_config"] = config | {"format": {"type": "json_schema", "schema": request.output_schema}}
    return body


def _check_cache(request: ModelRequest) -> None:
    """Refuse one-hour cache writes, which cost more than the price that reservations use."""
    control = request.params.get("cache_control")
    if isinstance(control, dict) and cast("JsonObject", control).get("ttl", "5m") != "5m":
        raise ModelFailed(
            "permanent",
            f'The parameter "cache_control" of {request.model} may only have the ttl "5m", '
            "because dearer cache writes are not covered by the reservation.",
        )


def _tool(tool: ToolSpec) -> JsonObject:
    return {"name": to_wire(tool.name), "description": tool.description, "input_schema": tool.parameters}


def _messages(messages: Iterable[Message]) -> list[JsonObject]:
    """Merge adjacent messages of one role: all results of a turn must be together and come first."""
    written: list[JsonObject] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        content = _content(message)
        if written and written[-1]["role"] == role:
            written[-1]["content"] += content
        else:
            written.append({"role": role, "content": content})
    for entry in written:
        # The provider refuses an empty message, but the answer of a model may have been empty.
        entry["content"] = entry["content"] or [{"type": "text", "text": "(nothing)"}]
    return written


def _content(message: Message) -> list[JsonObject]:
    if message.role == "tool":
        result: JsonObject = {"type": "tool_result", "tool_use_id": wire_id(message.call_id)}
        if message.result_text:
            result["content"] = message.result_text
        return [result | ({"is_error": True} if message.is_error else {})]
    if message.blocks and message.blocks_of == PROVIDER:
        return list(message.blocks)
    content: list[JsonObject] = [] if is_blank(message.text) else [{"type": "text", "text": message.text}]
    calls = [
        {"type": "tool_use", "id": wire_id(call.id), "name": to_wire(call.name), "input": arguments_object(call.args)}
        for call in message.calls
    ]
    return content + calls
