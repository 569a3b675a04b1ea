"""The rule about how long a log may be: the last of a run's events belong to its end."""

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
from linestop.schemas.verify.holds_and_spending import Ledger
from linestop.schemas.verify.verdict import Rule

Violations = Iterator[tuple[Rule, str]]

NEW_WORK = (ModelStarted, EffectStarted, Held, Queued)
CLOSING_WORK = (Held, Queued)
ENDING_EVENTS = (Proposed, ModelFailedEvent, Compacted, Finished, Stopped, Settled, Sealed, Amended)
"""What happened, and what ends a run: however many starts were open, their fates have room."""


def check_event_limits(ledger: Ledger, n: int, event: AnyEvent) -> Violations:
    """What is wrong with an event so late in its run: work in the reserve, or anything but its end beyond the last."""
    events_max = clamp(ledger.limits).events_max
    closes = isinstance(event, CLOSING_WORK) or (isinstance(event, ModelStarted) and event.purpose == "close")
    last = events_max - EVENTS_RESERVED + (CLOSING_EVENTS if closes else 0)
    if isinstance(event, NEW_WORK) and n > last:
        yield "limit", f"It is new work in event {n}; from {last + 1} on a run of {events_max} only ends."
    elif n > events_max and not isinstance(event, (*NEW_WORK, *ENDING_EVENTS)):
        yield "limit", f"It is event {n} of at most {events_max}, and neither a fact nor what ends the run."
