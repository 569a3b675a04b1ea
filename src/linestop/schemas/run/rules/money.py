"""The rules of the fold about money: holds, what a waiting run gives back, and settlement. See ``fold``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linestop.schemas.defaults import CLOSING_EVENTS
from linestop.schemas.events import Held, Queued, Settled
from linestop.schemas.run.rules.opening_limits import NO_EVENTS_LEFT

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


def apply_held(run: RunState, event: Held) -> str:
    """``budget.held``: the run may spend more, within its own limit."""
    if event.hold in run.holds:
        return f"the hold '{event.hold}' exists already"
    if run.events_left + CLOSING_EVENTS < 0:
        return NO_EVENTS_LEFT
    if event.amount_micros < 0 or run.held_micros + event.amount_micros > run.limits.cost_max_micros:
        return "the run would hold more than its cost limit"
    run.holds[event.hold] = event
    run.holds_made += 1
    run.held_micros += event.amount_micros
    run.queued = None
    return ""


def apply_queued(run: RunState, event: Queued) -> str:
    """``budget.queued``: the run waits for money, and gives back the part of its hold that it has not spent."""
    if run.open_attempts:
        return "a start is still open"
    if run.events_left + CLOSING_EVENTS < 0:
        return NO_EVENTS_LEFT
    spent = {line.hold: line.spent_micros for line in event.holds}
    if {line.hold: max(line.spent_micros, line.spent_micros + line.released_micros) for line in event.holds} != {
        hold: max(entry.amount_micros, spent.get(hold, 0)) for hold, entry in run.holds.items()
    }:
        return "it does not give back exactly the open holds"
    held = sum(hold.amount_micros for hold in run.holds.values())
    # Older logs charged no more than was held.
    due = {run.unsettled_micros, min(run.unsettled_micros, held)}
    if any(line.spent_micros < 0 or line.released_micros < 0 for line in event.holds) or sum(spent.values()) not in due:
        return "it does not charge what the run has spent"
    run.holds.clear()
    run.settled_micros += sum(spent.values())
    run.held_micros = run.settled_micros
    run.queued = event
    return ""


def apply_settled(run: RunState, event: Settled) -> str:
    """``budget.settled``: the open holds are closed."""
    if run.open_attempts:
        return "a start is still open"
    if {hold.hold for hold in event.holds} != set(run.holds):
        return "it does not name exactly the open holds"
    run.holds.clear()
    return ""
