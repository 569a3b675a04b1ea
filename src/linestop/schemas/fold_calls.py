"""The rules of the fold that concern single calls: judgement, gates, attempts, answers.

See ``fold`` for the rules of the run as a whole. A call moves through ``Stage``; what the model is told in
the end is ``CallState.answer``.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never

from linestop.schemas import fold
from linestop.schemas.calls import ITEM_BYTES, Attempt, CallState, Stage, text_bytes
from linestop.schemas.events import (
    Answered,
    Asked,
    AskedCall,
    BlobRef,
    Checked,
    Cleared,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Judged,
    JudgedCall,
    Question,
    Resolved,
    StartedCall,
    ToolGrant,
)
from linestop.schemas.limits import MODEL_RETRY_DELAYS_S, RETRY_JITTER

if TYPE_CHECKING:
    from linestop.schemas.run import Run


RETRY_ASKED_S_MAX = 30 * 86_400.0
"""No server's wish for a pause counts for more than the longest run: a date beyond the calendar breaks a fold."""


def grant_of(run: Run, tool: str) -> ToolGrant | None:
    """The grant of that tool in this run, if it has one."""
    if run.opened is None:
        return None
    return next((grant for grant in run.opened.tools if grant.name == tool), None)


def retry_delay_s(seed: str, attempt: int, asked_s: float | None = None) -> float:
    """Wait before attempt ``attempt + 1``: what was asked for, else 1, 2, 4 s, a quarter either way.

    The jitter comes from ``seed``, not from chance, so every reader of the log computes the same moment.
    """
    if asked_s is not None:
        return min(max(0.0, asked_s), RETRY_ASKED_S_MAX)
    base = MODEL_RETRY_DELAYS_S[min(attempt, len(MODEL_RETRY_DELAYS_S)) - 1]
    unit = int.from_bytes(hashlib.sha256(f"{seed}:{attempt}".encode()).digest()[:4], "big") / 0xFFFFFFFF
    return base * (1 - RETRY_JITTER + 2 * RETRY_JITTER * unit)


def judged(run: Run, n: int, event: Judged) -> str:
    """``validator.judged``: every pending call of the last proposal, and no other."""
    proposal = run.proposal
    if proposal is None or proposal.n != event.proposal_n:
        return f"event {event.proposal_n} is not the proposal under judgement"
    pending = {call.call: call for call in proposal.calls if call.stage is Stage.PENDING}
    if {verdict.call for verdict in event.calls} != set(pending) or len(event.calls) != len(pending):
        return "it does not judge exactly the pending calls"
    for verdict in event.calls:
        _judge(run, n, pending[verdict.call], verdict)
    passed = any(verdict.verdict != "reject" for verdict in event.calls)
    run.rejections_in_a_row = 0 if passed else run.rejections_in_a_row + 1
    proposal.judged = True
    return ""


def _judge(run: Run, n: int, call: CallState, verdict: JudgedCall) -> None:
    call.judged = verdict
    recorded = next((c for c in run.calls.values() if verdict.recorded_n and c.finished_n == verdict.recorded_n), None)
    if verdict.verdict == "pass" and call.grant is not None:
        call.stage = Stage.GATE
    elif verdict.verdict == "recorded" and recorded is not None:
        answer(run, call, n, text=recorded.answer, error=recorded.answer_is_error)
    else:
        answer(run, call, n, text="\n".join(verdict.errors) or "The call was rejected.", error=True)


def answer(run: Run, call: CallState, n: int, *, text: str, error: bool) -> None:
    """Give the model its answer to ``call``; the call is over."""
    call.stage = Stage.ANSWERED
    call.answer_n, call.answer, call.answer_is_error = n, text, error
    run.context_bytes += text_bytes(text) + ITEM_BYTES


