"""The outcome of a call, and the one form in which every model reads it, whatever its provider. Pure.

A model reads a JSON object: the ``status``; for an error its ``error_type``, whether a new try is ``retry_safe``, and a
``message``; for a success the ``result``. Between them stand the marks: that the text is untrusted, was cut, or comes
from a dry run. No provider's format can lose them, and no tool can forge them: its own text is a value in the object.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.schemas.json_values import JsonObject

Status = Literal["succeeded", "failed", "unknown", "rejected", "denied", "not_made"]
"""``failed``: the call gave no result. ``unknown``: it is unknown whether it took effect. ``rejected``: the validator
rejected it. ``denied``: no person agreed. ``not_made``: the run ended before."""

STRUCTURED: Final = 1
"""How results reach the model in a run: bare text in logs of versions before 0.2, else the form of this module."""

TOOK_EFFECT: Final = "The call took effect; do not make it again."
DRY_RUN: Final = "This is a dry run: nothing was done."
FROM_RECORD: Final = "This was done before and not made again; this is the result that it had."
EDITED: Final = "A person changed the arguments of this call to those shown."


class CallOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a call without its text, which is the result or the message of an error.

    ``error_type`` is the tool's own (``transient``, ``rate_limit``, ``invalid``, ``permanent``) or why linestop ended
    the call: ``unknown_tool``, ``limit``, ``loop``, ``repeated``, ``denied``, ``expired``, ``not_started``,
    ``timeout``, ``checks_failed``, ``stopped``. ``retry_safe``: a corrected or repeated call cannot repeat an effect
    and may pass. ``untrusted``: the text comes from outside. ``result_bytes`` is the full size of a text that was cut.
    ``findings`` are the defects of a result. ``is_json``: the text is a JSON value and is sent as one.
    """

    status: Status
    error_type: str = ""
    retry_safe: bool = False
    untrusted: bool = False
    result_bytes: int = 0
    dry_run: bool = False
    edited_by: str = ""
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: bool = False
    is_json: bool = False

    @property
    def is_error(self) -> bool:
        """Whether the call gave no usable result."""
        return self.status != "succeeded"


NOT_MADE: Final = CallOutcome(status="not_made", error_type="limit")


def outcome_json(outcome: CallOutcome, text: str) -> str:
    """Return the JSON object that a model receives as the outcome of its call."""
    fields: JsonObject = {"status": outcome.status}
    if outcome.is_error:
        fields |= {"error_type": outcome.error_type, "retry_safe": outcome.retry_safe}
    if outcome.dry_run:
        fields["dry_run"] = True
    if outcome.edited_by:
        fields["edited_by"] = outcome.edited_by
    if outcome.notes:
        fields["note"] = " ".join(outcome.notes)
    if outcome.findings:
        fields["findings"] = outcome.findings
    if outcome.result_bytes:
        fields |= {"truncated": True, "result_bytes": outcome.result_bytes}
    if outcome.untrusted:
        fields["untrusted"] = True
    key = "message" if outcome.is_error else "left_out" if outcome.left_out else "result"
    fields[key] = msgspec.Raw(text.encode()) if outcome.is_json else text
    return msgspec.json.encode(fields).decode()


def structured_outcome(outcome: CallOutcome, text: str, *, edited_by: str) -> CallOutcome:
    """Return the outcome with the marks that depend on ``text``, and the person who changed the call."""
    notes = (*outcome.notes, EDITED) if edited_by else outcome.notes
    is_json = not outcome.is_error and _is_json(text)
    return msgspec.structs.replace(outcome, edited_by=edited_by, notes=notes, is_json=is_json)


def omit_text(outcome: CallOutcome, size: int) -> tuple[str, CallOutcome]:
    """Return the replacement in a prompt for a text of ``size`` bytes that did not fit into it."""
    note = f"[Left out to fit the model's window: {size} bytes. Make the call again if they are needed.]"
    shortened = CallOutcome(
        status=outcome.status, error_type=outcome.error_type, retry_safe=outcome.retry_safe, left_out=True
    )
    return note, shortened


def bare_text(outcome: CallOutcome, text: str, *, edited_by: str) -> str:
    """Return the form that the model of an older run receives: the text, with the marks in brackets."""
    if outcome.findings:
        note = f"[{TOOK_EFFECT} But {'; '.join(outcome.findings)}]"
        text = f"{text}\n{note}" if text else note
    if edited_by:
        text = f"[A person ({edited_by}) changed the arguments of this call to those shown here.]\n{text}"
    return text


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
