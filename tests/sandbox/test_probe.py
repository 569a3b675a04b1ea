"""Asking what became of a call, and checking what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from linestop.sandbox.context import Context
from linestop.sandbox.perform import probe, run_check
from linestop.sandbox.tool import AnyTool, tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sandbox.conftest import MakeContext

pytestmark = pytest.mark.anyio


def declared(fn: Callable[..., Any], **options: Any) -> AnyTool:  # noqa: ANN401 - any option
    """The tool that the decorator makes of ``fn``, named t."""
    decorator = cast("Callable[..., Callable[..., AnyTool]]", tool)
    return decorator(**{"name": "t", "tier": "irreversible", **options})(fn)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("true", "succeeded"), ("false", "never_started"), ("none", "unknown"), ("raise", "unknown"), ("hang", "unknown")],
)
async def test_a_probe_tells_the_fate_of_a_key(make_context: MakeContext, answer: str, outcome: str) -> None:
    """True, false, or it cannot tell; a probe that breaks or hangs cannot tell."""
    asked: list[str] = []

    async def look(ctx: Context, to: str) -> bool | None:
        asked.append(ctx.key + to)
        if answer == "raise":
            raise ConnectionError("no route")
        if answer == "hang":
            await asyncio.Event().wait()
        return {"true": True, "false": False}.get(answer)

    async def send(ctx: Context, to: str) -> None:
        """Text."""
        del ctx, to

    made = declared(send, probe=look, timeout_s=0.1 if answer == "hang" else 20)
    assert made.contract.probe is True
    result = await probe(made, make_context(), b'{"to":"x"}')
    assert result.outcome == outcome
    assert asked == ["k" * 64 + "x"]
    if answer == "raise":
        assert result.error is not None
        assert result.error.message == "the probe failed: no route"


def test_a_check_returns_findings() -> None:
    """Bounded in number, and one that breaks is a finding itself."""

    async def give(ctx: Context) -> int:
        """Text."""
        del ctx
        return 1

    def check(value: Any) -> list[str]:  # noqa: ANN401 - any JSON value
        return [f"{value} is too small"] * (1000 // value)

    made = declared(give, check=check)
    assert made.contract.checks is True
    assert run_check(made, 500) == ("500 is too small",) * 2
    assert len(run_check(made, 1)) == 20
    assert run_check(made, 0) == ("the check of tool t failed: ZeroDivisionError: integer division or modulo by zero",)
    assert run_check(declared(give), 1) == ()
