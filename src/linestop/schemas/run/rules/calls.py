"""The rules of the fold about single calls: judgement, gates, attempts, outcomes.

See ``fold`` for the rules of the run as a whole. A call moves through ``Stage``; in the end the model receives
``CallState.outcome_text``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, assert_never

from linestop.schemas.effect_key import effect_key
from linestop.schemas.events import (
    BlobRef,
    Checked,
    EffectStarted,
    Finished,
    Judged,
    JudgedCall,
    StartedCall,
    ToolGrant,
)
from linestop.schemas.run.approval_policy import needs_approver
from linestop.schemas.run.call_outcome import CallOutcome
from linestop.schemas.run.call_states import Attempt, CallState, Stage, waits_for_earlier_call
from linestop.schemas.run.rules import approvals, call_ends, widened_contracts
from linestop.schemas.run.rules.opening_limits import NO_EVENTS_LEFT, lease_too_long
from linestop.schemas.run.starting.retry_delays import call_retry_at, not_begun_call_retry_at
from linestop.schemas.tool_contracts import TIERS

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


TO_BE_MADE = frozenset({Stage.OPEN, Stage.READY, Stage.GATE, Stage.ASKED})
"""Stages in which a call must still, or again, be made, so that a late success becomes its result."""


def apply_judged(run: RunState, n: int, event: Judged) -> str:
    """``validator.judged``: every pending call of the last proposal, and no other."""
    proposal = run.proposal
    if proposal is None or proposal.n != event.proposal_n:
        return f"event {event.proposal_n} is not the proposal under judgement"
    pending = {call.call: call for call in proposal.calls if call.stage is Stage.PENDING}
    if {verdict.call for verdict in event.calls} != set(pending) or len(event.calls) != len(pending):
        return "it does not judge exactly the pending calls"
    for verdict in event.calls:
        if reason := _invalid_verdict(run, pending[verdict.call], verdict):
            return reason
    if reason := _exceeded_call_limit(run, event, pending):
        return reason
    for verdict in event.calls:
        _apply_verdict(run, n, pending[verdict.call], verdict)
    passed = any(verdict.verdict != "reject" for verdict in event.calls)
    run.rejections_in_a_row = 0 if passed else run.rejections_in_a_row + 1
    proposal.judged = True
    return ""


def _invalid_verdict(run: RunState, call: CallState, verdict: JudgedCall) -> str:
    """Return why a verdict is invalid: it lowers a tier, or names another effect key or record than the call has."""
    if verdict.verdict == "recorded":
        recorded = _recorded_call(run, verdict)
        same = recorded is not None and recorded.judged is not None and recorded.judged.effect_key == verdict.effect_key
        return "" if same else f"event {verdict.recorded_n} is not a result of the effect of call '{call.call}'"
    if verdict.verdict != "pass" or call.grant is None:
        return ""
    if TIERS.index(verdict.tier) < TIERS.index(call.grant.tier):
        return f"it lowers call '{call.call}' from {call.grant.tier} to {verdict.tier}"
    if isinstance(verdict.args, BlobRef):
        return "" if verdict.args.sha256 == verdict.args_sha256 else f"the digest of call '{call.call}' is false"
    args = verdict.args.encode()
    if hashlib.sha256(args).hexdigest() != verdict.args_sha256:
        return f"the digest of the arguments of call '{call.call}' is false"
    if effect_key(f"{run.tenant}/{run.run}", call.tool, args) != verdict.effect_key:
        return f"the effect key of call '{call.call}' is not the one of this run, tool and arguments"
    return ""


def _recorded_call(run: RunState, verdict: JudgedCall) -> CallState | None:
    if not verdict.recorded_n:
        return None
    return next((c for c in run.calls.values() if c.finished_n == verdict.recorded_n), None)


def _exceeded_call_limit(run: RunState, event: Judged, pending: dict[str, CallState]) -> str:
    """Return the limit on calls that these verdicts would exceed, if any. A call that a person edited counts again."""
    passing = [pending[verdict.call] for verdict in event.calls if verdict.verdict == "pass"]
    if run.judged_calls.passed.total() + len(passing) > run.limits.calls_max:
        return f"the run may make {run.limits.calls_max} calls"
    for call in passing:
        calls_max = (call.grant.calls_max if call.grant else 0) or run.limits.calls_per_tool_max
        passing_of_tool = sum(1 for other in passing if other.tool == call.tool)
        if run.judged_calls.passed[call.tool] + passing_of_tool > calls_max:
            return f"the tool '{call.tool}' may be called {calls_max} times in a run"
    return ""


def _apply_verdict(run: RunState, n: int, call: CallState, verdict: JudgedCall) -> None:
    run.judged_calls.record(call, verdict)
    recorded = _recorded_call(run, verdict)
    if verdict.verdict == "pass" and call.grant is not None:
        call.stage = Stage.GATE
        if run.opened is not None and not needs_approver(run.opened, call):
            approvals.pass_gate(call, n)
    elif verdict.verdict == "recorded" and recorded is not None:
        call_ends.end_from_record(run, n, call, recorded)
    else:
        call_ends.end_rejected(run, n, call, verdict)


def apply_checked(run: RunState, n: int, event: Checked) -> str:
    """``validator.checked``: a result passed the tool's own checks, or must not be used."""
    calls = run.proposal.calls if run.proposal else []
    call = next((c for c in calls if c.finished_n == event.finished_n), None)
    if call is None or call.stage is not Stage.CHECK or call.finished is None:
        return f"event {event.finished_n} is not a result waiting for its check"
    if event.verdict == "pass":
        call_ends.end_with_result(run, n, call, call.finished)
    else:
        call_ends.end_with_failed_checks(run, n, call, event)
    return ""


