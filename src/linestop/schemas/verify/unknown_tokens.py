"""Which answers of a run did not report their tokens."""

from __future__ import annotations

from linestop.schemas.events import Compacted, ModelFailedEvent, Proposed


def has_unreported_tokens(event: Proposed | ModelFailedEvent | Compacted) -> bool:
    """Whether the tokens of an answer are unknown, so that the reserved number counts."""
    match event:
        case Proposed():
            return event.usage_source == "reserved"
        case ModelFailedEvent():
            return event.possibly_billed and event.usage is None
        case Compacted():
            return event.usage.total == 0
