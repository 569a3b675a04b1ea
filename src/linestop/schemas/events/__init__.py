"""Every event of a run, one frozen struct each, grouped by the role that appends it.

The subject (``runs.<tenant>.<run>.<role>.<event>.<n>``) carries tenant, run, role, event name and number; the payload
never repeats them, so a payload cannot claim another role. The pair (role, event) is the contract, the class name is
not: ``EVENTS`` maps one to the other.

Money is in integer micro-dollars (``_micros``), durations in seconds, digests SHA-256 hex. Unknown fields
are ignored on reading; a field whose meaning changes gets a new event name instead. ``Text`` may be a reference to a
blob; a field that a decision reads may not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from linestop.schemas.events.approver import (
    Answered,
    Asked,
    AskedCall,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    Granted,
    Paused,
    Question,
    Resolved,
    Resumed,
    SpendQuestion,
)
from linestop.schemas.events.budget import (
    AccountLine,
    CostLine,
    Held,
    Queued,
    Settled,
    SettledHold,
    Warned,
)
from linestop.schemas.events.envelope import (
    NEVER,
    BlobRef,
    Cue,
    Event,
    Moment,
    Text,
    text_or_size,
)
from linestop.schemas.events.executor import (
    EffectStarted,
    Finished,
    StartedCall,
    Widened,
    WidenedCall,
)
from linestop.schemas.events.planner import (
    Compacted,
    ExactValue,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    ProposedCall,
)
from linestop.schemas.events.recorder import (
    Amended,
    Fate,
    Sealed,
    SealStatus,
    Totals,
)
from linestop.schemas.events.stopped import (
    LimitHit,
    OpenStart,
    StopCode,
    StopMode,
    Stopped,
)
from linestop.schemas.events.validator import (
    Accepted,
    AgentRef,
    AskedFor,
    Checked,
    Judged,
    JudgedCall,
    ModelChoice,
    Opened,
    Parent,
    Policy,
    Provenance,
    Refused,
    RequestsModel,
    Returned,
    TaskFacts,
    ToolGrant,
)
from linestop.schemas.subjects import RoleName

AnyEvent = (
    Opened
    | Refused
    | Judged
    | Checked
    | Accepted
    | Returned
    | Cleared
    | Asked
    | Granted
    | Denied
    | Edited
    | Answered
    | Resolved
    | Paused
    | Resumed
    | Held
    | Queued
    | Settled
    | Warned
    | ModelStarted
    | Proposed
    | ModelFailedEvent
    | Compacted
    | EffectStarted
    | Finished
    | Widened
    | Stopped
    | Sealed
    | Amended
)
"""All events, for exhaustive ``match``."""

EVENTS: dict[tuple[str, str], type[AnyEvent]] = {
    ("validator", "opened"): Opened,
    ("validator", "refused"): Refused,
    ("validator", "judged"): Judged,
    ("validator", "checked"): Checked,
    ("validator", "accepted"): Accepted,
    ("validator", "returned"): Returned,
    ("approver", "cleared"): Cleared,
    ("approver", "asked"): Asked,
    ("approver", "granted"): Granted,
    ("approver", "denied"): Denied,
    ("approver", "edited"): Edited,
    ("approver", "answered"): Answered,
    ("approver", "resolved"): Resolved,
    ("approver", "paused"): Paused,
    ("approver", "resumed"): Resumed,
    ("budget", "held"): Held,
    ("budget", "queued"): Queued,
    ("budget", "settled"): Settled,
    ("budget", "warned"): Warned,
    ("planner", "started"): ModelStarted,
    ("planner", "proposed"): Proposed,
    ("planner", "failed"): ModelFailedEvent,
    ("planner", "compacted"): Compacted,
    ("executor", "started"): EffectStarted,
    ("executor", "finished"): Finished,
    ("executor", "widened"): Widened,
    ("recorder", "sealed"): Sealed,
    ("recorder", "amended"): Amended,
}
"""(role, event name) → struct. Every role may append ``stopped``, so it is not listed for each role."""

EVENT_NAMES: dict[type[AnyEvent], str] = {struct: name for (_, name), struct in EVENTS.items()} | {Stopped: "stopped"}
_KNOWN_NAMES = frozenset(EVENT_NAMES.values())
_DECODERS: dict[tuple[str, str], msgspec.json.Decoder[Any]] = {
    key: msgspec.json.Decoder(struct) for key, struct in EVENTS.items()
}
_STOPPED = msgspec.json.Decoder(Stopped)
_ENCODER = msgspec.json.Encoder()


class Envelope(msgspec.Struct, frozen=True):
    """The two fields on which chain validity rests, read without the rest of the payload."""

    id: str
    prev: str


_ENVELOPE = msgspec.json.Decoder(Envelope)


def is_known(role: RoleName, event: str) -> bool:
    """Whether this build knows the event (role, event)."""
    return event == "stopped" or (role, event) in EVENTS


def belongs_to_another_role(role: RoleName, event: str) -> bool:
    """Whether the event is known but belongs to another role: a forgery, not an event of a later version."""
    return not is_known(role, event) and event in _KNOWN_NAMES


def encode(event: AnyEvent) -> bytes:
    """Return the payload as it is stored and hashed."""
    return _ENCODER.encode(event)


def decode(role: RoleName, event: str, payload: bytes) -> AnyEvent:
    """Read an event's payload.

    Raises:
        msgspec.DecodeError: not JSON, or fields of the wrong type (``msgspec.ValidationError``).
        RecursionError: nested more deeply than the parser can read.
        KeyError: a tag this build does not know.
    """
    decoder = _STOPPED if event == "stopped" else _DECODERS[role, event]
    decoded: AnyEvent = decoder.decode(payload)
    return decoded


def decode_envelope(payload: bytes) -> Envelope:
    """Read only ``id`` and ``prev``; raises as ``decode`` does."""
    return _ENVELOPE.decode(payload)


__all__ = [
    "EVENTS",
    "EVENT_NAMES",
    "NEVER",
    "Accepted",
    "AccountLine",
    "AgentRef",
    "Amended",
    "Answered",
    "AnyEvent",
    "Asked",
    "AskedCall",
    "AskedFor",
    "BlobRef",
    "Checked",
    "Cleared",
    "ClearedCall",
    "Compacted",
    "CostLine",
    "Cue",
    "Denied",
    "Edited",
    "EffectStarted",
    "Envelope",
    "Event",
    "ExactValue",
    "Fate",
    "Finished",
    "Granted",
    "Held",
    "Judged",
    "JudgedCall",
    "LimitHit",
    "ModelChoice",
    "ModelFailedEvent",
    "ModelStarted",
    "Moment",
    "OpenStart",
    "Opened",
    "Parent",
    "Paused",
    "Policy",
    "Proposed",
    "ProposedCall",
    "Provenance",
    "Question",
    "Queued",
    "Refused",
    "RequestsModel",
    "Resolved",
    "Resumed",
    "Returned",
    "SealStatus",
    "Sealed",
    "Settled",
    "SettledHold",
    "SpendQuestion",
    "StartedCall",
    "StopCode",
    "StopMode",
    "Stopped",
    "TaskFacts",
    "Text",
    "ToolGrant",
    "Totals",
    "Warned",
    "Widened",
    "WidenedCall",
    "decode",
    "decode_envelope",
    "encode",
    "is_known",
    "text_or_size",
]
