"""The rules of the fold about approvals: clearings, questions, and the decisions of people.

They apply whichever process wrote the event: clearing a call that the policy reserves for a person, asking fewer people
than the policy names, or granting in a name that may not decide changes nothing for any reader. That the person really
decided so is proved by the signature, which ``verify`` checks.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, assert_never

from linestop.schemas.defaults import CLOCK_SLACK_S, REPORTED_EVENTS_MAX
from linestop.schemas.events import (
    Answered,
    Asked,
    AskedCall,
    BlobRef,
    Cleared,
    Denied,
    Edited,
    Granted,
    Policy,
    Question,
    Resolved,
    SpendQuestion,
)
from linestop.schemas.run.approval_policy import approval_rule, awaited_event, is_by_fallback, is_question
from linestop.schemas.run.call_outcome import CallOutcome
from linestop.schemas.run.call_states import CallState, Stage, text_size
from linestop.schemas.run.rules import call_ends, widened_contracts

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


def apply_cleared(run: RunState, n: int, event: Cleared) -> str:
    """``approver.cleared``: calls that need no person by the run's policy. A destructive call always needs one."""
    fallback = is_by_fallback(run)
    for line in event.calls:
        call = run.calls.get(line.call)
        if call is None or call.stage is not Stage.GATE or call.args_sha256 != line.args_sha256:
            return f"call '{line.call}' is not waiting at the gate with these arguments"
        if is_question(call):
            return f"call '{line.call}' is a question: only an answer ends it"
        if run.opened is not None:
            name, person = approval_rule(run.opened, call, fallback=fallback)
            if person and name == "tier:destructive":
                return f"call '{line.call}' is destructive: only a person lets it pass"
            if person:
                return f"call '{line.call}' needs a person ({name})"
    for line in event.calls:
        pass_gate(run.calls[line.call], n)
    return ""


def pass_gate(call: CallState, n: int) -> None:
    """Let a call start, or wait for its date, because of event ``n``."""
    call.gate_n, call.agreed = n, None
    waits = call.grant is not None and call.grant.kind == "wait"
    call.stage = Stage.WAITING if waits else Stage.READY
    call.ready_at = call.judged.wait_until if waits and call.judged else None


def apply_asked(run: RunState, event: Asked) -> str:
    """``approver.asked``: a person is asked about calls, a question of the model, or spending."""
    lines: list[AskedCall | Question] = [*event.calls, *([event.question] if event.question else [])]
    for line in lines:
        call = run.calls.get(line.call)
        if call is None or call.stage not in {Stage.GATE, Stage.UNKNOWN_OUTCOME}:
            return f"call '{line.call}' is not waiting at the gate"
        if reason := _invalid_question(run, call, line, event.at):
            return reason
    if event.spend and _expires_too_late(run, event.spend.expires_at, event.at):
        return "it asks for longer than the run's limit 'approval_expires_s'"
    for line in lines:
        call = run.calls[line.call]
        call.asked, call.votes = line, set()
        call.asked_about_outcome = call.stage is Stage.UNKNOWN_OUTCOME
        call.stage = Stage.ASKED
    if event.spend:
        run.spend_asked = event.spend
    return ""


def _invalid_question(run: RunState, call: CallState, line: AskedCall | Question, at: datetime) -> str:
    """Return why a question is invalid: it shows other content, asks other people than the policy, or for too long."""
    if isinstance(line, Question):
        if call.stage is not Stage.GATE or not is_question(call):
            return f"call '{line.call}' is not a question, so it cannot be answered"
        return ""
    policy = run.opened.policy if run.opened else Policy()
    digest = call.grant.contract_digest if call.grant else ""
    if (line.tool, line.args_sha256, line.contract_digest) != (call.tool, call.args_sha256, digest):
        return f"it shows another tool, contract or arguments than call '{line.call}' has"
    if bool(line.wider) != bool(call.wider):
        return f"it does not state whether the tool of call '{line.call}' may do more than was agreed to"
    if (line.deciders, line.quorum) != (policy.deciders, policy.quorum):
        return f"it asks other people about call '{line.call}' than the policy names"
    if _expires_too_late(run, line.expires_at, at):
        return f"it asks about call '{line.call}' for longer than the run's limit 'approval_expires_s'"
    return ""


