"""Approver: must a person agree, and did one?

It protects people from what they did not agree to. It reads judged calls, the run's policy and control
messages. It appends ``cleared`` for calls that the policy lets pass, ``asked`` for those that need a person (and for
questions of the model, for spending, for effects whose outcome is unknown), and a person's decision as ``granted``,
``denied``, ``edited``, ``answered``, ``resolved``, ``paused``, ``resumed``. A question that expires is denied. It
appends nothing for reads that nothing holds back: they start on their judgement (``schemas.run.approval_policy``).

A grant is bound to run, tool, contract digest and canonical arguments; the fold ignores any other. If the executor
reports that a tool may do more by now, a person is asked again, under the present contract.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from linestop.actors.control_messages import event_for_message
from linestop.actors.role_facts import ApproverFacts
from linestop.schemas.events import (
    Answered,
    AnyEvent,
    Asked,
    AskedCall,
    Cleared,
    ClearedCall,
    Denied,
    Question,
    SpendQuestion,
    Stopped,
)
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.approval_policy import approval_rule, awaited_event, is_by_fallback, may_do_more
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import spend_question_due
from linestop.schemas.subjects import RoleName

QUESTIONS = frozenset({"ask.person", "wait.for_event"})
"""Built-in waits that a person or a service ends with an ``answer``; ``wait.until`` ends by itself."""


class Approver:
    """The approver role."""

    name: RoleName = "approver"
    wakes: frozenset[str] = frozenset(
        {
            "validator.judged",
            "validator.opened",
            "validator.checked",
            "validator.returned",
            "executor.finished",
            "executor.widened",
            "planner.failed",
            "planner.compacted",
            "stopped",
        }
    )
    facts_type = ApproverFacts

    def decide(self, run: Run, facts: ApproverFacts, now: datetime) -> AnyEvent | None:
        """Append a person's decision, deny questions that have expired, then clear or ask."""
        if run.has_unknown_events:
            return None
        message = facts.message
        if (
            message is not None
            and (event := event_for_message(run, message, now, facts.pinned_agent.version)) is not None
        ):
            return event
        if run.opened is None or run.done or run.is_full:
            return None
        return (
            _stop_after_decision(run)
            or _deny_expired(run, now)
            or _ask_about_spending(run, now)
            or _clear_or_ask(run, now)
            or _ask_about_outcome(run, now)
        )


def _stop_after_decision(run: Run) -> Stopped | None:
    """Return the stop that follows a person's decision: spending was denied, or an unknown effect ends the run."""
    if denial := run.spend_denied:
        if denial.by == "timer":
            why = "Nobody said in time whether the run may go on spending."
            return stop_event(run, by="approver", why=why, code="expired")
        why = f"Going on spending was denied by {denial.by}" + (f": {denial.why}" if denial.why else ".")
        return stop_event(run, by="approver", why=why, code="denied")
    if resolution := run.stop_resolution:
        why = resolution.why or f"Nobody knows what became of call '{resolution.call}'."
        return stop_event(run, by=resolution.by, why=why, code="unknown_effect")
    return None


def _deny_expired(run: Run, now: datetime) -> AnyEvent | None:
    """Deny a question that was not answered in time; one about an unknown effect ends the run."""
    if run.spend_asked and now >= run.spend_asked.expires_at:
        return Denied(call="", by="timer", via="timer")
    for call in run.proposal.calls if run.proposal else ():
        if call.stage is not Stage.ASKED or call.asked is None or now < call.asked.expires_at:
            continue
        if call.asked_about_outcome:
            why = f"Nobody said what became of '{call.tool}' (call '{call.call}') in time."
            return stop_event(run, by="approver", why=why, code="expired")
        digest = call.asked.contract_digest if isinstance(call.asked, AskedCall) else ""
        return Denied(call=call.call, by="timer", via="timer", args_sha256=call.args_sha256, contract_digest=digest)
    return None


