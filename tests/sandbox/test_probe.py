"""Probes, which find the outcome of a call, and checks of results."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool, tool
from linestop.sandbox.tools.perform_call import probe, run_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sandbox.conftest import MakeContext

pytestmark = pytest.mark.anyio


def declared(fn: Callable[..., Any], **options: Any) -> AnyTool:
    """The tool t that the decorator creates from ``fn``."""
    decorator = cast("Callable[..., Callable[..., AnyTool]]", tool)
    return decorator(**{"name": "t", "tier": "irreversible", **options})(fn)


async def give(ctx: Context) -> int:
    """Text."""
    del ctx
    return 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("true", "succeeded"), ("false", "never_started"), ("none", "unknown"), ("raise", "unknown"), ("hang", "unknown")],
)
async def test_a_probe_tells_whether_a_key_took_effect(make_context: MakeContext, answer: str, outcome: str) -> None:
    """True, False or None; a probe that raises or hangs cannot tell."""
    asked: list[str] = []

    async def probe_key(ctx: Context, to: str) -> bool | None:
        asked.append(ctx.key + to)
        if answer == "raise":
            raise ConnectionError("no route")
        if answer == "hang":
            await asyncio.Event().wait()
        return {"true": True, "false": False}.get(answer)

    async def send(ctx: Context, to: str) -> None:
        """Text."""
        del ctx, to

    made = declared(send, probe=probe_key, timeout_s=0.1 if answer == "hang" else 20)
    assert made.contract.probe is True
    result = await probe(made, make_context(), b'{"to":"x"}')
    assert result.outcome == outcome
    assert asked == ["k" * 64 + "x"]
    if answer == "raise":
        assert result.error is not None
        assert result.error.message == "the probe failed: no route"


def test_a_check_returns_findings() -> None:
    """The number of findings is bounded, and an error of the check is a finding."""

    def check(value: Any) -> list[str]:
        return [f"{value} is too small"] * (1000 // value)

    made = declared(give, check=check)
    assert made.contract.checks is True
    assert run_check(made, 500) == ("500 is too small",) * 2
    assert len(run_check(made, 1)) == 20
    assert run_check(made, 0) == ("the check of tool t failed: ZeroDivisionError: integer division or modulo by zero",)
    assert run_check(declared(give), 1) == ()


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()])
def test_an_exception_of_a_check_is_a_finding(error: BaseException) -> None:
    """A check only reads the result, so none of its errors may end the process or the pass over the run."""

    def check(value: int) -> list[str]:
        del value
        raise error

    (found,) = run_check(declared(give, check=check), 1)
    assert type(error).__name__ in found


def test_unpaired_surrogates_in_a_finding_are_replaced() -> None:
    """The name of a file may have some, and an event cannot hold them."""

    def halves(value: int) -> list[str]:
        del value
        return ["a\udcff"]

    assert run_check(declared(give, check=halves), 1) == ("a?",)


async def test_a_probe_that_cancels_its_task_cancels_itself_alone(make_context: MakeContext) -> None:
    """The probe cannot tell, and its caller continues."""

    async def ask(ctx: Context) -> bool:
        del ctx
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()
        return True

    with anyio.fail_after(5):
        result = await probe(declared(give, probe=ask), make_context(), b"{}")
    assert result.outcome == "unknown"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