def checked(run: Run, n: int, event: Checked) -> str:
    """``validator.checked``: a result passed the tool's own checks, or may not be built on."""
    call = next((c for c in run.calls.values() if c.finished_n == event.finished_n), None)
    if call is None or call.stage is not Stage.CHECK or call.finished is None:
        return f"event {event.finished_n} is not a result waiting for its check"
    if event.verdict == "pass":
        answer(run, call, n, text=call.finished.result, error=False)
    else:
        answer(run, call, n, text="The result failed its checks: " + "; ".join(event.findings), error=True)
    return ""


def cleared(run: Run, n: int, event: Cleared) -> str:
    """``approver.cleared``: calls that need nobody. A destructive call always needs somebody."""
    for line in event.calls:
        call = run.calls.get(line.call)
        if call is None or call.stage is not Stage.GATE or call.args_sha256 != line.args_sha256:
            return f"call '{line.call}' is not waiting at the gate with these arguments"
        if call.judged is not None and call.judged.tier == "destructive":
            return f"call '{line.call}' is destructive: only a person lets it pass"
    for line in event.calls:
        _pass_gate(run.calls[line.call], n)
    return ""


def _pass_gate(call: CallState, n: int) -> None:
    call.gate_n = n
    waits = call.grant is not None and call.grant.kind == "wait"
    call.stage = Stage.WAITING if waits else Stage.READY
    call.ready_at = call.judged.wait_until if waits and call.judged else None


def asked(run: Run, n: int, event: Asked) -> str:
    """``approver.asked``: a person is asked about calls, a question of the model, or spending."""
    lines: list[AskedCall | Question] = [*event.calls, *([event.question] if event.question else [])]
    for line in lines:
        call = run.calls.get(line.call)
        if call is None or call.stage not in {Stage.GATE, Stage.DOUBT}:
            return f"call '{line.call}' is not waiting at the gate"
    for line in lines:
        call = run.calls[line.call]
        call.asked, call.asked_n, call.votes = line, n, set()
        call.asked_doubt = call.stage is Stage.DOUBT
        call.stage = Stage.ASKED
    if event.spend:
        run.spend_asked = event.spend
    return ""


def granted(run: Run, n: int, event: Granted) -> str:
    """``approver.granted``: binds to exactly what was asked; counts votes up to the quorum."""
    if not event.call:
        if run.spend_asked is None:
            return "nobody asked about spending"
        if event.at >= run.spend_asked.expires_at:
            return "the question about spending had expired"
        run.spend_asked, run.spend_granted = None, True
        return ""
    call = run.calls.get(event.call)
    if call is None or call.stage is not Stage.ASKED or call.asked is None or call.asked_doubt:
        return f"call '{event.call}' does not wait for an approval"
    if isinstance(call.asked, Question):
        return f"call '{event.call}' is a question, not an approval"
    shown = (call.asked.args_sha256, call.asked.contract_digest)
    if (event.args_sha256, event.contract_digest) != shown:
        return "it is for other arguments or another contract than those asked about"
    if event.at >= call.asked.expires_at:
        return "the approval had expired"
    call.votes.add(event.by)
    if len(call.votes) >= call.asked.quorum:
        _pass_gate(call, n)
    return ""


def denied(run: Run, n: int, event: Denied) -> str:
    """``approver.denied``: a person said no, or nobody answered in time."""
    if not event.call:
        if run.spend_asked is None:
            return "nobody asked about spending"
        run.spend_asked, run.spend_denied = None, True
        return ""
    call = run.calls.get(event.call)
    if call is None or call.stage is not Stage.ASKED or call.asked_doubt:
        return f"call '{event.call}' does not wait for a decision"
    why = f": {event.why}" if event.why else "."
    if event.by == "timer":
        text = "Nobody answered in time, so this was not done."
    else:
        text = f"A person ({event.by}) denied this call{why}"
    answer(run, call, n, text=text, error=True)
    return ""


