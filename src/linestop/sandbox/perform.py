"""Perform one call of a tool, once, and say what became of it.

The outcomes, in order of what is known:

- ``succeeded``: a result that fits its declared type came back.
- ``failed``: the tool said so, or it raised before it sent anything but reads through ``ctx.http``.
- ``unknown``: it was interrupted, or broke after sending something, and its contract is not safe to repeat.
  With one that is, the same is ``failed`` and ``retry_safe``: it is simply done again.

A call costs its contract's price unless it is known that it did nothing: it never began, or the tool itself
says so (``retry_safe``). No tool reports what it used, and what is not reported is charged in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec

from linestop.errors import Defect
from linestop.sandbox.context import Context
from linestop.sandbox.failures import ToolFailed
from linestop.sandbox.invoke import Reply, invoke_async, invoke_plain
from linestop.sandbox.process import run_in_process
from linestop.sandbox.threads import run_in_thread
from linestop.sandbox.tool import AnyTool
from linestop.schemas.redact import Redactor
from linestop.schemas.tools import Contract, ToolError, ToolResult

FINDINGS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformLimits:
    """What everything that leaves a tool must pass: its length, and the removal of secrets."""

    message_chars_max: int = 500
    redactor: Redactor = field(default_factory=Redactor)


async def perform(
    tool: AnyTool,
    ctx: Context,
    args: bytes,
    *,
    limits: PerformLimits | None = None,
    scope: anyio.CancelScope | None = None,
) -> ToolResult:
    """Call ``tool`` with canonical JSON ``args``, within its timeout and ``ctx.deadline``.

    To stop it and still learn its fate, cancel ``scope``: the effect is cancelled or killed and the result
    says what can be said. If instead the caller's own task is cancelled, nothing is left running but a
    thread, and the cancellation goes on.
    """
    limits = limits or PerformLimits()
    contract = tool.contract
    if contract.kind == "wait":
        raise Defect(f"{contract.name} is an act of waiting; the log carries it out, not the sandbox")
    scope = scope or anyio.CancelScope()
    if scope.cancel_called:
        return _told(contract, _never_begun("it was stopped before it began"), ctx, limits)
    seconds = min(contract.timeout_s, (ctx.deadline - datetime.now(UTC)).total_seconds())
    scope.deadline = min(scope.deadline, anyio.current_time() + max(seconds, 0.0))
    reply: Reply | None = None
    with scope:
        reply = await _reply(tool, ctx, args)
    if reply is None:
        late = anyio.current_time() >= scope.deadline
        why = f"did not end within {seconds:.1f} s" if late else "was stopped"
        reply = _interrupted(contract, why)
    return _told(contract, reply, ctx, limits)


async def probe(tool: AnyTool, ctx: Context, args: bytes, *, limits: PerformLimits | None = None) -> ToolResult:
    """Ask the tool's probe whether ``ctx.key`` took effect.

    The outcome is ``succeeded``, ``never_started`` or ``unknown``.
    """
    limits = limits or PerformLimits()
    if tool.probe is None:
        raise Defect(f"{tool.name} has no probe; a person must resolve the call")
    took_effect: bool | None = None
    error: ToolError | None = None
    with anyio.move_on_after(tool.contract.timeout_s) as scope:
        try:
            took_effect = await tool.probe(ctx, **tool.bind(args))
        except Exception as raised:  # noqa: BLE001 - a probe may raise anything; then it cannot tell
            error = ToolError(type="transient", message=f"the probe failed: {raised}", retry_safe=True)
    if scope.cancelled_caught:
        error = ToolError(type="transient", message="the probe did not answer in time", retry_safe=True)
    egress = ctx.http.requests
    if took_effect is None:
        return ToolResult(outcome="unknown", error=_clean(error, limits) if error else None, egress=egress)
    return ToolResult(outcome="succeeded" if took_effect else "never_started", egress=egress)


def run_check(tool: AnyTool, value: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """Have the tool's own check look at a result; a check that breaks is a finding itself."""
    if tool.check is None:
        return ()
    try:
        findings: Sequence[str] = tool.check(value)
        return tuple(str(finding)[:500] for finding in findings[:FINDINGS_MAX])
    except Exception as error:  # noqa: BLE001 - a check may raise anything
        return (f"the check of tool {tool.name} failed: {type(error).__name__}: {error}"[:500],)


async def _reply(tool: AnyTool, ctx: Context, args: bytes) -> Reply:
    try:
        kwargs = tool.bind(args)
        ctx.require_fresh()
        if tool.contract.kind == "process":
            return await run_in_process(tool, ctx, args)
        if tool.contract.kind == "async":
            return await invoke_async(tool, ctx, kwargs)
        return await run_in_thread(lambda: invoke_plain(tool, ctx, kwargs))
    except ToolFailed as error:
        # Raised before the function was called; its own errors are in the reply.
        told = ToolError(type=error.type, message=str(error), retry_safe=error.retry_safe)
        return Reply(error=told, meant=True)


def _never_begun(why: str) -> Reply:
    return Reply(error=ToolError(type="transient", message=why, retry_safe=True), meant=True)


def _interrupted(contract: Contract, why: str) -> Reply:
    left = " and its thread cannot be cancelled" if contract.kind == "thread" else ""
    message = f"tool {contract.name} {why}{left}"
    return Reply(error=ToolError(type="transient", message=message), unknown=True)


def _told(contract: Contract, reply: Reply, ctx: Context, limits: PerformLimits) -> ToolResult:
    """Decide the outcome; the one place where ``unknown`` is."""
    egress, price = ctx.http.requests + reply.egress, contract.price_micros
    if reply.error is None:
        value = limits.redactor.value(msgspec.json.decode(reply.value))
        return ToolResult(outcome="succeeded", value=value, egress=egress, cost_micros=price)
    error = _clean(reply.error, limits)
    sent = (ctx.http.effect_sent or reply.effect_sent) and not reply.meant
    if not reply.unknown and not sent:
        nothing_done = reply.meant and error.retry_safe
        return ToolResult(outcome="failed", error=error, egress=egress, cost_micros=0 if nothing_done else price)
    safe = contract.safe_to_repeat
    error = msgspec.structs.replace(error, retry_safe=safe)
    return ToolResult(outcome="failed" if safe else "unknown", error=error, egress=egress, cost_micros=price)


def _clean(error: ToolError, limits: PerformLimits) -> ToolError:
    message = limits.redactor.text(error.message)
    if len(message) > limits.message_chars_max:
        message = message[: limits.message_chars_max - 1] + "…"
    return msgspec.structs.replace(error, message=message)