def _expires_too_late(run: RunState, expires_at: datetime, at: datetime) -> bool:
    return (expires_at - at).total_seconds() > run.limits.approval_expires_s + CLOCK_SLACK_S


def _invalid_decider(run: RunState, by: str) -> str:
    """Return why this person may not decide in this run; empty if they may."""
    deciders = run.opened.policy.deciders if run.opened else ()
    return f"'{by}' may not decide; {', '.join(deciders)} may" if deciders and by not in deciders else ""


def apply_granted(run: RunState, n: int, event: Granted) -> str:
    """``approver.granted``: binds to exactly the question; counts the votes of permitted people, up to the quorum."""
    if event.by in {"", "timer"}:
        return "a grant needs a person's name"
    if reason := _invalid_decider(run, event.by):
        return reason
    if not event.call:
        return _spending_granted(run, event)
    call = run.calls.get(event.call)
    if call is None or call.stage is not Stage.ASKED or call.asked is None or call.asked_about_outcome:
        return f"call '{event.call}' does not wait for an approval"
    if isinstance(call.asked, Question):
        return f"call '{event.call}' is a question, not an approval"
    shown = (call.asked.args_sha256, call.asked.contract_digest)
    if (event.args_sha256, event.contract_digest) != shown:
        return "it is for other arguments or another contract than those asked about"
    if event.at >= min(call.asked.expires_at, event.expires_at or call.asked.expires_at):
        return "the approval had expired"
    call.votes.add(event.by)
    if len(call.votes) >= call.asked.quorum:
        pass_gate(call, n)
    return ""


def _spending_granted(run: RunState, event: Granted) -> str:
    if run.spend_asked is None:
        return "no person was asked about spending"
    if event.at >= run.spend_asked.expires_at:
        return "the question about spending had expired"
    run.spend_asked, run.spend_granted = None, True
    return ""


def apply_denied(run: RunState, n: int, event: Denied) -> str:
    """``approver.denied``: a person denied, or the question expired."""
    if not event.call:
        if run.spend_asked is None:
            return "no person was asked about spending"
        if reason := _invalid_denial(run, event, run.spend_asked):
            return reason
        run.spend_asked, run.spend_denied = None, event
        return ""
    call = run.calls.get(event.call)
    if call is None or call.stage is not Stage.ASKED or call.asked is None or call.asked_about_outcome:
        return f"call '{event.call}' does not wait for a decision"
    if reason := _invalid_denial(run, event, call.asked):
        return reason
    why = f": {event.why}" if event.why else "."
    if event.by == "timer":
        text, error_type = "Nobody answered in time, so this was not done.", "expired"
    else:
        text, error_type = f"A person ({event.by}) denied this call{why}", "denied"
    call_ends.end_call(run, call, n, text=text, outcome=CallOutcome(status="denied", error_type=error_type))
    return ""


def _invalid_denial(run: RunState, event: Denied, asked: AskedCall | Question | SpendQuestion) -> str:
    """Return why a denial is invalid: the question has not expired yet, or this person may not decide."""
    if event.by == "timer":
        return "" if event.at >= asked.expires_at else "the question has not expired yet"
    return "" if isinstance(asked, Question) else _invalid_decider(run, event.by)


def apply_person_input(run: RunState, n: int, event: Edited | Answered | Resolved) -> str:
    """``approver.edited``, ``answered`` and ``resolved``: a person's input in place of the model's or the tool's."""
    call = run.calls.get(event.call)
    if isinstance(event, Answered):
        return _apply_answered(run, n, call, event)
    if call is None:
        return f"there is no call '{event.call}'"
    match event:
        case Edited():
            if call.stage is not Stage.ASKED or call.asked_about_outcome or isinstance(call.asked, Question):
                return f"call '{event.call}' does not wait for an approval"
            if reason := _invalid_decider(run, event.by) or _invalid_edit(call, event):
                return reason
            run.judged_calls.judge_again(call)
            call.raw_args, call.edited, call.asked = event.args, True, None
            call.edit = event
            if event.approves:
                call.agreed = None
            if event.approves is not None:
                run.context += text_size(event.args)
        case Resolved():
            return _apply_resolved(run, n, call, event)
        case _:
            assert_never(event)
    return ""


