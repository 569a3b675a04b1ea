"""Tools that act and then fail in a way that the caller chooses; also loaded by child processes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from linestop.sandbox.tools.decorator import AnyTool, Context, ToolFailed, ToolUnknown, tool
from linestop.schemas.defaults import BLOB_BYTES_MAX


class Odd:
    """An object that is not JSON and has no ``repr``."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class OddError(Exception):
    """An error whose text is not a valid string."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class StrangeFailure(ToolFailed):
    """A failure with fields that an event cannot hold."""

    def __init__(self) -> None:
        self.type = "bogus"  # type: ignore[assignment] # a tool without a type check may do this
        self.retry_after_s = float("nan")


def _raise(error: BaseException) -> Any:
    raise error


def _cycle() -> Any:
    found: dict[str, Any] = {"a": 1}
    found["me"] = found
    return found


def _tower() -> Any:
    value: list[Any] = []
    for _ in range(400):
        value = [value]
    return {"deep": value}


def _lazily() -> Iterator[int]:
    yield 1


async def _later() -> int:
    return 1


VALUES: dict[str, Callable[[], Any]] = {
    "wrong type": lambda: {"paid_cents": "4250"},
    "null": lambda: None,
    "nan": lambda: {"paid_cents": float("nan")},
    "object": lambda: {"paid_cents": 4250, "order": object()},
    "odd object": lambda: {"paid_cents": 4250, "order": Odd()},
    "surrogate": lambda: {"paid_cents": 4250, "name": "half \ud83d"},
    "surrogate key": lambda: {"\ud83d": 4250},
    "odd keys": lambda: {("a", "b"): 1},
    "cycle": _cycle,
    "too deep": _tower,
    "too large": lambda: {"a" * (BLOB_BYTES_MAX + 1): 1},
}
"""Values that are returned after the effect; none is a ``dict[str, int]``."""

ERRORS: dict[str, Callable[[], Any]] = {
    "exception": lambda: _raise(ValueError("half done")),
    "odd exception": lambda: _raise(OddError()),
    "surrogate exception": lambda: _raise(ValueError("half \ud83d")),
    "group": lambda: _raise(ExceptionGroup("several", [ToolFailed("one of two"), ValueError("two")])),
    "base group": lambda: _raise(BaseExceptionGroup("several", [KeyboardInterrupt()])),
    "base": lambda: _raise(BaseException("not an Exception")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "exit": lambda: _raise(SystemExit(0)),
    "generator exit": lambda: _raise(GeneratorExit()),
    "stop iteration": lambda: _raise(StopIteration(7)),
    "memory": lambda: _raise(MemoryError()),
    "recursion": lambda: _raise(RecursionError("too deep")),
    "timeout error": lambda: _raise(TimeoutError()),
}
"""Errors that a function raises after its effect."""

UNKNOWN_ENDS: dict[str, Callable[[], Any]] = {
    "unknown": lambda: _raise(ToolUnknown("the line went dead")),
    "cancelled error": lambda: _raise(asyncio.CancelledError()),
    "coroutine": _later,
    "generator": _lazily,
    "generator expression": lambda: (n for n in (1, 2)),
}
"""Ends that leave the outcome unknown, also for a contract with ``raises_before_effect``."""

TOOL_FAILURES: dict[str, Callable[[], Any]] = {
    "failed": lambda: _raise(ToolFailed("no such order")),
    "failed safely": lambda: _raise(ToolFailed("busy", type="transient", retry_safe=True)),
    "strange failure": lambda: _raise(StrangeFailure()),
}
"""Failures that the tool reports itself."""

BEHAVIORS = VALUES | ERRORS | UNKNOWN_ENDS | TOOL_FAILURES


def _use_context(ctx: Context, how: str) -> None:
    """Make ``ctx`` raise its own errors."""
    if how == "workspace":
        ctx.workspace.write("../outside", b"")
    if how == "hang":
        time.sleep(30)
    if how == "killed":
        os.kill(os.getpid(), 9)


def _effect_then(ctx: Context, how: str) -> dict[str, int]:
    """Perform the effect, then fail in a chosen way."""
    ctx.workspace.write("done", b"x")
    _use_context(ctx, how)
    return BEHAVIORS[how]() if how in BEHAVIORS else {"paid_cents": 4250}


async def _effect_then_async(ctx: Context, how: str) -> dict[str, int]:
    """Perform the effect, then fail in a chosen way."""
    ctx.workspace.write("done", b"x")
    if how == "denied":
        await ctx.http.post("http://10.0.0.1/")
    if how == "hang":
        await asyncio.Event().wait()
    _use_context(ctx, how)
    return BEHAVIORS[how]() if how in BEHAVIORS else {"paid_cents": 4250}


CONTRACTS: dict[str, dict[str, Any]] = {
    "read": {"tier": "read"},
    "reversible": {"tier": "reversible"},
    "irreversible": {"tier": "irreversible"},
    "destructive": {"tier": "destructive"},
    "idempotent": {"tier": "irreversible", "idempotent": True},
    "raises": {"tier": "reversible", "raises_before_effect": True},
}

_declare: Any = tool
TOOLS: dict[str, AnyTool] = {
    f"{kind}_{name}": _declare(name=f"{kind}_{name}", kind=kind, timeout_s=30, price_micros=7, **options)(fn)
    for kind, fn in (("async", _effect_then_async), ("thread", _effect_then), ("process", _effect_then))
    for name, options in CONTRACTS.items()
}
globals().update(TOOLS)
