"""One event as one line of the live log: its meaning in words. Pure."""

from __future__ import annotations

from linestop.cli.output.wording import counted
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.events import (
    Accepted,
    AnyEvent,
    Asked,
    Cleared,
    Denied,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Proposed,
    Sealed,
    Settled,
    Stopped,
    text_or_size,
)
from linestop.schemas.run.fold import Run


def describe(event: AnyEvent, run: Run) -> str:
    """The meaning of the event, without its role and name; empty for events whose name says everything."""
    match event:
        case Opened() | Held() | Settled() | Sealed():
            return _describe_run_event(event)
        case Proposed() | ModelStarted() | ModelFailedEvent() | Accepted():
            return _describe_model_event(event)
        case Judged():
            return ", ".join(f"{c.tool}: {c.verdict}" for c in event.calls)
        case Cleared():
            return ", ".join(f"{_tool(run, c.call)} ({c.rule})" for c in event.calls)
        case Asked():
            return "; ".join(f"{c.tool} needs a person ({c.rule})" for c in event.calls)
        case Granted() | Denied():
            return f"{_tool(run, event.call)}, by {event.by}"
        case EffectStarted():
            return f"{', '.join(f'{_tool(run, c.call)} #{c.attempt}' for c in event.calls)} by {event.worker}"
        case Finished():
            result = event.result if event.outcome == "succeeded" else event.error.message if event.error else ""
            return f"{_tool(run, event.call)} #{event.attempt} {event.outcome}: {result}"
        case Stopped():
            return f"{event.code}, by {event.by}: {event.why}"
        case _:
            return ""


def _describe_run_event(event: Opened | Held | Settled | Sealed) -> str:
    match event:
        case Opened():
            return f'"{text_or_size(event.task.text)}"'
        case Held():
            return f"may spend {rounded_dollars(event.amount_micros)} more"
        case Settled():
            return f"spent {rounded_dollars(sum(hold.spent_micros for hold in event.holds))}, the rest is given back"
        case Sealed():
            totals = event.totals
            counts = (counted(totals.turns, "turn"), counted(totals.calls, "call"), counted(totals.tokens, "token"))
            return f"{event.status}; {', '.join(counts)}"


def _describe_model_event(event: Proposed | ModelStarted | ModelFailedEvent | Accepted) -> str:
    match event:
        case Proposed() if event.calls:
            return ", ".join(f"{call.tool} {text_or_size(call.args)}" for call in event.calls)
        case Proposed():
            return f'"{text_or_size(event.text)}"'
        case ModelStarted():
            return f"{event.model}, turn {event.turn}, at most {rounded_dollars(event.cost_max_micros)}"
        case ModelFailedEvent():
            return f"{event.kind}: {event.message}"
        case Accepted():
            return "the answer stands"


def _tool(run: Run, call: str) -> str:
    return run.calls[call].tool if call in run.calls else call
