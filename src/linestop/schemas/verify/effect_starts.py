"""The rules about starts and results: P1 (stop), P3 (once), the money of P4, and what a start rests on (P5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from linestop.schemas.defaults import CLOCK_SLACK_S, LIMITS_MAX, START_WITHIN_S, clamp
from linestop.schemas.events import (
    Compacted,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    StartedCall,
)
from linestop.schemas.tool_contracts import may_have_taken_effect
from linestop.schemas.verify.approvals import passing_event
from linestop.schemas.verify.call_records import Call, Start
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]


def check_start(ledger: Ledger, event: ModelStarted | EffectStarted) -> Violations:
    """Check a start, whichever role appended it and whether or not readers count it."""
    if ledger.opened is None:
        yield "stop", "It starts something in a run that was never opened."
    if ledger.ended_n:
        yield "stop", f"It starts something although the run was {ledger.ended_by} in event {ledger.ended_n}."
    if ledger.paused_n:
        yield "stop", f"It starts something although the run was paused in event {ledger.paused_n}."
    yield from _check_dead_workers(ledger, event.dead_workers, by=event.worker)
    lines = [event] if isinstance(event, ModelStarted) else list(event.calls)
    cost = sum(line.cost_max_micros for line in lines)
    if any(line.cost_max_micros < 0 for line in lines) or cost > ledger.available_micros:
        yield "budget", f"It may cost {cost} micro-dollars, but the run has {max(ledger.available_micros, 0)} left."
    if isinstance(event, ModelStarted):
        yield from _check_model(ledger, event)
    else:
        for line in event.calls:
            yield from _check_call(ledger, line, event)


def _check_dead_workers(ledger: Ledger, dead: tuple[str, ...], *, by: str) -> Violations:
    """Check the workers that are called dead: each left a start open, and none is the worker that reports it."""
    for worker in dead:
        if worker == by:
            yield "once", f"It calls its own worker {worker} dead."
        elif all(start.worker != worker for start in ledger.open_starts):
            yield "once", f"It calls {worker} dead, which has left no start open."


def _check_dead_owner(start: Start, dead: tuple[str, ...]) -> Violations:
    """Check that an event which ends a start because its worker died names the worker that made it."""
    for worker in dead:
        if worker != start.worker:
            yield "once", f"It calls {worker} dead, which did not make {start.label}."


def _check_model(ledger: Ledger, event: ModelStarted) -> Violations:
    yield from _check_turn(ledger, event)
    queues = ledger.opened is not None and ledger.opened.on_model_down == "queue"
    if ledger.tries(event) > ledger.limits.model_retries_max and not queues:
        yield "limit", f"It requests '{event.model}' once more in turn {event.turn} than its retries allow."
    if event.purpose == "compact" and ledger.compactions >= ledger.limits.compactions_max:
        yield "limit", f"It begins compaction {ledger.compactions + 1} of at most {ledger.limits.compactions_max}."
    if _lease_too_long(event.done_by, event.at, clamp(ledger.limits).model_deadline_s):
        yield "once", "It would be open for longer than a model request may take."
    if (
        ledger.opened is not None
        and not ledger.opened.model.is_requested_by(event)
        and not _may_fall_back(ledger, event)
    ):
        yield "limit", f"It requests the fallback '{event.model}' although no model was known to be down."
    choice = ledger.pinned_model(event)
    if choice is None:
        yield "budget", f"It starts the model '{event.model}', which the run was not opened with."
    elif event.cost_max_micros < choice.price.cost_max_micros(event.input_tokens_max, event.output_tokens_max):
        yield "budget", "It reserves less than a request of this size may cost."
    for before in ledger.open_starts:
        if not before.call and not before.may_be_taken_over(event.at, event.worker, event.dead_workers):
            yield "once", f"It starts a model request while {before.label} is open."


def _may_fall_back(ledger: Ledger, event: ModelStarted) -> bool:
    """Whether another model was down in this turn, or so shortly before that a fallback is tried first.

    A closing turn may request any model that has answered.
    """
    if event.purpose == "close":
        return any(s.outcome == "succeeded" and s.purpose == "turn" and _same_model(s, event) for s in ledger.starts)
    slack = timedelta(seconds=CLOCK_SLACK_S)
    return any(
        start.down_until is not None and (start.turn == event.turn or event.at < start.down_until + slack)
        for start in ledger.starts
        if not _same_model(start, event)
    )


def _same_model(start: Start, event: ModelStarted) -> bool:
    return (start.model, start.base_url) == (event.model, event.base_url)


def _check_turn(ledger: Ledger, event: ModelStarted) -> Violations:
    """Check the turn that begins: not one too many, not after the closing turn, and with tokens left for it."""
    if ledger.had_closing_turn:
        yield "limit", "It starts a model request after the run's closing turn."
    if event.turn > ledger.limits.turns_max + (event.purpose == "close"):
        yield "budget", f"It begins turn {event.turn} of at most {ledger.limits.turns_max}."
    reserved = sum(start.tokens_max for start in ledger.open_starts)
    if ledger.tokens + reserved + event.input_tokens_max + event.output_tokens_max > ledger.limits.tokens_max:
        yield "budget", f"It may use more tokens than the run has left of its {ledger.limits.tokens_max}."


def _lease_too_long(done_by: datetime, at: datetime, timeout_s: float) -> bool:
    return (done_by - at).total_seconds() > START_WITHIN_S + timeout_s + CLOCK_SLACK_S


def _check_call(ledger: Ledger, line: StartedCall, event: EffectStarted) -> Violations:
    call = ledger.calls.get(line.call)
    if call is None or call.judged is None or call.judged.verdict != "pass" or call.grant is None:
        yield "approval", f"It starts call '{line.call}', which no judgement let pass."
        return
    if line.effect_key != call.judged.effect_key:
        yield "once", f"It starts call '{line.call}' under another effect key than it was judged with."
    if line.args_sha256 != call.judged.args_sha256:
        yield "approval", f"It starts call '{line.call}' with other arguments than those that passed."
    if _lease_too_long(line.done_by, event.at, min(call.grant.timeout_s, LIMITS_MAX["tool_timeout_s"])):
        yield "once", f"It would keep call '{line.call}' open for longer than its tool's timeout."
    if event.purpose == "probe":
        if not call.grant.probe:
            yield "approval", f"It probes call '{line.call}', whose contract has no probe."
        return
    yield from _check_agreed(ledger, call, line)
    if line.cost_max_micros < call.grant.price_micros:
        yield "budget", f"It reserves less for call '{line.call}' than the tool may cost."
    yield from _check_once(ledger, call, event)


def _check_agreed(ledger: Ledger, call: Call, line: StartedCall) -> Violations:
    """Check the basis of a start: its gate, its contract, and a person's grant if it is destructive."""
    assert call.grant is not None
    assert call.judged is not None
    passed_n = passing_event(ledger, call)
    if not passed_n or line.gate_n != passed_n:
        gate = f"event {passed_n}" if passed_n else "no event"
        yield "approval", f"It starts call '{line.call}' on event {line.gate_n}, but {gate} let it pass."
    elif not _under_contract(ledger, call, line):
        yield "approval", f"It starts call '{line.call}' under a contract that was never agreed to."
    elif "destructive" in {call.judged.tier, call.grant.tier} and not (
        call.passed_by_person or (ledger.opened is not None and ledger.opened.task.dry_run)
    ):
        yield "approval", f"It starts call '{line.call}', which is destructive, without a person's grant."


