"""Turns a control message into an event, or into a sentence that says why it cannot take effect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import msgspec

from linestop.actors.facts import ControlMessage, Fact
from linestop.actors.judging.calls import judge_edit
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import REPORTED_EVENTS_MAX
from linestop.schemas.events import (
    Answered,
    AnyEvent,
    AskedCall,
    Cue,
    Denied,
    Edited,
    Granted,
    Paused,
    Question,
    Resolved,
    Resumed,
    Stopped,
)
from linestop.schemas.json_values import JsonObject
from linestop.schemas.messages import SIGNED_VERBS, Control, Verb
from linestop.schemas.run.approval_policy import call_waiting_for
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.rules.approvals import stored_reports_n
from linestop.schemas.tool_contracts import canonical


def event_for_message(
    run: Run, message: ControlMessage, now: datetime, agent: AgentVersion | None = None
) -> AnyEvent | None:
    """Return the event that this control message becomes in this run now, or None (see ``rejection_reason``)."""
    return None if rejection_reason(run, message, now, agent) else _message_as_event(run, message)


def rejection_reason(  # noqa: C901 - a list of reasons, one a line
    run: Run, message: ControlMessage, now: datetime, agent: AgentVersion | None = None
) -> str:
    """Return why this control message changes nothing, in one sentence for its sender; empty if it takes effect.

    ``agent`` is the version that the run was opened with; with it, edited arguments are judged before they count.
    """
    control = message.control
    if message.verb == "stop" and _cancels_drain(run, message):
        return ""
    if reason := _ended_run_rejection_reason(run):
        return reason
    if message.verb == "stop":
        return ""
    if run.done:
        return f"Run '{run.run}' has come to its end; it can only be stopped."
    if run.has_unknown_events:
        return f"Run '{run.run}' has an event that this version does not know, so it can only be stopped here."
    if run.opened is None:
        return f"There is no run '{run.run}' yet."
    if run.is_full:
        return f"Run '{run.run}' has all of its {run.limits.events_max} events, so it can only be stopped."
    if reason := _signature_rejection_reason(run, message):
        return reason
    if message.verb == "pause":
        return _pause_rejection_reason(run)
    if message.verb == "resume":
        return "" if run.paused else "The run is not paused."
    if message.verb in {"approve", "deny"} and not control.call:
        return _spending_rejection_reason(run, message, now)
    event = control.event if message.verb == "answer" else ""
    call = call_waiting_for(run, event) if event else run.calls.get(control.call)
    if call is None:
        return (
            _report_rejection_reason(run, message)
            if event
            else f"There is no call '{control.call}' in run '{run.run}'."
        )
    return _call_rejection_reason(run, call, message, now) or _edit_rejection_reason(
        run, call, message, now=now, agent=agent
    )


def _report_rejection_reason(run: Run, message: ControlMessage) -> str:
    """Return why a reported event that no call waits for is not stored."""
    if stored_reports_n(run, untrusted=not message.trusted) < REPORTED_EVENTS_MAX:
        return ""
    return (
        f"Run '{run.run}' already stores {REPORTED_EVENTS_MAX} events that no call waits for; report it when one does."
    )


def _edit_rejection_reason(
    run: Run, call: CallState, message: ControlMessage, *, now: datetime, agent: AgentVersion | None
) -> str:
    """Return why a person's arguments would be rejected: the person is told, not the model, which wrote others."""
    if message.verb != "edit" or agent is None:
        return ""
    args = canonical(message.control.args)
    errors = judge_edit(run, call, args, agent, now=now)
    return f"The call '{call.call}' cannot be made with these arguments: {'; '.join(errors)}" if errors else ""


def _ended_run_rejection_reason(run: Run) -> str:
    if run.phase == "sealed":
        return f"Run '{run.run}' is over; nothing can be changed any more."
    return f"Run '{run.run}' is stopped already ({run.stopped.why})." if run.stopped else ""


def _signature_rejection_reason(run: Run, message: ControlMessage) -> str:
    control = message.control
    if message.verb in SIGNED_VERBS and message.signature_required and not message.signer:
        return "A decision must be signed with the key of a person who may decide; this one is not."
    if not message.signer or not control.signature:
        return ""
    if control.by not in {"", message.signer}:
        return f"The decision names '{control.by}' but is signed with the key of '{message.signer}'."
    if any(getattr(entry.event, "signature", "") == control.signature for entry in run.entries if not entry.ignored):
        # Otherwise any process that read a signed decision could submit it again and have an effect retried once more.
        return "This decision was already submitted; sign it again with a new nonce."
    return ""


