"""The limits that were fixed when a run opened; the fold checks every start against them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from linestop.schemas.defaults import CLOCK_SLACK_S, CLOSING_EVENTS, LIMITS_MAX, START_WITHIN_S, clamp
from linestop.schemas.events import ModelStarted, Opened
from linestop.schemas.run.starting.prompt_size import tokens_left

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState

NO_EVENTS_LEFT = "the run's remaining events are reserved for stop, results and seal"


def clamp_limits(event: Opened) -> Opened:
    """``event`` with durations that fit into the calendar: older logs may hold limits that no agent may have now."""
    limits, timeout_max_s = clamp(event.limits), LIMITS_MAX["tool_timeout_s"]
    if limits != event.limits:
        event = msgspec.structs.replace(event, limits=limits)
    if any(not tool.timeout_s <= timeout_max_s for tool in event.tools):
        tools = tuple(msgspec.structs.replace(t, timeout_s=min(timeout_max_s, t.timeout_s)) for t in event.tools)
        event = msgspec.structs.replace(event, tools=tools)
    return event


def limit_violation(run: RunState, event: ModelStarted) -> str:
    """Return how a model request would violate the limits that were fixed at the opening; empty if it does not."""
    opened = run.opened
    room = run.events_left + (CLOSING_EVENTS if event.purpose == "close" else 0)
    if opened is None or room < 0:
        return NO_EVENTS_LEFT
    spare = opened.fallbacks if opened.on_model_down == "fall_back" else ()
    choice = next((c for c in (opened.model, *spare) if c.is_requested_by(event)), None)
    if choice is None:
        where = f" at {event.base_url}" if event.base_url else ""
        return f"the run was not opened with the model '{event.model}'{where}"
    tokens = (event.input_tokens_max, event.output_tokens_max)
    if sum(tokens) > tokens_left(run):
        return "it may use more tokens than the run has left"
    if min(tokens) < 0 or event.cost_max_micros < choice.price.cost_max_micros(*tokens):
        return "it reserves less than a request of this size may cost"
    if event.purpose == "compact" and len(run.compactions) >= run.limits.compactions_max:
        return "the run was compacted as often as its limits allow"
    if lease_too_long(event.at, event.done_by, run.limits.model_deadline_s):
        return "it would stay open for longer than the run's limit 'model_deadline_s'"
    return ""


def lease_too_long(at: datetime, done_by: datetime, timeout_s: float) -> bool:
    """Whether a start would stay open for longer than it may take, and so could block the run's settlement."""
    return (done_by - at).total_seconds() > START_WITHIN_S + timeout_s + CLOCK_SLACK_S