def _under_contract(ledger: Ledger, call: Call, line: StartedCall) -> bool:
    """Whether a start names the contract that was agreed to; a start without one means the run's own contract."""
    tools = ledger.opened.tools if ledger.opened else ()
    own = next((grant.contract_digest for grant in tools if grant.name == call.tool), "")
    agreed = call.agreed or call.grant
    return agreed is not None and (line.contract_digest or own) == agreed.contract_digest


def _check_once(ledger: Ledger, call: Call, event: EffectStarted) -> Violations:
    """P3: no second attempt while one is open, none of an unsafe effect that may have happened, and never too many.

    A person's decision for another attempt counts beyond the contract's retries.
    """
    assert call.grant is not None
    assert call.judged is not None
    safe = call.grant.safe_to_repeat
    if call.tries > call.grant.retries_max + call.retries_decided:
        yield "limit", f"It starts call '{call.name}' more often than its tool's {call.grant.retries_max} retries."
    for before in call.starts:
        if before.open and not (safe and before.may_be_taken_over(event.at, event.worker, event.dead_workers)):
            yield "once", f"It starts call '{call.name}' again while {before.label} is open."
        elif not safe and not before.probe and not before.open and not _had_no_effect(call, before):
            yield "once", f"It repeats {before.label}, which is not safe to repeat and may have taken effect."
    if safe or call.grant.repeatable:
        return
    for other in ledger.calls.values():
        if other is call or other.judged is None or other.judged.effect_key != call.judged.effect_key:
            continue
        for before in other.effects:
            if _may_have_acted(other, before):
                yield "once", f"It repeats the effect of {before.label} under another call."


def _may_have_acted(call: Call, before: Start) -> bool:
    """Whether an attempt may have taken effect: no event that could know reports that it did not."""
    if before.outcome != "failed":
        return not _had_no_effect(call, before)
    return may_have_taken_effect(before.error) and not _had_no_effect(call, before)


