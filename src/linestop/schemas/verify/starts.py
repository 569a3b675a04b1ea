"""The rules about starts and results: P1 (stop), P3 (once), the money of P4, and what a start rests on (P5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime

from linestop.schemas.arguments import decode_strict
from linestop.schemas.events import (
    BlobRef,
    Compacted,
    EffectStarted,
    Finished,
    Judged,
    JudgedCall,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    StartedCall,
    Text,
)
from linestop.schemas.tools import TIERS, canonical, effect_key
from linestop.schemas.verify.ledger import Call, Ledger, Start
from linestop.schemas.verify.verdict import Rule

Found = Iterator[tuple[Rule, str]]


def check_start(ledger: Ledger, event: ModelStarted | EffectStarted) -> Found:
    """What is wrong with a start, whoever said it and whether or not readers count it."""
    if ledger.opened is None:
        yield "stop", "It starts something in a run that was never opened."
    if ledger.over_n:
        yield "stop", f"It starts something although the run was {ledger.over_by} in event {ledger.over_n}."
    if ledger.paused_n:
        yield "stop", f"It starts something although the run was paused in event {ledger.paused_n}."
    lines = [event] if isinstance(event, ModelStarted) else list(event.calls)
    cost = sum(line.cost_max_micros for line in lines)
    if any(line.cost_max_micros < 0 for line in lines) or cost > ledger.available_micros:
        yield "budget", f"It may cost {cost} micro-dollars, but the run has {max(ledger.available_micros, 0)} left."
    if isinstance(event, ModelStarted):
        yield from _check_model(ledger, event)
    else:
        for line in event.calls:
            yield from _check_call(ledger, line, event)


def _check_model(ledger: Ledger, event: ModelStarted) -> Found:
    choice = ledger.choice(event.model)
    if choice is None:
        yield "budget", f"It starts the model '{event.model}', which the run was not opened with."
    elif event.cost_max_micros < choice.price.cost_max_micros(event.input_tokens_max, event.output_tokens_max):
        yield "budget", "It reserves less than a call of this size may cost."
    for before in ledger.open_starts:
        if not before.call and not before.over(event.at, event.worker):
            yield "once", f"It starts a model call while {before.label} is open."


def _check_call(ledger: Ledger, line: StartedCall, event: EffectStarted) -> Found:
    call = ledger.calls.get(line.call)
    if call is None or call.judged is None or call.judged.verdict != "pass" or call.grant is None:
        yield "approval", f"It starts call '{line.call}', which no judgement let pass."
        return
    if line.effect_key != call.judged.effect_key:
        yield "once", f"It starts call '{line.call}' under another effect key than it was judged with."
    if line.args_sha256 != call.judged.args_sha256:
        yield "approval", f"It starts call '{line.call}' with other arguments than those that were let pass."
    if event.purpose == "probe":
        if not call.grant.probe:
            yield "approval", f"It probes call '{line.call}', whose contract has no probe."
        return
    if not call.gate_n or line.gate_n != call.gate_n:
        gate = f"event {call.gate_n}" if call.gate_n else "no event"
        yield "approval", f"It starts call '{line.call}' on event {line.gate_n}, but {gate} let it pass."
    elif "destructive" in {call.judged.tier, call.grant.tier} and not call.by_person:
        yield "approval", f"It starts call '{line.call}', which is destructive, without a person's grant."
    if line.cost_max_micros < call.grant.price_micros:
        yield "budget", f"It reserves less for call '{line.call}' than the tool may cost."
    yield from _check_once(ledger, call, at=event.at, worker=event.worker)


def _check_once(ledger: Ledger, call: Call, *, at: datetime, worker: str) -> Found:
    """P3: no second attempt while one is open; none at all of what is not safe, unless the first is known not to be."""
    assert call.grant is not None
    assert call.judged is not None
    safe = call.grant.safe_to_repeat
    for before in call.starts:
        if before.open and not (safe and before.over(at, worker)):
            yield "once", f"It starts call '{call.name}' again while {before.label} is open."
        elif not safe and not before.probe and not before.open and not _undone(call, before):
            yield "once", f"It repeats {before.label}, which is not safe to repeat and may have taken effect."
    if safe or call.grant.repeatable:
        return
    for other in ledger.calls.values():
        if other is call or other.judged is None or other.judged.effect_key != call.judged.effect_key:
            continue
        for before in other.effects:
            if before.outcome != "failed" and not _undone(other, before):
                yield "once", f"It repeats the effect of {before.label} under another call."


def _undone(call: Call, before: Start) -> bool:
    """Whether it is known that this attempt took no effect, or a person said to go on in spite of it."""
    if before.outcome == "never_started" or (before.outcome == "failed" and before.retry_safe):
        return True
    if before.outcome == "succeeded":
        return False
    probed = any(start.probe and start.n > before.n and start.outcome == "never_started" for start in call.starts)
    return probed or call.retry_said_n > before.n


# --- judgement: what a start rests on ----------------------------------------------------------------------


def check_judged(ledger: Ledger, event: Judged) -> Found:
    """What is wrong with a judgement: other arguments than proposed, a false key, a tier lowered."""
    for verdict in event.calls:
        call = ledger.calls.get(verdict.call)
        if call is None:
            yield "approval", f"It judges call '{verdict.call}', which nobody proposed."
        elif verdict.verdict == "recorded":
            yield from _check_recorded(ledger, verdict)
        elif verdict.verdict == "pass":
            yield from _check_passed(ledger, call, verdict)


def _check_recorded(ledger: Ledger, verdict: JudgedCall) -> Found:
    result = ledger.finished.get(verdict.recorded_n)
    origin = ledger.calls.get(result.call) if result else None
    same = origin is not None and origin.judged is not None and origin.judged.effect_key == verdict.effect_key
    if result is None or result.outcome != "succeeded" or not same:
        yield "once", f"It answers call '{verdict.call}' from event {verdict.recorded_n}, which is no result of it."


def _check_passed(ledger: Ledger, call: Call, verdict: JudgedCall) -> Found:
    if call.grant is None:
        yield "approval", f"It lets call '{call.name}' pass, but the run has no tool '{call.tool}'."
        return
    if TIERS.index(verdict.tier) < TIERS.index(call.grant.tier):
        yield "approval", f"It lowers call '{call.name}' from {call.grant.tier} to {verdict.tier}."
    raw, args = _bytes(ledger, call.raw_args), _bytes(ledger, verdict.args)
    if raw is not None and hashlib.sha256(raw).hexdigest() != verdict.raw_args_sha256:
        yield "approval", f"It judges other arguments of call '{call.name}' than those in the log."
    if args is None:
        return
    if raw is not None and _canonical(raw) != args:
        yield "approval", f"The arguments it lets pass for call '{call.name}' are not those that were written."
    if hashlib.sha256(args).hexdigest() != verdict.args_sha256:
        yield "approval", f"The digest of the arguments of call '{call.name}' is false."
    if effect_key(f"{ledger.tenant}/{ledger.run}", call.tool, args) != verdict.effect_key:
        yield "once", f"The effect key of call '{call.name}' is not the one of this run, tool and arguments."


def _bytes(ledger: Ledger, text: Text) -> bytes | None:
    """A text as it is in the log, or from a blob that was handed in and has the digest; None without one."""
    if isinstance(text, BlobRef):
        found = ledger.texts.get(text.sha256)
        return found if found is not None and hashlib.sha256(found).hexdigest() == text.sha256 else None
    return text.encode()


def _canonical(raw: bytes) -> bytes | None:
    try:
        return canonical(decode_strict(raw))
    except ValueError:
        return None


# --- results -----------------------------------------------------------------------------------------------


def check_result(ledger: Ledger, event: Proposed | ModelFailedEvent | Compacted | Finished) -> Found:
    """What is wrong with a result: nobody started it, or it costs what it may not."""
    if isinstance(event, Finished):
        yield from _check_finished(ledger, event)
        return
    start = ledger.start_of_turn(event.turn, event.attempt)
    if start is None:
        yield "result", f"It is the result of attempt {event.attempt} of turn {event.turn}, which nobody started."
        return
    choice = ledger.choice(start.model)
    used = choice.price.cost_micros(event.usage) if choice and event.usage else 0
    whole = start.cost_max_micros
    match event:
        case Proposed():
            cost, allowed = event.cost_micros, {used} if event.usage_source == "reported" else {whole}
        case ModelFailedEvent():
            cost, allowed = event.charged_micros, {whole} if event.possibly_billed else {used}
        case Compacted():
            cost, allowed = event.cost_micros, {used, whole}
    if cost > whole:
        yield "budget", f"It cost {cost} micro-dollars; {start.label} reserved {whole}."
    elif cost not in allowed:
        yield "budget", f"It is charged {cost} micro-dollars; by its usage and price it is {min(allowed)}."


def _check_finished(ledger: Ledger, event: Finished) -> Found:
    call = ledger.calls.get(event.call)
    if event.attempt == 0:
        if call is None or call.grant is None or call.grant.kind != "wait":
            yield "result", f"It ends a wait of call '{event.call}', which is none."
        return
    start = ledger.start_of_call(event.call, event.attempt)
    if start is None:
        yield "result", f"It is the result of attempt {event.attempt} of call '{event.call}', which nobody started."
    elif not 0 <= event.cost_micros <= start.cost_max_micros:
        yield "budget", f"It cost {event.cost_micros} micro-dollars; {start.label} reserved {start.cost_max_micros}."
