"""The planner's voice: reaches a model, or a plain function, once a call."""

from __future__ import annotations

import importlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from linestop.models import open_model
from linestop.schemas.model import (
    Message,
    ModelClient,
    ModelFailed,
    ModelReply,
    ModelRequest,
    ToolCall,
    Usage,
)
from linestop.schemas.work import ModelWork

Delta = Callable[[ModelWork, str], Awaitable[None]]
PREFIX = "python:"


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a planner function returns: an answer, or calls as (tool, arguments)."""

    answer: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


PlannerFunction = Callable[[tuple[Message, ...]], Plan]
"""A pure function of the conversation so far: the same messages must give the same plan."""


class Caller:
    """Opens each model once and keeps it. ``on_delta`` gets pieces of text as they come."""

    def __init__(self, *, on_delta: Delta | None = None, base_urls: dict[str, str] | None = None) -> None:
        self._on_delta = on_delta
        self._base_urls = base_urls or {}
        self._clients: dict[tuple[str, str], ModelClient] = {}
        self._functions: dict[str, PlannerFunction] = {}

    async def call(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Return the complete answer and its duration in seconds.

        Raises:
            ModelFailed: there is none.
        """
        began = time.perf_counter()
        if work.planner.startswith(PREFIX):
            return self._function(work.planner)(work.request), time.perf_counter() - began
        client = self._client(work.request.model, work.base_url)
        on_delta = self._on_delta
        if on_delta is None:
            reply = await client.complete(work.request)
        else:

            async def delta(text: str) -> None:
                await on_delta(work, text)

            reply = await client.complete(work.request, delta)
        return reply, time.perf_counter() - began

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    def _client(self, model: str, base_url: str) -> ModelClient:
        url = base_url or self._base_urls.get(model.split("/", 1)[0], "")
        key = (model, url)
        if key not in self._clients:
            try:
                self._clients[key] = open_model(model, base_url=url or None)
            except Exception as error:
                raise ModelFailed("permanent", str(error)) from error
        return self._clients[key]

    def _function(self, name: str) -> Callable[[ModelRequest], ModelReply]:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = load_planner(name)

        def reply(request: ModelRequest) -> ModelReply:
            try:
                plan = function(request.messages)
            except Exception as error:
                raise ModelFailed("permanent", f"The planner function failed: {type(error).__name__}.") from error
            calls = tuple(
                ToolCall(id=f"plan-{len(request.messages)}-{index}", name=tool, args=msgspec.json.encode(args).decode())
                for index, (tool, args) in enumerate(plan.calls)
            )
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
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelFailed("permanent", f"The planner '{name}' cannot be imported: {error}.") from error
    return found
