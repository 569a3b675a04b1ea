"""The rules about approvals (P5): the questions, the decisions of people, and the calls that needed no person."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatchcase

from linestop.schemas.defaults import CLOCK_SLACK_S, clamp
from linestop.schemas.events import (
    Asked,
    AskedCall,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    Granted,
    Resolved,
    Widened,
)
from linestop.schemas.verify.call_records import Call
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]


def check_cleared(ledger: Ledger, event: Cleared) -> Violations:
    """Check the calls that pass without a person."""
    for line in event.calls:
        call = ledger.calls.get(line.call)
        if call is None or call.judged is None or call.grant is None or call.judged.verdict != "pass":
            yield "approval", f"It clears call '{line.call}', which no judgement let pass."
        elif line.args_sha256 != call.judged.args_sha256:
            yield "approval", f"It clears call '{line.call}' with other arguments than those that were judged."
        elif sentence := _person_needed_reason(ledger, call, line):
            yield "approval", f"It clears call '{line.call}' although {sentence}."


def _person_needed_reason(ledger: Ledger, call: Call, line: ClearedCall) -> str:
    """Return why a person had to be asked about a call; empty if no person had to."""
    assert ledger.opened is not None
    if call.agreed is None:
        return _by_policy(ledger, call, line)
    described = ledger.opened.task.dry_run and call.grant is not None and call.grant.tier != "read"
    return "" if described else "its tool may do more than was agreed to"


def _by_policy(ledger: Ledger, call: Call, line: ClearedCall) -> str:
    assert ledger.opened is not None
    assert call.judged is not None
    policy, tier = ledger.opened.policy, call.judged.tier
    if ledger.is_approved_by_edit(call):
        return ""
    if tier == "destructive" and not ledger.opened.task.dry_run:
        return "it is destructive, which only a person may let pass"
    if any(fnmatchcase(call.tool, pattern) for pattern in policy.ask):
        return f"the policy asks a person about every '{call.tool}'"
    if call.edited:
        return "a person had changed it and it must be shown again"
    if tier != "read" and ledger.opened.task.dry_run:
        return ""
    if policy.provenance and "untrusted-value" in call.judged.flags:
        return "a value of it comes from an untrusted source"
    if tier in {"read", "reversible"}:
        return ""
    if call.is_by_fallback:
        return "it is irreversible and a fallback model proposed it"
    if line.rule != "policy:clear" or not any(fnmatchcase(call.tool, pattern) for pattern in policy.clear):
        return "it is irreversible and no policy clears it"
    return ""


def passing_event(ledger: Ledger, call: Call) -> int:
    """Return the number of the event that let a call pass: of the approver, or its judgement; 0 if none did.

    The rule by which a judgement is enough is stated here once more, apart from the one that the fold applies.
    """
    opened, judged = ledger.opened, call.judged
    if call.gate_n or opened is None or judged is None:
        return call.gate_n
    held_back = (
        opened.gate_form == 0
        or judged.tier != "read"
        or call.grant is None
        or call.grant.kind == "wait"
        or call.edited
        or call.agreed is not None
        or any(fnmatchcase(call.tool, pattern) for pattern in opened.policy.ask)
        or (opened.policy.provenance and "untrusted-value" in judged.flags)
    )
    return 0 if held_back else call.judged_n


def check_asked(ledger: Ledger, event: Asked) -> Violations:
    """Check the questions that a person is shown."""
    for line in event.calls:
        call = ledger.calls.get(line.call)
        if call is None or call.judged is None or call.grant is None:
            yield "approval", f"It asks about call '{line.call}', which was never judged."
            continue
        shown = (line.tool, line.args_sha256, line.contract_digest)
        if shown != (call.tool, call.judged.args_sha256, call.grant.contract_digest):
            yield "approval", f"It asks about call '{line.call}' with another tool, contract or arguments than judged."
        if bool(line.wider) != (call.agreed is not None):
            yield (
                "approval",
                f"It does not state whether the tool of call '{line.call}' may do more than was agreed to.",
            )
        if ledger.opened and (line.quorum, line.deciders) != (
            ledger.opened.policy.quorum,
            ledger.opened.policy.deciders,
        ):
            yield "approval", f"It asks other people about call '{line.call}' than the policy names."

    if event.question is not None:
        call = ledger.calls.get(event.question.call)
        if call is None or call.grant is None or call.grant.kind != "wait":
            yield "approval", f"It asks a question for call '{event.question.call}', whose tool asks none."
    expiries = [*(line.expires_at for line in event.calls), *([event.spend.expires_at] if event.spend else [])]
    expires_max_s = clamp(ledger.limits).approval_expires_s
    if any((expires_at - event.at).total_seconds() > expires_max_s + CLOCK_SLACK_S for expires_at in expiries):
        yield "approval", f"It asks for longer than the run's limit of {expires_max_s} s."
    if event.spend and event.spend.limit_micros != ledger.limits.ask_from_micros:
        yield "approval", "It asks about spending with another limit than the run has."


def check_widened(ledger: Ledger, event: Widened) -> Violations:
    """Check a wider contract that a person must be asked about."""
    for line in event.calls:
        call = ledger.calls.get(line.call)
        if call is None or call.grant is None or call.judged is None or call.judged.verdict != "pass":
            yield "approval", f"It names a contract for call '{line.call}', which no judgement let pass."
        elif line.grant.name != call.tool or "wait" in {line.grant.kind, call.grant.kind}:
            yield "approval", f"It names the contract of another tool than call '{line.call}' has."
        elif any(start.open for start in call.starts):
            yield "approval", f"It names a contract for call '{line.call}', which has begun."
        elif not (call.agreed or call.grant).widened_by(line.grant):
            yield "approval", f"The contract that it names for call '{line.call}' allows no more than was agreed to."


def check_granted(ledger: Ledger, event: Granted) -> Violations:
    """Check a person's agreement."""
    if not event.call:
        yield from _check_spending(ledger, event)
        return
    call = ledger.calls.get(event.call)
    asked = call.asked if call else None
    if asked is None:
        yield "approval", f"It grants call '{event.call}', about which no person was asked."
        return
    yield from _check_grant(event, asked)