def word_of_a_person(run: Run, n: int, event: Edited | Answered | Resolved) -> str:
    """``approver.edited``, ``answered`` and ``resolved``: what a person put in the model's or the tool's place."""
    call = run.calls.get(event.call)
    if call is None:
        return f"there is no call '{event.call}'"
    match event:
        case Edited():
            if call.stage is not Stage.ASKED or call.asked_doubt or isinstance(call.asked, Question):
                return f"call '{event.call}' does not wait for an approval"
            call.raw_args, call.edited, call.stage, call.asked = event.args, True, Stage.PENDING, None
        case Answered():
            if call.stage is not Stage.ASKED or not isinstance(call.asked, Question):
                return f"call '{event.call}' is not a question"
            text = event.answer if isinstance(event.answer, str) else _elided(event.answer)
            answer(run, call, n, text=text, error=False)
        case Resolved():
            return _resolved(run, n, call, event)
        case _:
            assert_never(event)
    return ""


def _resolved(run: Run, n: int, call: CallState, event: Resolved) -> str:
    if call.stage is not Stage.DOUBT and not (call.stage is Stage.ASKED and call.asked_doubt):
        return f"the fate of call '{event.call}' is not in doubt"
    call.asked_doubt = False
    if event.action == "retry":
        call.stage, call.ready_at = Stage.READY, None
    elif event.action == "done":
        text = event.result if isinstance(event.result, str) else _elided(event.result)
        answer(run, call, n, text=text or f"Done, as {event.by} found out.", error=False)
    else:
        answer(run, call, n, text="A person stopped the run over this call.", error=True)
        run.stop_over = event
    return ""


def _elided(ref: BlobRef) -> str:
    return f"[{ref.bytes} bytes of {ref.type}, SHA-256 {ref.sha256}]"


def started(run: Run, n: int, event: EffectStarted) -> str:
    """``executor.started``: all of its calls may start, and together they fit into what the run holds."""
    if run.paused:
        return "the run is paused"
    if len({line.call for line in event.calls}) != len(event.calls):
        return "it starts a call twice"
    for line in event.calls:
        if reason := _may_start(run, line, event):
            return reason
    costs = [line.cost_max_micros for line in event.calls]
    if any(cost < 0 for cost in costs) or not fold.fits(run, sum(costs)):
        return "its cost does not fit into what the run holds"
    for line in event.calls:
        call = run.calls[line.call]
        if before := call.open_attempt:
            fold.supersede(run, before, n)
        attempt = Attempt(
            n=n, attempt=line.attempt, purpose=event.purpose, worker=event.worker, started_at=event.at,
            start_by=line.start_by, done_by=line.done_by, cost_max_micros=line.cost_max_micros, call=line.call,
        )  # fmt: skip
        call.attempts.append(attempt)
        call.stage = Stage.OPEN
        call.probed = call.probed or event.purpose == "probe"
        fold.open_attempt(run, attempt)
    return ""


def _may_start(run: Run, line: StartedCall, event: EffectStarted) -> str:
    """Why this call may not start now, or nothing."""
    call = run.calls.get(line.call)
    if call is None or call.grant is None or call.judged is None:
        return f"there is no judged call '{line.call}'"
    if line.attempt != len(call.attempts) + 1:
        return f"the next attempt of call '{line.call}' is {len(call.attempts) + 1}"
    if (line.args_sha256, line.effect_key) != (call.args_sha256, call.judged.effect_key):
        return f"call '{line.call}' was judged with other arguments"
    if event.purpose == "probe":
        in_doubt = call.stage is Stage.DOUBT and call.grant.probe and not call.probed
        return "" if in_doubt else f"call '{line.call}' has no doubt that a probe could settle"
    if call.gate_n != line.gate_n:
        return f"call '{line.call}' passed its gate in event {call.gate_n}"
    if call.stage is Stage.READY:
        early = call.ready_at is not None and event.at < call.ready_at
        return f"call '{line.call}' may not start before {call.ready_at}" if early else ""
    before = call.open_attempt
    if before and before.purpose == "effect" and call.grant.safe_to_repeat and before.expired(event.at, event.worker):
        return ""
    return f"call '{line.call}' is {call.stage}, so it may not start"


