"""Perform one call of a tool, once, and report its outcome.

Once the function of the tool has begun, only the tool can report that nothing happened. So the outcomes are:

- ``never_started``: the worker was too busy to begin, so the function was not called.
- ``succeeded``: the function returned a value. A defect of that value is a finding, for the effect took place; only
  for a ``read``, which has no effect, is an unusable result a failure.
- ``failed``: the function was not begun, or the tool raised ``ToolFailed``, or its contract is safe to repeat, or
  it has ``raises_before_effect`` and the tool raised, having sent nothing but reads through ``ctx.http``.
- ``unknown``: everything else. A probe or a person resolves it.

A call costs the price in its contract unless it is known that it did nothing (``retry_safe``). No tool reports its
usage, and unreported usage is charged in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import msgspec

from linestop import clock
from linestop.errors import Defect
from linestop.off_loop import OFF_LOOP_BYTES, off_loop
from linestop.sandbox.tools.call_function import (
    FunctionReply,
    in_own_task,
    invoke_async,
    invoke_sync,
    message_of,
    not_begun,
    replace_surrogates,
)
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool
from linestop.sandbox.tools.failures import NotBegun, ToolFailed
from linestop.sandbox.tools.process_tool import run_in_process
from linestop.sandbox.tools.threads import run_in_thread
from linestop.schemas.json_values import JsonValue
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.text.value_size import shown
from linestop.schemas.tool_contracts import Contract, ToolError, ToolResult

FINDINGS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformLimits:
    """The limits on everything that leaves a tool: its length, and the removal of secrets."""

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

    To stop the call and still learn its outcome, cancel ``scope``: the effect is cancelled or killed, and the result
    reports what is known. If instead the caller's own task is cancelled, only a thread can be left running, and the
    cancellation passes through.
    """
    limits = limits or PerformLimits()
    contract = tool.contract
    if contract.kind == "wait":
        raise Defect(f"'{contract.name}' is a wait: the run loop performs it, not the sandbox")
    scope = scope or anyio.CancelScope()
    if scope.cancel_called:
        not_begun_error = NotBegun("it was stopped before it began")
        return result_of(contract, not_begun(not_begun_error), ctx, limits)
    seconds = min(contract.timeout_s, (ctx.deadline - clock.now()).total_seconds())
    scope.deadline = min(scope.deadline, anyio.current_time() + max(seconds, 0.0))
    reply: FunctionReply | None = None
    with scope:
        reply = await _reply(tool, ctx, args)
    if reply is None:
        timed_out = anyio.current_time() >= scope.deadline
        why = f"did not end within {seconds:.1f} s" if timed_out else "was stopped"
        reply = _interrupted(contract, why)
    complete_reply = reply
    result = await off_loop(len(bytes(complete_reply.value)), lambda: result_of(contract, complete_reply, ctx, limits))
    return msgspec.structs.replace(result, ended=result.outcome == "unknown" and not complete_reply.cut_off)


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
            probe_function, bound_args = tool.probe, tool.bind(args)
            probe_result: object = await in_own_task(lambda: probe_function(ctx, **bound_args))
            took_effect = probe_result if isinstance(probe_result, bool) else None
            if took_effect is None and probe_result is not None:
                message = f"the probe returned {type(probe_result).__name__}; it must return True, False or None"
                error = ToolError(type="permanent", message=message)
        except asyncio.CancelledError as raised:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = ToolError(
                type="transient", message=f"the probe was cancelled: {message_of(raised)}", retry_safe=True
            )
        except BaseException as raised:  # noqa: BLE001 - a probe may raise anything; then it cannot tell
            error = ToolError(type="transient", message=f"the probe failed: {message_of(raised)}", retry_safe=True)
    if scope.cancelled_caught:
        error = ToolError(type="transient", message="the probe did not answer in time", retry_safe=True)
    egress = ctx.http.requests
    if took_effect is None:
        return ToolResult(outcome="unknown", error=_without_secrets(error, limits) if error else None, egress=egress)
    return ToolResult(outcome="succeeded" if took_effect else "never_started", egress=egress)


