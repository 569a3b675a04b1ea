"""The rules about judgements: the arguments, their effect key and the origins of their values (P3, P5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.effect_key import effect_key
from linestop.schemas.events import Judged, JudgedCall
from linestop.schemas.run.fold import Run
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.tool_contracts import TIERS, canonical
from linestop.schemas.verify.argument_origins import check_origins
from linestop.schemas.verify.call_records import Call
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.opening import agent_of
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]


def check_judged(ledger: Ledger, run: Run, event: Judged) -> Violations:
    """Check a judgement: other arguments than proposed, a false key, a tier lowered."""
    for verdict in event.calls:
        call = ledger.calls.get(verdict.call)
        if call is None:
            yield "approval", f"It judges call '{verdict.call}', which was never proposed."
        elif verdict.verdict == "recorded":
            yield from _check_recorded(ledger, verdict)
        elif verdict.verdict == "pass":
            yield from _check_passed(ledger, call, verdict)
            yield from check_origins(ledger, run, call, verdict, rule=event.rule)
    yield from _check_call_limits(ledger, event)


def _check_call_limits(ledger: Ledger, event: Judged) -> Violations:
    """Check how many calls pass in the run, and of each tool."""
    limits, proposal = ledger.limits, ledger.proposals.get(event.proposal_n)
    rejected = all(verdict.verdict == "reject" for verdict in event.calls)
    in_a_row = ledger.rejections_in_a_row + 1 if rejected else 0
    if event.rejections_in_a_row != in_a_row or ledger.rejections_in_a_row >= limits.rejections_max:
        after = ledger.rejections_in_a_row
        yield "limit", f"It comes after {after} rejections in a row; at most {limits.rejections_max} are allowed."
    judged_now = {verdict.call for verdict in event.calls}
    before = [c for c in ledger.calls.values() if c.judged and c.judged.verdict == "pass" and c.name not in judged_now]
    passing = [ledger.calls[v.call] for v in event.calls if v.verdict == "pass" and v.call in ledger.calls]
    if proposal is not None and passing and len(proposal.calls) > limits.proposal_calls_max:
        yield (
            "limit",
            f"It lets one of {len(proposal.calls)} calls pass; one answer may have {limits.proposal_calls_max}.",
        )
    if len(before) + len(passing) > limits.calls_max:
        yield "approval", f"It lets call {len(before) + len(passing)} of at most {limits.calls_max} pass."
    for call in passing:
        calls_max = (call.grant.calls_max if call.grant else 0) or limits.calls_per_tool_max
        passed_n = sum(1 for other in (*before, *passing) if other.tool == call.tool)
        if passed_n > calls_max:
            yield "approval", f"It lets call {passed_n} of '{call.tool}' pass, of at most {calls_max}."


def _check_recorded(ledger: Ledger, verdict: JudgedCall) -> Violations:
    result = ledger.finished.get(verdict.recorded_n)
    origin = ledger.calls.get(result.call) if result else None
    same = origin is not None and origin.judged is not None and origin.judged.effect_key == verdict.effect_key
    if result is None or result.outcome != "succeeded" or not same:
        yield "once", f"It answers call '{verdict.call}' from event {verdict.recorded_n}, which is not a result of it."


def _check_passed(ledger: Ledger, call: Call, verdict: JudgedCall) -> Violations:
    if call.grant is None:
        yield "approval", f"It lets call '{call.name}' pass, but the run has no tool '{call.tool}'."
        return
    if TIERS.index(verdict.tier) < TIERS.index(call.grant.tier):
        yield "approval", f"It lowers call '{call.name}' from {call.grant.tier} to {verdict.tier}."
    raw, args = ledger.bytes_of(call.raw_args), ledger.bytes_of(verdict.args)
    if raw is not None and hashlib.sha256(raw).hexdigest() != verdict.raw_args_sha256:
        yield "approval", f"It judges other arguments of call '{call.name}' than those in the log."
    if args is None:
        return
    agent = agent_of(ledger, ledger.opened) if ledger.opened else None
    contract = agent.tool(call.tool) if agent else None
    if contract is not None and check_arguments(args, contract).errors:
        yield "approval", f"The arguments it lets pass for call '{call.name}' do not fit the tool's schema."
    if raw is not None and _canonical(raw) != args:
        yield "approval", f"The arguments it lets pass for call '{call.name}' are not those that were written."
    if hashlib.sha256(args).hexdigest() != verdict.args_sha256:
        yield "approval", f"The digest of the arguments of call '{call.name}' is false."
    if effect_key(f"{ledger.tenant}/{ledger.run}", call.tool, args) != verdict.effect_key:
        yield "once", f"The effect key of call '{call.name}' is not the one of this run, tool and arguments."


def _canonical(raw: bytes) -> bytes | None:
    try:
        return canonical(decode_strict(raw))
    except ValueError:
        return None