def _apply_answered(run: RunState, n: int, call: CallState | None, event: Answered) -> str:
    """A person answered a question, or an event was reported, for a call that waits for it or for a later one."""
    if event.event and not event.call:
        if stored_reports_n(run, untrusted=event.untrusted) >= REPORTED_EVENTS_MAX:
            return f"{REPORTED_EVENTS_MAX} reported events are stored already"
        run.reported_events[n] = event
        return ""
    if call is None:
        return f"there is no call '{event.call}'"
    if event.reported_n:
        if reason := _invalid_report(run, call, event):
            return reason
        del run.reported_events[event.reported_n]
    elif call.stage is not Stage.ASKED or not isinstance(call.asked, Question):
        return f"call '{event.call}' is not a question"
    text = event.answer if isinstance(event.answer, str) else _elided(event.answer)
    call.reply_untrusted = event.untrusted
    outcome = CallOutcome(status="succeeded", untrusted=event.untrusted)
    call_ends.end_call(run, call, n, text=text, outcome=outcome)
    return ""


def stored_reports_n(run: RunState, *, untrusted: bool) -> int:
    """Return how many reported events are stored for a later wait: those of clients, or those of people and services.

    Each kind has its own limit, so that clients cannot use up the places of people and services.
    """
    return sum(report.untrusted == untrusted for report in run.reported_events.values())


def _invalid_report(run: RunState, call: CallState, event: Answered) -> str:
    """Return why an event that was reported before does not answer a wait; empty if it does."""
    report = run.reported_events.get(event.reported_n)
    if report is None:
        return f"event {event.reported_n} is not a stored report"
    if call.stage is not Stage.GATE or awaited_event(call) != report.event:
        return f"call '{event.call}' does not wait for the event '{report.event}'"
    same = (event.event, event.answer, event.by, event.untrusted) == (
        report.event,
        report.answer,
        report.by,
        report.untrusted,
    )
    return "" if same else f"it differs from what event {event.reported_n} reported"


def _invalid_edit(call: CallState, event: Edited) -> str:
    """Return why an edit is not a valid approval: it names no person, is too late, or is about another question."""
    asked = call.asked
    if any(attempt.begun for attempt in call.effects):
        return "it had begun with the former arguments"
    if not event.approves or not isinstance(asked, AskedCall):
        return ""
    if event.by in {"", "timer", "unknown"}:
        return "an edit that approves needs a person's name"
    if event.at >= min(asked.expires_at, event.expires_at or asked.expires_at):
        return "the approval had expired"
    shown = (event.shown_sha256 or asked.args_sha256, event.contract_digest or asked.contract_digest)
    if shown != (asked.args_sha256, asked.contract_digest):
        return "it is about other arguments or another contract than those asked about"
    return ""


def _apply_resolved(run: RunState, n: int, call: CallState, event: Resolved) -> str:
    if call.stage is not Stage.UNKNOWN_OUTCOME and not (call.stage is Stage.ASKED and call.asked_about_outcome):
        return f"the outcome of call '{event.call}' is known"
    if reason := _invalid_decider(run, event.by):
        return reason
    call.asked_about_outcome = False
    if event.action == "retry":
        call.stage, call.ready_at = widened_contracts.ready(call), None
    elif event.action == "done":
        text = event.result if isinstance(event.result, str) else _elided(event.result)
        outcome = CallOutcome(status="succeeded", notes=(f"A person ({event.by}) found that the call took effect.",))
        call_ends.end_call(run, call, n, text=text or f"Done, as {event.by} found out.", outcome=outcome)
    else:
        outcome = CallOutcome(status="unknown", error_type="stopped")
        call_ends.end_call(run, call, n, text="A person stopped the run over this call.", outcome=outcome)
        run.stop_resolution = event
    return ""


def _elided(ref: BlobRef) -> str:
    return f"[{ref.bytes} bytes of {ref.type}, SHA-256 {ref.sha256}]"