def apply_started(run: RunState, n: int, event: EffectStarted) -> str:
    """``executor.started``: all of its calls may start, and together they fit into the run's hold."""
    if run.paused:
        return "the run is paused"
    if run.events_left < 0:
        return NO_EVENTS_LEFT
    if len({line.call for line in event.calls}) != len(event.calls):
        return "it starts a call twice"
    for line in event.calls:
        if reason := _may_not_start(run, line, event):
            return reason
    costs = [line.cost_max_micros for line in event.calls]
    if any(cost < 0 for cost in costs) or not run.fits(sum(costs)):
        return "its cost does not fit into the run's hold"
    for line in event.calls:
        call = run.calls[line.call]
        if before := call.open_attempt:
            run.supersede(before, n)
        attempt = Attempt(
            n=n,
            attempt=line.attempt,
            purpose=event.purpose,
            worker=event.worker,
            started_at=event.at,
            start_by=line.start_by,
            done_by=line.done_by,
            cost_max_micros=line.cost_max_micros,
            call=line.call,
        )
        call.attempts.append(attempt)
        call.stage = Stage.OPEN
        call.probed = call.probed or event.purpose == "probe"
        run.open_attempt(attempt)
    return ""


def _may_not_start(run: RunState, line: StartedCall, event: EffectStarted) -> str:
    """Return why this call may not start now; empty if it may."""
    call = run.calls.get(line.call)
    if call is None or call.grant is None or call.judged is None:
        return f"there is no judged call '{line.call}'"
    if line.attempt != len(call.attempts) + 1:
        return f"the next attempt of call '{line.call}' is {len(call.attempts) + 1}"
    if (line.args_sha256, line.effect_key) != (call.args_sha256, call.judged.effect_key):
        return f"call '{line.call}' was judged with other arguments"
    if lease_too_long(event.at, line.done_by, call.grant.timeout_s):
        return f"call '{line.call}' would stay open for longer than its tool's timeout"
    if event.purpose == "probe":
        is_outcome_unknown = call.stage is Stage.UNKNOWN_OUTCOME and call.grant.probe and not call.probed
        return "" if is_outcome_unknown else f"the outcome of call '{line.call}' is not one that a probe could settle"
    return _contract_violation(run, call, call.grant, line) or _not_its_turn(call, call.grant, event)


def _contract_violation(run: RunState, call: CallState, grant: ToolGrant, line: StartedCall) -> str:
    """Return how the start of an effect violates its call's contract; empty if it does not."""
    if call.gate_n != line.gate_n:
        return f"call '{line.call}' passed its gate in event {call.gate_n}"
    if not widened_contracts.under_contract(run, grant, line):
        return f"call '{line.call}' would be made under another contract than was agreed to"
    if line.cost_max_micros < grant.price_micros:
        return f"it reserves less for call '{line.call}' than the tool may cost"
    if waits_for_earlier_call(run.proposal, call):
        return f"call '{line.call}' is ordered, and an earlier call has no result"
    if other := _call_of_same_effect(run, call):
        return f"the effect of call '{line.call}' was or may have been made by call '{other}'"
    return ""


def _not_its_turn(call: CallState, grant: ToolGrant, event: EffectStarted) -> str:
    """Return why an effect may not start at this moment; empty if it may."""
    if call.stage is Stage.READY:
        early = call.ready_at is not None and event.at < call.ready_at
        return f"call '{call.call}' may not start before {call.ready_at}" if early else ""
    before = call.open_attempt
    over = before is not None and before.expired(event.at, event.worker, event.dead_workers)
    if before and before.purpose == "effect" and grant.safe_to_repeat and over:
        often = call.tries > grant.retries_max
        return f"call '{call.call}' has had all the tries that its tool allows" if often else ""
    return f"call '{call.call}' is {call.stage}, so it may not start"


def _call_of_same_effect(run: RunState, call: CallState) -> str:
    """Return another call whose effect this one would repeat, unless its contract allows that; else nothing."""
    if call.judged is None or call.grant is None or call.grant.repeatable or call.grant.safe_to_repeat:
        return ""
    for other in run.judged_calls.of_effect(call.judged.effect_key):
        if other is call:
            continue
        outcomes = [attempt.outcome for attempt in other.effects]
        if outcomes and ("succeeded" in outcomes or outcomes[-1] not in {"failed", "never_started"}):
            return other.call
    return ""


