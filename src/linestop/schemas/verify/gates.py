"""The rules about gates (P5): what was asked, what a person agreed to, and what needed nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from linestop.schemas.events import (
    Asked,
    AskedCall,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    Granted,
)
from linestop.schemas.messages import Control, signed_bytes
from linestop.schemas.verify.checkpoint import TrustedKey
from linestop.schemas.verify.ledger import Call, Ledger
from linestop.schemas.verify.verdict import Level, Rule

Found = Iterator[tuple[Rule, str]]


def check_cleared(ledger: Ledger, event: Cleared) -> Found:
    """What is wrong with letting calls pass without a person."""
    for line in event.calls:
        call = ledger.calls.get(line.call)
        if call is None or call.judged is None or call.grant is None or call.judged.verdict != "pass":
            yield "approval", f"It clears call '{line.call}', which no judgement let pass."
        elif line.args_sha256 != call.judged.args_sha256:
            yield "approval", f"It clears call '{line.call}' with other arguments than those that were judged."
        elif sentence := _needs_person(ledger, call, line):
            yield "approval", f"It clears call '{line.call}' although {sentence}."


def _needs_person(ledger: Ledger, call: Call, line: ClearedCall) -> str:
    """Why a person had to be asked about a call, or nothing."""
    assert ledger.opened is not None
    assert call.judged is not None
    policy, tier = ledger.opened.policy, call.judged.tier
    if tier == "destructive":
        return "it is destructive, which only a person may let pass"
    if any(fnmatchcase(call.tool, pattern) for pattern in policy.ask):
        return f"the policy asks a person about every '{call.tool}'"
    if call.edited:
        return "a person had changed it and it must be shown again"
    if tier in {"read", "reversible"} or ledger.opened.task.dry_run:
        return ""
    if policy.provenance and "untrusted-value" in call.judged.flags:
        return "a value of it comes from an untrusted source"
    if line.rule != "policy:clear" or not any(fnmatchcase(call.tool, pattern) for pattern in policy.clear):
        return "it is irreversible and no policy clears it"
    return ""


def check_asked(ledger: Ledger, event: Asked) -> Found:
    """What is wrong with what a person is shown."""
    for line in event.calls:
        call = ledger.calls.get(line.call)
        if call is None or call.judged is None or call.grant is None:
            yield "approval", f"It asks about call '{line.call}', which nobody judged."
            continue
        shown = (line.tool, line.args_sha256, line.contract_digest)
        if shown != (call.tool, call.judged.args_sha256, call.grant.contract_digest):
            yield "approval", f"It asks about call '{line.call}' with another tool, contract or arguments than judged."
        if ledger.opened and (line.quorum, line.deciders) != (
            ledger.opened.policy.quorum,
            ledger.opened.policy.deciders,
        ):
            yield "approval", f"It asks other people about call '{line.call}' than the policy names."


def check_granted(ledger: Ledger, event: Granted) -> Found:
    """What is wrong with a person's agreement."""
    call = ledger.calls.get(event.call)
    asked = call.asked if call else None
    if asked is None:
        if event.call:
            yield "approval", f"It grants call '{event.call}', about which nobody was asked."
        return
    yield from _check_grant(event, asked)


def _check_grant(event: Granted, asked: AskedCall) -> Found:
    if event.args_sha256 != asked.args_sha256:
        yield "approval", f"It grants call '{event.call}' with other arguments than those asked about."
    if event.contract_digest != asked.contract_digest:
        yield "approval", f"It grants call '{event.call}' under another contract than the one asked about."
    if event.at >= asked.expires_at or (event.expires_at is not None and event.at >= event.expires_at):
        yield "approval", f"It grants call '{event.call}' after the question had expired."
    if asked.deciders and event.by not in asked.deciders:
        yield "approval", f"'{event.by}' grants call '{event.call}', but only {', '.join(asked.deciders)} may."
    if event.by in {"", "timer"}:
        yield "approval", f"Nobody grants call '{event.call}': a grant needs a person's name."


def check_edited(event: Edited) -> Found:
    """What is wrong with arguments that a person changed."""
    if isinstance(event.args, str) and hashlib.sha256(event.args.encode()).hexdigest() != event.args_sha256:
        yield "approval", f"The digest of the changed arguments of call '{event.call}' is false."


# --- signatures --------------------------------------------------------------------------------------------


def check_signature(
    ledger: Ledger, event: Granted | Denied, keys: Mapping[str, TrustedKey]
) -> Iterator[tuple[Level, Rule, str]]:
    """Whether the person who is said to have decided signed exactly this decision.

    Once any person's key is known, a grant without a valid signature of a known key is broken: leaving the
    signature out must not be the way around it.
    """
    if event.by == "timer":
        return
    people = any(key.purpose == "person" for key in keys.values())
    key = keys.get(event.key_id)
    if key is None or key.purpose != "person":
        if people:
            yield "broken", "approval", f"No known key signed the decision about call '{event.call}'."
        elif event.signature:
            yield "note", "approval", f"The key '{event.key_id}' is not known, so its signature was not checked."
        return
    if not _signed(ledger, event, key):
        yield "broken", "approval", f"The signature under the decision about call '{event.call}' is false."
    elif key.name != event.by:
        yield "broken", "approval", f"'{key.name}' signed what '{event.by}' is said to have decided."


def _signed(ledger: Ledger, event: Granted | Denied, key: TrustedKey) -> bool:
    """Whether the key signed this decision, with or without naming its expiry and its maker.

    A decision without an expiry of its own is recorded with that of the question, one without a name with the
    name of its key.
    """
    verb = "approve" if isinstance(event, Granted) else "deny"
    for expires_at in (event.expires_at, None):
        for by in (event.by, ""):
            control = Control(
                call=event.call, args_sha256=event.args_sha256, contract_digest=event.contract_digest,
                nonce=event.nonce, expires_at=expires_at, by=by,
            )  # fmt: skip
            if key.signed(signed_bytes(ledger.tenant, ledger.run, verb, control), event.signature):
                return True
    return False
