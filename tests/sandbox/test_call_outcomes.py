"""The outcome of a call that fails after the function of its tool has begun: only the tool can deny the effect.

The whole table: every way to fail, by every kind of tool, under every kind of contract.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from tests.sandbox.failing_tools import CONTRACTS, ERRORS, TOOL_FAILURES, UNKNOWN_ENDS, VALUES

from linestop.actors.executor import finished_event
from linestop.actors.judging.task_acceptance import tool_grant
from linestop.errors import ConfigError
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.perform_call import perform
from linestop.sandbox.tools.registry import load_file
from linestop.schemas.events import Finished
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.tool_contracts import ToolResult

if TYPE_CHECKING:
    from tests.sandbox.conftest import MakeContext, Servers

pytestmark = pytest.mark.anyio

TOOLS = load_file(Path(__file__).with_name("failing_tools.py"))
IN_A_PROCESS = ("wrong type", "surrogate", "surrogate exception", "interrupt", "base group", "coroutine", "failed")
"""A process takes a quarter of a second to start, so it gets only the cases that differ there."""


async def perform_and_finish(name: str, how: str, ctx: Context, scope: anyio.CancelScope | None = None) -> ToolResult:
    """Perform the call, and check that its result can be stored as an event and read back."""
    made = TOOLS[name]
    async with ctx.http:
        result = await perform(made, ctx, msgspec.json.encode({"how": how}), scope=scope)
    work = CallWork(
        tenant=ctx.tenant,
        run=ctx.run,
        call=ctx.call,
        attempt=1,
        tool=name,
        grant=tool_grant(made.contract),
        args=b"",
        key=ctx.key,
        user="",
        tier=made.contract.tier,
        start_by=ctx.start_by,
        timeout_s=1,
        result_bytes_max=100_000,
    )
    event = finished_event(work, result, 0.0)
    assert msgspec.json.decode(msgspec.json.encode(event), type=Finished) == event
    assert ctx.workspace.read("done") == b"x"
    return result


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("how", VALUES)
async def test_an_unusable_value_is_a_success_with_a_finding(
    make_context: MakeContext, kind: str, contract: str, how: str
) -> None:
    """The effect took place; only for a read, which has no effect, is an unusable result a failure."""
    result = await perform_and_finish(f"{kind}_{contract}", how, make_context())
    findings = result.findings if contract != "read" else (result.error.message if result.error else "",)
    assert result.outcome == ("succeeded" if contract != "read" else "failed")
    assert len(findings) == 1
    assert findings[0].startswith(f"tool {kind}_{contract}: its result ")
    assert result.cost_micros == 7


@pytest.mark.parametrize(
    ("how", "stored"),
    [
        ("wrong type", {"paid_cents": "4250"}),
        ("nan", {"paid_cents": None}),
        ("surrogate", {"paid_cents": 4250, "name": "half ?"}),
        ("odd object", {"paid_cents": 4250, "order": "a Odd"}),
        ("cycle", '{"a":1,"me":"…"}'),
    ],
)
async def test_the_storable_part_of_a_value_is_stored(make_context: MakeContext, how: str, stored: object) -> None:
    """A person who investigates the call later finds the value of the tool."""
    assert (await perform_and_finish("thread_reversible", how, make_context())).value == stored


async def test_a_value_that_is_too_large_is_cut_to_its_beginning(make_context: MakeContext) -> None:
    """As text, within a bound."""
    deep, large = [
        (await perform_and_finish("async_reversible", how, make_context())).value for how in ("too deep", "too large")
    ]
    assert deep.startswith('{"deep":[[[[')
    assert large.startswith('{"aaaa')
    assert len(large) == 65_536


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("how", ERRORS)
async def test_an_exception_after_the_effect_makes_the_call_unknown(
    make_context: MakeContext, kind: str, contract: str, how: str
) -> None:
    """Unless repeating is safe, or the contract has ``raises_before_effect``."""
    result = await perform_and_finish(f"{kind}_{contract}", how, make_context())
    assert result.error is not None
    failed = {"read": "", "idempotent": "", "raises": "contract"}
    assert result.outcome == ("failed" if contract in failed else "unknown")
    assert result.error.known_by == failed.get(contract, "")
    assert result.error.retry_safe is (contract == "raises")
    assert result.error.message.startswith(f"tool {kind}_{contract} raised ")
    assert result.cost_micros == (0 if contract == "raises" else 7)


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("how", UNKNOWN_ENDS)
async def test_a_call_that_ends_without_a_result_is_unknown(
    make_context: MakeContext, kind: str, contract: str, how: str
) -> None:
    """Also with ``raises_before_effect``: a promise of a value is neither a value nor an error of the tool."""
    result = await perform_and_finish(f"{kind}_{contract}", how, make_context())
    safe = contract in {"read", "idempotent"}
    assert (result.outcome, result.cost_micros) == ("failed" if safe else "unknown", 7)
    assert result.error is not None
    assert result.error.retry_safe is safe


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("how", TOOL_FAILURES)
async def test_an_explicit_tool_failure_is_believed(
    make_context: MakeContext, kind: str, contract: str, how: str
) -> None:
    """Under every contract; fields that cannot be stored are left out."""
    result = await perform_and_finish(f"{kind}_{contract}", how, make_context())
    assert result.error is not None
    assert (result.outcome, result.error.known_by) == ("failed", "tool")
    assert result.error.type == ("transient" if how == "failed safely" else "permanent")
    assert result.error.retry_after_s is None
    assert result.cost_micros == (0 if how == "failed safely" else 7)


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("how", ["workspace", "denied"])
async def test_an_error_raised_by_the_context_is_not_an_explicit_tool_failure(
    make_context: MakeContext, contract: str, how: str
) -> None:
    """The workspace and the guard did nothing, but they do not know what the tool had done before."""
    result = await perform_and_finish(f"async_{contract}", how, make_context())
    failed = {"read": "", "idempotent": "", "raises": "contract"}
    assert result.error is not None
    assert (result.outcome, result.error.known_by) == (
        "failed" if contract in failed else "unknown",
        failed.get(contract, ""),
    )


@pytest.mark.parametrize("contract", ["reversible", "raises", "idempotent", "read"])
@pytest.mark.parametrize("how", [*IN_A_PROCESS, "killed"])
async def test_a_call_in_a_process_has_the_same_outcomes(make_context: MakeContext, contract: str, how: str) -> None:
    """A value comes back over its pipe; after a death the effect is unknown."""
    result = await perform_and_finish(f"process_{contract}", how, make_context())
    safe = contract in {"read", "idempotent"}
    if how in TOOL_FAILURES:
        assert result.outcome == "failed"
    elif how in VALUES:
        assert result.outcome == ("failed" if contract == "read" else "succeeded")
    elif how in ERRORS:
        assert result.outcome == ("failed" if safe or contract == "raises" else "unknown")
    else:
        assert result.outcome == ("failed" if safe else "unknown")


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("way", ["timeout", "stop"])
async def test_an_interrupted_call_is_unknown_even_with_raises_before_effect(
    make_context: MakeContext, contract: str, way: str
) -> None:
    """Being cancelled is not raising."""
    scope = anyio.CancelScope()
    ctx = make_context(deadline_in_s=0.02 if way == "timeout" else 30)
    if way == "stop":
        asyncio.get_running_loop().call_later(0.02, scope.cancel)
    result = await perform_and_finish(f"async_{contract}", "hang", ctx, scope)
    assert result.outcome == ("failed" if contract in {"read", "idempotent"} else "unknown")


async def test_a_contract_that_raises_first_is_not_believed_after_an_effect_was_seen(
    make_context: MakeContext, servers: Servers
) -> None:
    """The guard saw a POST leave, so the exception came after it."""
    server = await servers.start({"/": servers.response(b"ok")})

    @tool(tier="reversible", raises_before_effect=True)
    async def pay(ctx: Context) -> None:
        """Pay, then break."""
        await ctx.http.post(server.url())
        raise ValueError("too late")

    ctx = make_context((server.netloc,))
    async with ctx.http:
        assert (await perform(pay, ctx, b"{}")).outcome == "unknown"


async def test_a_refused_answer_does_not_hide_an_accepted_one(make_context: MakeContext, servers: Servers) -> None:
    """A tool returns the second of two responses: the first may have been the effect."""
    server = await servers.start({"/": servers.response(b"ok"), "/no": servers.response(b"", "403 Forbidden")})

    @tool(tier="reversible")
    async def pay(ctx: Context, twice: bool) -> Any:
        """Pay, then tell."""
        if twice:
            await ctx.http.post(server.url())
        return await ctx.http.post(server.url("/no"))

    for twice, outcome in ((b"true", "unknown"), (b"false", "failed")):
        ctx = make_context((server.netloc,))
        async with ctx.http:
            assert (await perform(pay, ctx, b'{"twice":%s}' % twice)).outcome == outcome


async def test_require_fresh_in_a_tool_marks_the_call_as_not_begun(make_context: MakeContext) -> None:
    """``require_fresh`` is called before the effect, so the call did nothing."""

    @tool(tier="reversible")
    async def pay(ctx: Context) -> None:
        """Wait until it is too late, then ask."""
        await anyio.sleep(0.03)
        ctx.require_fresh()

    ctx = make_context(start_in_s=0.02)
    async with ctx.http:
        result = await perform(pay, ctx, b"{}")
    assert result.error is not None
    assert (result.outcome, result.error.known_by, result.error.retry_safe) == ("failed", "tool", True)


def test_a_generator_is_refused_as_a_tool() -> None:
    """Its body would never run, and the call would seem to have been made."""

    def lazily(ctx: Context) -> object:
        """Text."""
        yield ctx

    with pytest.raises(ConfigError, match="tool lazily is a generator, whose body would not run"):
        tool(tier="read")(lazily)