def _cancels_drain(run: Run, message: ControlMessage) -> bool:
    """Whether this stop cancels the calls that the first stop let finish."""
    return run.sealed is None and run.stopped is not None and _stop_event(run, message).overrides(run.stopped)


def _pause_rejection_reason(run: Run) -> str:
    if run.events_left <= 0:
        return f"Run '{run.run}' has {run.n} events; what is left belongs to its end, so it can only be stopped."
    return "The run is paused already." if run.paused else ""


def _spending_rejection_reason(run: Run, message: ControlMessage, now: datetime) -> str:
    asked, deciders = run.spend_asked, run.opened.policy.deciders if run.opened else ()
    if asked is None:
        return "Name the call: the run does not ask about its spending."
    if now >= asked.expires_at:
        return f"The question about spending expired at {asked.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    person = message.signer or message.control.by
    if deciders and person not in deciders:
        return f"'{person}' may not decide about spending; {', '.join(deciders)} may."
    return "" if person or message.verb == "deny" else "Say who approves, in 'by'."


def _call_rejection_reason(run: Run, call: CallState, message: ControlMessage, now: datetime) -> str:
    is_outcome_unknown = call.stage is Stage.UNKNOWN_OUTCOME or (call.stage is Stage.ASKED and call.asked_about_outcome)
    if message.verb == "resolve":
        if not is_outcome_unknown:
            return f"The outcome of call '{call.call}' is known; there is nothing to resolve."
        return _resolution_rejection_reason(run, call, message, now)
    if is_outcome_unknown:
        return (
            f"The outcome of call '{call.call}' is unknown; decide it with "
            f"`linestop resolve {run.run} {call.call} --retry|--done|--stop`."
        )
    if call.stage is not Stage.ASKED or call.asked is None:
        return f"Call '{call.call}' does not wait for a person (it is {call.stage})."
    if now >= call.asked.expires_at:
        return f"The question about call '{call.call}' expired at {call.asked.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    if message.verb == "answer":
        return "" if isinstance(call.asked, Question) else f"Call '{call.call}' is not a question: approve or deny it."
    if message.verb == "deny" and isinstance(call.asked, Question):
        return ""
    if isinstance(call.asked, Question):
        return f"Call '{call.call}' is a question; answer it."
    return _decision_rejection_reason(call, call.asked, message, now)


def _resolution_rejection_reason(run: Run, call: CallState, message: ControlMessage, now: datetime) -> str:
    """Return why a decision about an unknown outcome does not count; the policy names the people who may decide."""
    control, person = message.control, message.signer or message.control.by
    deciders = run.opened.policy.deciders if run.opened else ()
    if deciders and person not in deciders:
        return f"'{person}' may not decide about '{call.tool}'; {', '.join(deciders)} may."
    if control.expires_at is not None and now >= control.expires_at:
        return f"The decision about call '{call.call}' expired at {control.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    if control.args_sha256 and control.args_sha256 != call.args_sha256:
        return f"The arguments of call '{call.call}' are not those that were shown; look again."
    return "" if control.action else "Say what to do: action 'retry', 'done' or 'stop'."


def _decision_rejection_reason(call: CallState, asked: AskedCall, message: ControlMessage, now: datetime) -> str:
    control, person = message.control, message.signer or message.control.by
    if message.verb == "approve" and person in call.votes:
        return f"'{person}' has already approved call '{call.call}'; {asked.quorum} different people have to."
    if asked.deciders and person not in asked.deciders:
        return f"'{person}' may not decide about '{asked.tool}'; {', '.join(asked.deciders)} may."
    if message.verb == "edit" and not isinstance(control.args, dict):
        return "Give the new arguments as a JSON object."
    if message.verb in {"approve", "edit"} and not person:
        return "Say who approves, in 'by'."
    if message.signature_required and not (control.args_sha256 and control.contract_digest):
        return "A signed decision names the arguments and the contract it is about; sign what was shown."
    if control.expires_at is not None and now >= control.expires_at:
        return f"The decision about call '{asked.call}' expired at {control.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    if control.args_sha256 and control.args_sha256 != asked.args_sha256:
        return f"The arguments of call '{asked.call}' are not those that were shown; look again."
    if control.contract_digest and control.contract_digest != asked.contract_digest:
        return f"The contract of '{asked.tool}' is not the one that was shown; look again."
    return _wider_contract_rejection_reason(call, asked, message)


def _wider_contract_rejection_reason(call: CallState, asked: AskedCall, message: ControlMessage) -> str:
    """Return why a decision about a tool that may do more by now does not count: it may concern an earlier question."""
    if call.wider and message.verb != "deny" and not message.control.contract_digest:
        return f"{asked.wider} Look again, and name the contract that is shown."
    if message.verb == "edit" and any(attempt.begun for attempt in call.effects):
        return (
            f"Call '{call.call}' has started with its present arguments and can no longer be edited: "
            "approve or deny it."
        )
    return ""


