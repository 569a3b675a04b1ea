"""The bodies of dead letters: what could not be handled, and why."""

from __future__ import annotations

from typing import Final

from linestop.bus.interfaces import Delivery
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RoleName
from linestop.schemas.tool_contracts import canonical

PAYLOAD_GROWTH_MAX: Final = 8
"""Most bytes that one character of a payload takes in a dead letter, with room for its other fields."""

REASON_CHARS_MAX: Final = 400


def truncated_reason(reason: str) -> str:
    """Return a decoder's or parser's message, cut for the middle of a sentence: it may repeat a very long input."""
    reason = reason.rstrip(".")
    return reason if len(reason) <= REASON_CHARS_MAX else reason[:REASON_CHARS_MAX] + "…"


def about_message(delivery: Delivery, reason: str) -> bytes:
    """Encode the dead letter of a message that could not be handled, with as much of its payload as fits."""
    payload = delivery.payload.decode(errors="replace")
    fields = {
        "reason": truncated_reason(reason),
        "subject": delivery.subject,
        "attempt": delivery.attempt,
        "seq": delivery.seq,
    }
    body = canonical({**fields, "payload": payload})
    if len(body) <= MESSAGE_BYTES_MAX:
        return body
    # Bytes and quotes grow when they are written as JSON text; a dead letter that is too long is never stored.
    cut = payload[: MESSAGE_BYTES_MAX // PAYLOAD_GROWTH_MAX]
    return canonical({**fields, "payload": cut, "bytes": len(delivery.payload)})


def about_run(role: RoleName, run: Run, reason: str) -> bytes:
    """Encode the dead letter about something that ``role`` could not handle in a run."""
    return canonical({"role": role, "run": run.run, "n": run.n, "reason": reason})
