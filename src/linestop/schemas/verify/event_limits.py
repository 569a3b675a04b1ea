"""The rule about the length of a log: the last of a run's events are reserved for its end."""

from __future__ import annotations

from collections.abc import Iterator

from linestop.schemas.defaults import CLOSING_EVENTS, EVENTS_RESERVED, clamp
from linestop.schemas.events import (
    Amended,
    AnyEvent,
    Compacted,
    EffectStarted,
    Finished,
    Held,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    Queued,
    Sealed,
    Settled,
    Stopped,
)
from linestop.schemas.verify.checker_state import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]

NEW_WORK = (ModelStarted, EffectStarted, Held, Queued)
CLOSING_WORK = (Held, Queued)
ENDING_EVENTS = (Proposed, ModelFailedEvent, Compacted, Finished, Stopped, Settled, Sealed, Amended)
"""Results, and the events that end a run: however many starts were open, there is room for their outcomes."""


def check_event_limits(ledger: Ledger, n: int, event: AnyEvent) -> Violations:
    """Check an event near the end of a run: no new work in the reserve, and past the limit only events of the end."""
    events_max = clamp(ledger.limits).events_max
    closes = isinstance(event, CLOSING_WORK) or (isinstance(event, ModelStarted) and event.purpose == "close")
    last = events_max - EVENTS_RESERVED + (CLOSING_EVENTS if closes else 0)
    if isinstance(event, NEW_WORK) and n > last:
        yield "limit", f"It is new work in event {n}; from {last + 1} on a run of {events_max} events accepts none."
    elif n > events_max and not isinstance(event, (*NEW_WORK, *ENDING_EVENTS)):
        yield "limit", f"It is event {n} of at most {events_max}, and neither a result nor an event that ends the run."