def _stop_event(run: Run, message: ControlMessage) -> Stopped:
    by, control = message.signer or message.control.by or "unknown", message.control
    return msgspec.structs.replace(stop_event(run, by=by, why=control.why), mode=control.mode)


def _message_as_event(run: Run, message: ControlMessage) -> AnyEvent:
    control = message.control
    by = message.signer or control.by or "unknown"
    match message.verb:
        case "stop":
            return _stop_event(run, message)
        case "pause":
            return Paused(by=by, why=control.why)
        case "resume":
            return Resumed(by=by, why=control.why)
        case "answer":
            text = control.answer if isinstance(control.answer, str) else canonical(control.answer).decode()
            if control.event:
                return _report_event(run, message, text, by)
            return Answered(
                call=control.call, answer=text, by=by, untrusted=not message.trusted, **_signed_fields(control)
            )
        case "edit":
            args = canonical(control.args)
            return Edited(
                call=control.call,
                args=args.decode(),
                args_sha256=hashlib.sha256(args).hexdigest(),
                by=by,
                why=control.why,
                approves=run.opened is None or run.opened.policy.quorum <= 1,
                **_signed_fields(control),
            )
        case "resolve":
            result = "" if control.result is None else canonical(control.result).decode()
            return Resolved(
                call=control.call,
                action=control.action or "stop",
                by=by,
                result=result,
                why=control.why,
                **_signed_fields(control),
            )
        case "approve" | "deny":
            return _decision_event(run, message.verb == "approve", control, by)


def _report_event(run: Run, message: ControlMessage, text: str, by: str) -> Answered:
    """Report an event: as the answer to the call that waits for it, or stored until a call does.

    A signature covers a call, and the report of an event names none: so a signature adds no trust to it.
    """
    call, trusted = call_waiting_for(run, message.control.event), message.trusted and not message.signer
    return Answered(
        call=call.call if call else "", event=message.control.event, answer=text, by=by, untrusted=not trusted
    )


def _signed_fields(control: Control) -> JsonObject:
    """Return what else a decision's signature covers, so that the signature can be checked from the log alone."""
    return {
        "shown_sha256": control.args_sha256,
        "contract_digest": control.contract_digest,
        "nonce": control.nonce,
        "expires_at": control.expires_at,
        "signature": control.signature,
        "key_id": control.key_id,
    }


def _decision_event(run: Run, is_approval: bool, control: Control, by: str) -> Granted | Denied:
    call = run.calls.get(control.call)
    asked = call.asked if call and isinstance(call.asked, AskedCall) else None
    kind = Granted if is_approval else Denied
    return kind(
        call=control.call,
        by=by,
        why=control.why,
        via=control.via or "control",
        args_sha256=asked.args_sha256 if asked else "",
        contract_digest=asked.contract_digest if asked else "",
        nonce=control.nonce,
        expires_at=control.expires_at or (asked.expires_at if asked else None),
        signature=control.signature,
        key_id=control.key_id,
    )


EVENT_OF_VERB: dict[Verb, type[AnyEvent]] = {
    "stop": Stopped,
    "pause": Paused,
    "resume": Resumed,
    "approve": Granted,
    "deny": Denied,
    "edit": Edited,
    "answer": Answered,
    "resolve": Resolved,
}
"""The event that a control message becomes."""

EVENTS_OF_CONTROL_MESSAGES = tuple(event for verb, event in EVENT_OF_VERB.items() if verb != "stop")
"""The same except for a stop, which ends the run and so cannot be appended twice."""


def is_recorded(run: Run, cue: Cue) -> bool:
    """Whether this control message has already become an event; it becomes one only once."""
    return cue.kind == "control" and any(
        isinstance(entry.event, EVENTS_OF_CONTROL_MESSAGES) and entry.event.cue.id == cue.id
        for entry in reversed(run.entries)
    )


def has_stop_message(facts: Iterable[Fact]) -> bool:
    """Whether a stop is requested; its append does not give way to others at the run's head."""
    return any(isinstance(fact, ControlMessage) and fact.verb == "stop" for fact in facts)


def requested_stop(run: Run, facts: Iterable[Fact], now: datetime) -> AnyEvent | None:
    """Return a requested stop: every role may append it, so the first shell that sees it does."""
    for fact in facts:
        if isinstance(fact, ControlMessage) and fact.verb == "stop":
            return event_for_message(run, fact, now)
    return None