def _check_spending(ledger: Ledger, event: Granted) -> Violations:
    if ledger.spend_asked is None:
        yield "approval", "It grants spending, about which no person was asked."
    elif event.at >= ledger.spend_asked.expires_at:
        yield "approval", "It grants spending after the question had expired."
    yield from check_decider(ledger, event, "spending")


def check_denied(ledger: Ledger, event: Denied) -> Violations:
    """Check a denial: a timer denies only after the expiry, and a person only if the policy names that person."""
    call = ledger.calls.get(event.call)
    asked = call.asked if call else None
    if event.by != "timer":
        if asked is not None or not event.call:
            yield from check_decider(ledger, event, f"call '{event.call}'" if event.call else "spending")
        return
    open_until = asked.expires_at if asked else ledger.spend_asked.expires_at if ledger.spend_asked else None
    if open_until is not None and event.at < open_until:
        yield "approval", f"It denies call '{event.call}' as unanswered before the question had expired."


def check_decider(ledger: Ledger, event: Granted | Denied | Edited | Resolved, subject: str) -> Violations:
    """Whether the policy lets this person decide."""
    deciders = ledger.opened.policy.deciders if ledger.opened else ()
    if deciders and event.by not in deciders:
        yield "approval", f"'{event.by}' decides about {subject}, but only {', '.join(deciders)} may."


def _check_grant(event: Granted, asked: AskedCall) -> Violations:
    if event.args_sha256 != asked.args_sha256:
        yield "approval", f"It grants call '{event.call}' with other arguments than those asked about."
    if event.contract_digest != asked.contract_digest:
        yield "approval", f"It grants call '{event.call}' under another contract than the one asked about."
    if event.at >= asked.expires_at or (event.expires_at is not None and event.at >= event.expires_at):
        yield "approval", f"It grants call '{event.call}' after the question had expired."
    if asked.deciders and event.by not in asked.deciders:
        yield "approval", f"'{event.by}' grants call '{event.call}', but only {', '.join(asked.deciders)} may."
    if event.by in {"", "timer"}:
        yield "approval", f"The grant of call '{event.call}' names no person."


def _check_approving_edit(event: Edited, asked: AskedCall | None) -> Violations:
    if asked is None:
        yield "approval", f"It edits and approves call '{event.call}', about which no person was asked."
        return
    shown = (event.shown_sha256 or asked.args_sha256, event.contract_digest or asked.contract_digest)
    if shown != (asked.args_sha256, asked.contract_digest):
        yield (
            "approval",
            f"It edits call '{event.call}' with other arguments or another contract than the ones asked about.",
        )
    if event.at >= min(asked.expires_at, event.expires_at or asked.expires_at):
        yield "approval", f"It edits and approves call '{event.call}' after the question had expired."
    if event.by in {"", "timer", "unknown"}:
        yield "approval", f"The approved edit of call '{event.call}' names no person."


def check_edited(ledger: Ledger, event: Edited) -> Violations:
    """Check arguments that a person changed."""
    yield from check_decider(ledger, event, f"call '{event.call}'")
    call = ledger.calls.get(event.call)
    if call is not None and any(start.begun for start in call.effects):
        yield "approval", f"It edits call '{event.call}', which had begun with the former arguments."
    if event.approves:
        yield from _check_approving_edit(event, call.asked if call else None)
    if isinstance(event.args, str) and hashlib.sha256(event.args.encode()).hexdigest() != event.args_sha256:
        yield "approval", f"The digest of the changed arguments of call '{event.call}' is false."
