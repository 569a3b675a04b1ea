"""The planner's voice: reaches a model, or a plain function, once a call."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec

from linestop.models import open_model
from linestop.models.freshness import require_fresh
from linestop.schemas.model import (
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    ToolCall,
    ToolMode,
    Usage,
)
from linestop.schemas.redact import Pieces
from linestop.schemas.work import ModelWork

Delta = Callable[[ModelWork, str, int], Awaitable[None]]
"""Takes the next piece of an attempt's text, and how many characters of it came before."""

PREFIX = "python:"
REST_S = 1.0
"""How long an answer waits at most until its last piece is on its way to watchers."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a planner function returns: an answer, or calls as (tool, arguments)."""

    answer: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


PlannerFunction = Callable[[tuple[Message, ...]], Plan]
"""A pure function of the conversation so far: the same messages must give the same plan."""


class Caller:
    """Opens each model once and keeps it. ``on_delta`` gets pieces of text as they come, redacted."""

    def __init__(self, *, on_delta: Delta | None = None, base_urls: dict[str, str] | None = None) -> None:
        self._on_delta = on_delta
        self._base_urls = base_urls or {}
        self._clients: dict[tuple[str, str, str, ToolMode], ModelClient] = {}
        self._functions: dict[str, PlannerFunction] = {}

    async def call(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Return the complete answer and its duration in seconds.

        Raises:
            ModelFailed: there is none.
        """
        began = time.perf_counter()
        if work.planner.startswith(PREFIX):
            function = self._function(work.planner)
            require_fresh(work.start_by)
            return function(work.request), time.perf_counter() - began
        client = self._client(work)
        request = msgspec.structs.replace(work.request, start_by=work.start_by)
        on_delta = self._on_delta
        if on_delta is None:
            reply = await client.complete(request)
        else:
            pieces, offset = Pieces(work.redactor), 0

            async def show(text: str) -> None:
                nonlocal offset
                if text:
                    offset, before = offset + len(text), offset
                    await on_delta(work, text, before)

            async def delta(text: str) -> None:
                await show(pieces.add(text))

            reply = await client.complete(request, delta)
            # Watchers are told the rest if they can be: no answer waits for them or fails with them.
            with anyio.move_on_after(REST_S), contextlib.suppress(Exception):
                await show(pieces.rest())
        return reply, time.perf_counter() - began

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, work: ModelWork) -> ModelClient:
        model = work.request.model
        provider = model.split("/", 1)[0]
        url = work.base_url or self._base_urls.get(provider, "")
        key = (model, url, work.api_key_env, work.tool_mode)
        if key not in self._clients:
            try:
                self._clients[key] = open_model(
                    model, base_url=url or None, api_key_env=work.api_key_env, tool_mode=work.tool_mode
                )
            except Exception as error:
                raise ModelFailed("permanent", str(error)) from error
        return self._clients[key]

    def _function(self, name: str) -> Callable[[ModelRequest], ModelReply]:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = load_planner(name)

        def reply(request: ModelRequest) -> ModelReply:
            try:
                plan = msgspec.convert(msgspec.to_builtins(function(request.messages)), Plan)
                calls = tuple(
                    ToolCall(
                        id=f"plan-{len(request.messages)}-{index}", name=tool, args=msgspec.json.encode(args).decode()
                    )
                    for index, (tool, args) in enumerate(plan.calls)
                )
            except (Exception, SystemExit) as error:
                # An exit is the function's mistake, and must not end the process with all its runs.
                raise ModelFailed("permanent", f"The planner function failed: {type(error).__name__}.") from error
            return ModelReply(
                text=plan.answer, calls=calls, stop_reason="calls" if calls else "end", usage=Usage(),
                usage_reported=True, model=name,
            )  # fmt: skip

        return reply


def load_planner(name: str) -> PlannerFunction:
    """Import ``python:<module>.<function>``.

    Raises:
        ModelFailed: there is no such module or function.
    """
    module, _, function = name.removeprefix(PREFIX).rpartition(".")
    try:
        found: PlannerFunction = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:
        # A module may raise anything while it is imported.
        sentence = f"The planner '{name}' cannot be imported ({type(error).__name__}: {error})."
        raise ModelFailed("permanent", sentence) from error
    if not callable(found):
        raise ModelFailed("permanent", f"The planner '{name}' is no function.")
    return found