def _had_no_effect(call: Call, before: Start) -> bool:
    """Whether it is known that this attempt took no effect, or a person decided to continue in spite of it."""
    if before.outcome == "never_started" or (before.outcome == "failed" and before.retry_safe):
        return True
    if before.outcome == "succeeded":
        return False
    probed = any(start.probe and start.n > before.n and start.outcome == "never_started" for start in call.starts)
    return probed or call.retry_decided_n > before.n


# --- results -----------------------------------------------------------------------------------------------


def check_result(ledger: Ledger, event: Proposed | ModelFailedEvent | Compacted | Finished) -> Violations:
    """Check a result: its attempt was started, and its cost is allowed."""
    if isinstance(event, Finished):
        yield from _check_finished(ledger, event)
        return
    start = ledger.start_of_turn(event.turn, event.attempt)
    if start is None:
        yield "result", f"It is the result of attempt {event.attempt} of turn {event.turn}, which was never started."
        return
    choice = ledger.pinned_model(start)
    used = choice.price.cost_micros(event.usage) if choice and event.usage else 0
    whole = start.cost_max_micros
    match event:
        case Proposed():
            cost, allowed = event.cost_micros, {used} if event.usage_source == "reported" else {whole}
        case ModelFailedEvent():
            cost, allowed = event.charged_micros, {whole} if event.possibly_billed else {used}
            yield from _check_begun(event)
            yield from _check_dead_owner(start, event.dead_workers)
        case Compacted():
            cost, allowed = event.cost_micros, {used, whole}
    if event.usage and min(msgspec.structs.astuple(event.usage)) < 0:
        yield "budget", "It reports a negative token count."
    if isinstance(event, Compacted) and event.covers_to > max(ledger.proposals, default=1):
        yield "result", f"It covers events up to {event.covers_to}, which do not exist yet."
    if cost > whole:
        provider = f": '{start.model}' reported more than was reserved" if start.model else ""
        yield "budget", f"It cost {cost} micro-dollars; {start.label} reserved {whole}{provider}."
    if cost not in allowed:
        yield "budget", f"It is charged {cost} micro-dollars; by its usage and price it is {min(allowed)}."


def _check_begun(event: ModelFailedEvent) -> Violations:
    if not event.begun and (event.charged_micros or event.usage or event.possibly_billed):
        yield "result", "It reports that an attempt did not begin although it is charged or has used tokens."


def _json_fields(result: str) -> dict[str, object]:
    try:
        return msgspec.json.decode(result, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        return {}


def _check_content(ledger: Ledger, event: Finished) -> Violations:
    """Check the fields of a result: a tool's result is untrusted data, within its limits."""
    size, bytes_max = len(event.result.encode()), ledger.limits.result_bytes_max
    if event.result and not event.untrusted:
        yield "result", f"It calls the result of call '{event.call}' trusted; no tool's result is trusted as a whole."
    if size > bytes_max:
        yield "result", f"Its result has {size} bytes; the model receives at most {bytes_max}."
    whole = event.outcome == "succeeded" and size == event.result_bytes
    if whole and hashlib.sha256(event.result.encode()).hexdigest() != event.result_sha256:
        yield "result", "The digest of its result is false."
    stored_ref = event.result_ref
    if stored_ref is not None and (stored_ref.sha256, stored_ref.bytes) != (event.result_sha256, event.result_bytes):
        yield "result", "The stored full result that it names is not its result."


def _check_finished(ledger: Ledger, event: Finished) -> Violations:
    call = ledger.calls.get(event.call)
    if event.attempt == 0:
        if call is None or call.grant is None or call.grant.kind != "wait":
            yield "result", f"It ends a wait of call '{event.call}', which is not one."
        elif call.judged is not None and call.judged.wait_until is not None:
            if event.at < call.judged.wait_until:
                yield "result", f"It ends the wait of call '{event.call}' before its time."
            if list(_json_fields(event.result)) != ["now"]:
                yield "result", f"It ends the wait of call '{event.call}' with more than the time."
        return
    start = ledger.start_of_call(event.call, event.attempt)
    if start is None:
        yield "result", f"It is the result of attempt {event.attempt} of call '{event.call}', which was never started."
        return
    yield from _check_content(ledger, event)
    yield from _check_dead_owner(start, event.dead_workers)
    if not event.begun and (event.outcome != "never_started" or event.cost_micros):
        yield "result", "It reports that an attempt did not begin although it has another outcome or a cost."
    if not 0 <= event.cost_micros <= start.cost_max_micros:
        yield "budget", f"It cost {event.cost_micros} micro-dollars; {start.label} reserved {start.cost_max_micros}."
