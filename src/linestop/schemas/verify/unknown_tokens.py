"""Which tokens of a run are not known."""

from __future__ import annotations

from linestop.schemas.events import Compacted, ModelFailedEvent, Proposed


def has_unreported_tokens(event: Proposed | ModelFailedEvent | Compacted) -> bool:
    """Whether the tokens of an answer are not known, so that they count as they were reserved."""
    match event:
        case Proposed():
            return event.usage_source == "reserved"
        case ModelFailedEvent():
            return event.possibly_billed and event.usage is None
        case Compacted():
            return event.usage.total == 0