def _ask_about_spending(run: Run, now: datetime) -> Asked | None:
    """Ask before a run spends more than its policy allows without a person."""
    if run.spend_asked or not spend_question_due(run, now):
        return None
    expires = now + timedelta(seconds=run.limits.approval_expires_s)
    return Asked(
        spend=SpendQuestion(so_far_micros=run.spent_micros, limit_micros=run.limits.ask_from_micros, expires_at=expires)
    )


def _clear_or_ask(run: Run, now: datetime) -> AnyEvent | None:
    """Clear the calls that need no person; ask about the rest. One event for each gate and proposal."""
    if run.phase is not Phase.CLEARING or run.proposal is None or run.opened is None:
        return None
    waiting = [call for call in run.proposal.calls if call.stage is Stage.GATE]
    if question := next((call for call in waiting if call.tool in QUESTIONS), None):
        return _answer_from_report(run, question) or Asked(question=_question(run, question, now))
    fallback = is_by_fallback(run)
    rules = [(call, *approval_rule(run.opened, call, fallback=fallback)) for call in waiting]
    cleared = tuple(
        ClearedCall(call=call.call, rule=name, args_sha256=call.args_sha256)
        for call, name, needs_person in rules
        if not needs_person
    )
    if cleared:
        return Cleared(calls=cleared)
    return Asked(calls=tuple(_asked_call(run, call, name, now) for call, name, _ in rules))


def _answer_from_report(run: Run, call: CallState) -> Answered | None:
    """Answer a wait for an event that was reported before: with the oldest report of its name, each used once.

    A trusted report comes first: a client may have reported the same name before it.
    """
    name = awaited_event(call)
    oldest = [(report.untrusted, n) for n, report in run.reported_events.items() if name and report.event == name]
    if not oldest:
        return None
    n = min(oldest)[1]
    report = run.reported_events[n]
    return Answered(
        call=call.call, event=name, answer=report.answer, by=report.by, untrusted=report.untrusted, reported_n=n
    )


def _asked_call(run: Run, call: CallState, name: str, now: datetime) -> AskedCall:
    assert run.opened is not None
    assert call.grant is not None
    policy = run.opened.policy
    return AskedCall(
        call=call.call,
        tool=call.tool,
        args_sha256=call.args_sha256,
        contract_digest=call.grant.contract_digest,
        rule=name,
        tier=call.grant.tier,
        expires_at=now + timedelta(seconds=run.limits.approval_expires_s),
        reason=run.proposal.event.reason if run.proposal else "",
        provenance=call.judged.provenance if call.judged else (),
        cost_max_micros=call.grant.price_micros,
        deciders=policy.deciders,
        quorum=policy.quorum,
        wider=may_do_more(call.tool, call.wider),
    )


def _question(run: Run, call: CallState, now: datetime) -> Question:
    args: JsonObject = {}
    if call.judged and isinstance(call.judged.args, str):
        args = msgspec.json.decode(call.judged.args, type=JsonObject)
    wait_s = args.get("timeout_s") or run.limits.approval_expires_s
    return Question(
        call=call.call,
        text=str(args.get("question") or args.get("name") or ""),
        options=tuple(str(option) for option in args.get("options") or ()),
        # The model chose the time: a question may outlive neither the run nor the calendar.
        expires_at=now + timedelta(seconds=min(float(wait_s), run.limits.run_max_s)),
    )


def _ask_about_outcome(run: Run, now: datetime) -> Asked | None:
    """Ask a person about the outcome of effects that no probe can settle."""
    unsettled = [
        call
        for call in (run.proposal.calls if run.proposal else ())
        if call.stage is Stage.UNKNOWN_OUTCOME and call.grant and (call.probed or not call.grant.probe)
    ]
    if not unsettled:
        return None
    return Asked(calls=tuple(_asked_call(run, call, "unknown", now) for call in unsettled))
