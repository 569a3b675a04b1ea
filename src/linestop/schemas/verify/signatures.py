"""Checks that the people who decided signed exactly the decisions in the log (P5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from linestop.schemas.events import Answered, BlobRef, Denied, Edited, Granted, Resolved, Text
from linestop.schemas.json_values import JsonObject
from linestop.schemas.messages import Control, Verb, signed_bytes
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.checkpoint_signature import TrustedKey
from linestop.schemas.verify.verdict import Level, Rule

Decision = Granted | Denied | Edited | Answered | Resolved
Violations = Iterator[tuple[Level, Rule, str]]


def check_signature(ledger: Ledger, event: Decision, keys: Mapping[str, TrustedKey]) -> Violations:
    """Check the signature of a person's decision.

    Once any person's key is known, a decision without a valid signature of a known key is broken: omitting the
    signature must not bypass the check. An answer needs no signature, since services answer too; an unsigned answer is
    only noted if it claims to come from a person who has a key.
    """
    if isinstance(event, Denied) and event.by == "timer":
        return
    subject = f"call '{event.call}'" if event.call else "spending"
    if event.signature and event.signature in ledger.signatures:
        first = ledger.signatures[event.signature]
        yield "broken", "approval", f"The signature about {subject} is that of event {first}: a decision counts once."
    key = keys.get(event.key_id)
    if key is None or key.purpose != "person":
        yield from _check_unsigned(event, subject, keys)
        return
    controls = _possible_controls(ledger, event)
    if not controls:
        yield "note", "approval", f"The signed text about {subject} was not supplied, so its signature was not checked."
    elif not any(_is_signed(ledger, event, key, control) for control in controls):
        yield "broken", "approval", f"The signature under the decision about {subject} is false."
    elif key.name != event.by:
        yield "broken", "approval", f"'{key.name}' signed a decision that the log attributes to '{event.by}'."


def _check_unsigned(event: Decision, subject: str, keys: Mapping[str, TrustedKey]) -> Violations:
    people = {key.name for key in keys.values() if key.purpose == "person"}
    if isinstance(event, Answered) and not event.signature:
        if event.by in people:
            yield (
                "note",
                "approval",
                f"'{event.by}' did not sign the answer to {subject}: any service may have sent it.",
            )
    elif people:
        yield "broken", "approval", f"No known key signed the decision about {subject}."
    elif event.signature:
        yield "note", "approval", f"The key '{event.key_id}' is not known, so its signature was not checked."


_VERBS: dict[type[Decision], Verb] = {
    Granted: "approve",
    Denied: "deny",
    Edited: "edit",
    Answered: "answer",
    Resolved: "resolve",
}


def _is_signed(ledger: Ledger, event: Decision, key: TrustedKey, control: Control) -> bool:
    return key.has_signed(signed_bytes(ledger.tenant, ledger.run, _VERBS[type(event)], control), event.signature)


def _possible_controls(ledger: Ledger, event: Decision) -> list[Control]:
    """Return the control messages that the person may have signed; none if a text of the message was not supplied.

    A control message without a name is recorded with the name of its key. A grant or denial without its own expiry is
    recorded with that of the question. A text may have been sent as text, or be the JSON of another value.
    """
    expiries: tuple[datetime | None, ...] = (event.expires_at,)
    contents: list[JsonObject] = [{}]
    match event:
        case Granted() | Denied():
            asked = ledger.calls[event.call].asked if event.call in ledger.calls else None
            of_question = asked is not None and event.expires_at == asked.expires_at
            shown, expiries = event.args_sha256, (event.expires_at, None) if of_question else (event.expires_at,)
        case Edited():
            shown, contents = (
                event.shown_sha256,
                [{"args": value} for value in _possible_values(ledger, event.args)[-1:]],
            )
        case Answered():
            shown, contents = (
                event.shown_sha256,
                [{"answer": value} for value in _possible_values(ledger, event.answer)],
            )
        case Resolved():
            shown = event.shown_sha256
            results = _possible_values(ledger, event.result)[-1:] if event.result else [None]
            contents = [{"action": event.action, "result": value} for value in results]
    return [
        Control(
            call=event.call,
            args_sha256=shown,
            contract_digest=event.contract_digest,
            nonce=event.nonce,
            expires_at=expires_at,
            by=by,
            **content,
        )
        for content in contents
        for expires_at in expiries
        for by in (event.by, "")
    ]


def _possible_values(ledger: Ledger, text: Text) -> list[Any]:
    """Return the text, and the JSON value that it may be; nothing if its blob was not supplied."""
    data = ledger.bytes_of(text)
    if data is None:
        return []
    try:
        decoded = data.decode()
        return [decoded, msgspec.json.decode(data)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return [text if not isinstance(text, BlobRef) else data.decode(errors="replace")]