def finished(run: Run, n: int, event: Finished) -> str:
    """``executor.finished``: the fate of one attempt, or the end of a wait (attempt 0)."""
    call = run.calls.get(event.call)
    if call is None:
        return f"there is no call '{event.call}'"
    if event.attempt == 0:
        return _wait_over(run, n, call, event)
    if event.attempt > len(call.attempts):
        return f"attempt {event.attempt} of call '{event.call}' was not started"
    attempt = call.attempts[event.attempt - 1]
    was_open = attempt.open and call.stage is Stage.OPEN
    learnt = attempt.outcome == "unknown" and event.outcome != "unknown"
    if attempt.closed_n and not learnt:
        return f"attempt {event.attempt} of call '{event.call}' has its result"
    unknown = event.outcome == "unknown"
    cost = attempt.cost_max_micros if unknown else event.cost_micros
    fold.close_attempt(run, attempt, n, outcome=event.outcome, cost_micros=cost, reported=not unknown)
    in_doubt = call.stage is Stage.DOUBT or (call.stage is Stage.ASKED and call.asked_doubt)
    # An earlier attempt that did nothing says nothing about a later one; one that succeeded settles the call.
    last_effect = all(later.purpose == "probe" for later in call.attempts[event.attempt :])
    if was_open or (in_doubt and learnt and (last_effect or event.outcome == "succeeded")):
        _settle(run, n, call, attempt, event)
    elif event.outcome == "succeeded" and call.stage in {Stage.OPEN, Stage.READY} and not run.done:
        _result(run, n, call, event)
    return ""


def _wait_over(run: Run, n: int, call: CallState, event: Finished) -> str:
    if call.stage is not Stage.WAITING or (call.ready_at is not None and event.at < call.ready_at):
        return f"call '{event.call}' does not wait, or its moment has not come"
    call.finished, call.finished_n = event, n
    answer(run, call, n, text=event.result, error=False)
    return ""


def _settle(run: Run, n: int, call: CallState, attempt: Attempt, event: Finished) -> None:
    """Where a call goes from the fate of its attempt: to its answer, to another attempt, or into doubt."""
    retries = call.grant.retries_max if call.grant else 0
    more = len(call.effects) <= retries
    safe = call.grant is not None and call.grant.safe_to_repeat
    match event.outcome:
        case "succeeded":
            _result(run, n, call, event)
        case "never_started" if more:
            call.stage, call.ready_at = Stage.READY, None
        case "never_started":
            answer(run, call, n, text="The call could not be started.", error=True)
        case "failed" if attempt.purpose == "probe":
            call.stage = Stage.DOUBT
        case "failed":
            if more and _may_retry(event, safe=safe):
                call.stage = Stage.READY
                call.ready_at = _retry_at(event.at, call, event)
            else:
                text = event.error.message if event.error else "The call failed."
                answer(run, call, n, text=text, error=True)
        case "unknown" if safe and more and attempt.purpose == "effect":
            call.stage, call.ready_at = Stage.READY, None
        case "unknown" if safe and attempt.purpose == "effect":
            answer(run, call, n, text="The call did not answer in time, and was tried often enough.", error=True)
        case "unknown":
            call.stage = Stage.DOUBT
        case _:
            assert_never(event.outcome)


def _may_retry(event: Finished, *, safe: bool) -> bool:
    if event.error is None or event.error.type not in {"transient", "rate_limit"}:
        return False
    return event.error.retry_safe or safe


def _retry_at(at: datetime, call: CallState, event: Finished) -> datetime:
    asked = event.error.retry_after_s if event.error else None
    return at + timedelta(seconds=retry_delay_s(call.call, len(call.effects), asked))


def _result(run: Run, n: int, call: CallState, event: Finished) -> None:
    call.finished, call.finished_n, call.asked_doubt = event, n, False
    if call.grant is not None and call.grant.checks:
        call.stage = Stage.CHECK
    else:
        answer(run, call, n, text=event.result, error=False)