def apply_finished(run: RunState, n: int, event: Finished) -> str:
    """``executor.finished``: the outcome of one attempt, or the end of a wait (attempt 0)."""
    call = run.calls.get(event.call)
    if call is None:
        return f"there is no call '{event.call}'"
    if event.attempt == 0:
        return _end_wait(run, n, call, event)
    if not 0 < event.attempt <= len(call.attempts):
        return f"attempt {event.attempt} of call '{event.call}' was not started"
    attempt = call.attempts[event.attempt - 1]
    if reason := _invalid_failure(call, event):
        return reason
    was_open = attempt.open and call.stage is Stage.OPEN
    becomes_known = attempt.outcome == "unknown" and event.outcome != "unknown"
    if attempt.closed_n and not becomes_known:
        return f"attempt {event.attempt} of call '{event.call}' has its result"
    unknown = event.outcome == "unknown"
    run.count_start(attempt, event)
    cost = attempt.cost_max_micros if unknown else event.cost_micros
    attempt.error = event.error
    attempt.begun = event.begun or event.outcome != "never_started" or event.cost_micros > 0
    run.close_attempt(attempt, n, outcome=event.outcome, cost_micros=cost, reported=not unknown)
    is_outcome_unknown = call.stage is Stage.UNKNOWN_OUTCOME or (call.stage is Stage.ASKED and call.asked_about_outcome)
    # An earlier attempt without effect proves nothing about a later one; a successful one settles the call.
    attempt.ended = event.ended
    last_effect = all(later.purpose == "probe" for later in call.attempts[event.attempt :])
    if was_open or (is_outcome_unknown and becomes_known and (last_effect or event.outcome == "succeeded")):
        _after_attempt(run, n, call, attempt, event)
    elif event.outcome == "succeeded" and call.stage in TO_BE_MADE and not run.done:
        _take_result(run, n, call, event)
    return ""


def _invalid_failure(call: CallState, event: Finished) -> str:
    """Return why a failure is invalid: whether the effect happened is unknown, and the grant does not exclude it."""
    if event.outcome != "failed" or event.error is None or event.error.known_by != "contract":
        return ""
    if call.grant is not None and call.grant.raises_before_effect:
        return ""
    return f"the contract of call '{call.call}' does not say that its tool raises before it acts"


def _end_wait(run: RunState, n: int, call: CallState, event: Finished) -> str:
    if call.stage is not Stage.WAITING or (call.ready_at is not None and event.at < call.ready_at):
        return f"call '{event.call}' does not wait, or its time has not come"
    call.finished, call.finished_n = event, n
    call_ends.end_with_result(run, n, call, event)
    return ""


def _after_attempt(run: RunState, n: int, call: CallState, attempt: Attempt, event: Finished) -> None:
    """Move a call on after an attempt: to its end, to another attempt, or to an unknown outcome."""
    retries = call.grant.retries_max if call.grant else 0
    has_try_left = call.tries <= retries
    safe = call.grant is not None and call.grant.safe_to_repeat
    match event.outcome:
        case "succeeded":
            _take_result(run, n, call, event)
        case "never_started" if has_try_left:
            call.stage, call.ready_at = widened_contracts.ready(call), not_begun_call_retry_at(call, event.at)
        case "never_started":
            outcome = CallOutcome(status="failed", error_type="not_started", retry_safe=True)
            call_ends.end_call(run, call, n, text="The call could not be started.", outcome=outcome)
        case "failed" if attempt.purpose == "probe":
            call.stage = Stage.UNKNOWN_OUTCOME
        case "failed":
            if has_try_left and _may_retry(event, safe=safe):
                call.stage = Stage.READY
                call.ready_at = call_retry_at(call, event)
            else:
                call_ends.end_failed(run, n, call, event)
        case "unknown" if safe and has_try_left and attempt.purpose == "effect":
            call.stage, call.ready_at = Stage.READY, None
        case "unknown" if safe and attempt.purpose == "effect":
            outcome = CallOutcome(status="unknown", error_type="timeout", retry_safe=True)
            text = "The call did not answer in time, and was tried often enough."
            call_ends.end_call(run, call, n, text=text, outcome=outcome)
        case "unknown":
            call.stage = Stage.UNKNOWN_OUTCOME
        case _:
            assert_never(event.outcome)


def _may_retry(event: Finished, *, safe: bool) -> bool:
    if event.error is None or event.error.type not in {"transient", "rate_limit"}:
        return False
    return event.error.retry_safe or safe


def _take_result(run: RunState, n: int, call: CallState, event: Finished) -> None:
    call.finished, call.finished_n, call.asked_about_outcome = event, n, False
    if call.grant is not None and call.grant.checks:
        call.stage = Stage.CHECK
    else:
        call_ends.end_with_result(run, n, call, event)
