"""Sends the planner's requests to a model or a planner function; each call sends one request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import anyio.to_thread
import msgspec

from linestop.models import import_sdk, open_model
from linestop.models.may_still_begin import require_fresh
from linestop.models.planner_function import PREFIX, PlannerFunction, call_function, load_planner
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.model_messages import ModelClient, ModelFailed, ModelReply, ToolMode
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.text.redaction import StreamRedactor

OnModelDelta = Callable[[ModelWork, str, int], Awaitable[None]]
"""Receives the next piece of an attempt's text, and the number of characters before it."""
FLUSH_TIMEOUT_S = 1.0
"""The longest time that an answer waits for its last piece to be sent to watchers."""


class Requester:
    """Opens each model once and reuses its client. ``on_delta`` receives pieces of text as they come, redacted."""

    def __init__(self, *, on_delta: OnModelDelta | None = None, base_urls: dict[str, str] | None = None) -> None:
        self._on_delta = on_delta
        self._base_urls = base_urls or {}
        self._clients: dict[tuple[str, str, str, ToolMode], ModelClient] = {}
        self._functions: dict[str, PlannerFunction] = {}

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Return the complete answer and its duration in seconds.

        Raises:
            ModelFailed: there is no complete answer.
        """
        began = time.perf_counter()
        if work.planner.startswith(PREFIX):
            function = self._functions.get(work.planner) or load_planner(work.planner)
            self._functions[work.planner] = function
            require_fresh(work.start_by)
            reply = await call_function(work.planner, function, work.request)
            return without_lone_surrogates(reply), time.perf_counter() - began
        client = await self._client(work)
        request = msgspec.structs.replace(work.request, start_by=work.start_by)
        on_delta = self._on_delta
        if on_delta is None:
            reply = await client.complete(request)
        else:
            pieces, offset = StreamRedactor(work.redactor), 0

            async def show(text: str) -> None:
                nonlocal offset
                if text:
                    offset, offset_before = offset + len(text), offset
                    await on_delta(work, text, offset_before)

            async def delta(text: str) -> None:
                await show(pieces.add(text))

            reply = await client.complete(request, delta)
            # Watchers get the rest if possible: an answer neither waits long for them nor fails with them.
            with anyio.move_on_after(FLUSH_TIMEOUT_S), contextlib.suppress(Exception):
                await show(pieces.finish())
        return without_lone_surrogates(reply), time.perf_counter() - began

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _client(self, work: ModelWork) -> ModelClient:
        model = work.request.model
        provider = model.split("/", 1)[0]
        url = work.base_url or self._base_urls.get(provider, "")
        key = (model, url, work.api_key_env, work.tool_mode)
        try:
            if key not in self._clients:
                await anyio.to_thread.run_sync(import_sdk, model, abandon_on_cancel=True)
            # Asked again, because another request may have opened it during the import.
            if key not in self._clients:
                self._clients[key] = open_model(
                    model, base_url=url or None, api_key_env=work.api_key_env, tool_mode=work.tool_mode
                )
        except Exception as error:
            raise ModelFailed("permanent", str(error)) from error
        return self._clients[key]


def without_lone_surrogates(reply: ModelReply) -> ModelReply:
    """The answer without unpaired surrogates, which an event cannot hold; its text has none already."""
    try:
        msgspec.json.encode(reply)
    except UnicodeEncodeError:
        return msgspec.convert(_replace_surrogates(msgspec.to_builtins(reply)), ModelReply)
    return reply


def _replace_surrogates(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_replace_surrogates(key): _replace_surrogates(each) for key, each in cast("JsonObject", value).items()}
    if isinstance(value, list | tuple):
        return [_replace_surrogates(each) for each in cast("list[Any]", value)]
    return value