def run_check(tool: AnyTool, value: JsonValue) -> tuple[str, ...]:
    """Run the tool's own check on a result; an error of the check is a finding."""
    if tool.check is None:
        return ()
    try:
        findings: Sequence[str] = tool.check(value)
        return tuple(replace_surrogates(shown(finding, 500, show=str)) for finding in findings[:FINDINGS_MAX])
    except BaseException as error:  # noqa: BLE001 - a check may raise anything, and none of it may end this process
        return (f"the check of tool {tool.name} failed: {type(error).__name__}: {message_of(error)}"[:500],)


async def _reply(tool: AnyTool, ctx: Context, args: bytes) -> FunctionReply:
    try:
        kwargs = tool.bind(args)
        ctx.require_fresh()
        if tool.contract.kind == "process":
            return await run_in_process(tool, ctx, args)
        if tool.contract.kind == "async":
            return await invoke_async(tool, ctx, kwargs)
        return await run_in_thread(lambda: invoke_sync(tool, ctx, kwargs))
    except ToolFailed as error:
        # Raised before the function was called; its own errors are in the reply.
        return not_begun(error)


def _interrupted(contract: Contract, why: str) -> FunctionReply:
    left = " and its thread cannot be cancelled" if contract.kind == "thread" else ""
    message = f"tool {contract.name} {why}{left}"
    return FunctionReply(error=ToolError(type="transient", message=message), unknown=True, cut_off=True)


def result_of(contract: Contract, reply: FunctionReply, ctx: Context, limits: PerformLimits) -> ToolResult:
    """Decide the outcome of a call from the reply of its function; the only place that decides ``unknown``."""
    egress, price = ctx.http.requests + reply.egress, contract.price_micros
    findings = tuple(_shortened(finding, limits) for finding in reply.findings)
    if reply.error is None and findings and contract.tier == "read":
        error = ToolError(type="permanent", message=findings[0])
        return ToolResult(outcome="failed", error=error, egress=egress, cost_micros=price)
    if reply.error is None:
        value, size = _value_without_secrets(reply.value, limits.redactor)
        return ToolResult(
            outcome="succeeded",
            value=value,
            bytes=size if size > OFF_LOOP_BYTES else 0,
            findings=findings,
            egress=egress,
            cost_micros=price,
        )
    if not reply.begun:
        return ToolResult(outcome="never_started", error=_without_secrets(reply.error, limits), begun=False)
    error, outcome = _error_and_outcome(contract, reply, _without_secrets(reply.error, limits), ctx)
    cost = 0 if error.known_by and error.retry_safe else price
    return ToolResult(outcome=outcome, error=error, egress=egress, cost_micros=cost)


def _error_and_outcome(
    contract: Contract, reply: FunctionReply, error: ToolError, ctx: Context
) -> tuple[ToolError, Literal["failed", "unknown"]]:
    """The error and the outcome of a call whose function returned no value."""
    if error.known_by:
        return error, "failed"
    raised_without_effect = not reply.unknown and not (ctx.http.effect_sent or reply.effect_sent)
    if contract.safe_to_repeat:
        return error if raised_without_effect else msgspec.structs.replace(error, retry_safe=True), "failed"
    if raised_without_effect and contract.raises_before_effect:
        return msgspec.structs.replace(error, retry_safe=True, known_by="contract"), "failed"
    return msgspec.structs.replace(error, retry_safe=False), "unknown"


def _value_without_secrets(raw: msgspec.Raw, redactor: Redactor) -> tuple[Any, int]:
    """The value without secrets, and its approximate length. Most values have no secret and are not walked."""
    value = msgspec.json.decode(raw)
    # Encoded again, so that no secret is hidden by an escape that JSON does not need.
    text = msgspec.json.encode(value).decode()
    return value if redactor.is_clean(text) else redactor.value(value), len(text)


def _without_secrets(error: ToolError, limits: PerformLimits) -> ToolError:
    return msgspec.structs.replace(error, message=_shortened(error.message, limits))


def _shortened(sentence: str, limits: PerformLimits) -> str:
    sentence = limits.redactor.text(sentence)
    return sentence if len(sentence) <= limits.message_chars_max else sentence[: limits.message_chars_max - 1] + "…"
