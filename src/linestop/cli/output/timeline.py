"""A run's events in words: one line each, for people. Pure."""

from __future__ import annotations

from collections import Counter
from typing import assert_never

from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.events import (
    Accepted,
    Amended,
    Answered,
    AnyEvent,
    Asked,
    AskedCall,
    Checked,
    Cleared,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Queued,
    Refused,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    Stopped,
    Text,
    Warned,
    Widened,
    text_or_size,
)
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry

TEXT_CHARS_MAX = 200
HANGING_INDENT = 17
"""The indentation of a continued line: below the role."""


class CallNames:
    """Names of the calls of a run for people: the tool, ``<tool>/2`` for the second call of a tool, and so on.

    A provider's id means nothing to people; it is used only if the run does not have the call.
    """

    def __init__(self, run: Run | None = None) -> None:
        counts: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        for call in run.calls.values() if run is not None else ():
            counts[call.tool] += 1
            ordinal = counts[call.tool]
            self._names[call.call] = call.tool if ordinal == 1 else f"{call.tool}/{ordinal}"

    def __call__(self, call: str, tool: str = "") -> str:
        """The name of the call with this id; ``tool`` is its name if the run does not have the call."""
        return self._names.get(call) or tool or call


def entry_line(entry: Entry, run: Run | None = None) -> str:
    """One line for one entry of ``run``: time, number, role and event, and its meaning."""
    at = f"{entry.event.at:%H:%M:%S.%f}"[:-3] if entry.event else " " * 12
    number = f"#{entry.n}" if entry.n else "void"
    role_and_event = f"{entry.role}.{entry.name}"
    if entry.ignored:
        return f"{at} {number:>5} {role_and_event:<20} IGNORED: {entry.ignored}"
    return (
        f"{at} {number:>5} {role_and_event:<20} {describe(entry.event, CallNames(run)) if entry.event else ''}".rstrip()
    )


def describe(event: AnyEvent, calls: CallNames) -> str:  # noqa: C901, PLR0912 - one arm an event
    """The meaning of an event in a few words."""
    match event:
        case Opened() | Refused() | Judged() | Checked() | Accepted() | Returned():
            return _describe_validator_event(event, calls)
        case Cleared() | Asked() | Granted() | Denied() | Edited() | Answered() | Resolved():
            return _describe_approver_event(event, calls)
        case Paused() | Resumed():
            return f"by {event.by}" + (f": {event.why}" if event.why else "")
        case Held():
            return f"may spend {rounded_dollars(event.amount_micros)} ({event.hold})"
        case Queued():
            return f"waits for money: {event.why}"
        case Settled():
            return f"spent {rounded_dollars(sum(hold.spent_micros for hold in event.holds))}"
        case Warned():
            return f"{event.limit}: {event.value} of {event.max_value}"
        case ModelStarted():
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            purpose = f", {event.purpose}" if event.purpose != "turn" else ""
            return f"asks {event.model} (turn {event.turn}{again}{purpose})"
        case Proposed():
            calls_text = ", ".join(f"{calls(call.call, call.tool)}({_short(call.args)})" for call in event.calls)
            return "; ".join(text for text in (_short(event.text), calls_text) if text)
        case ModelFailedEvent():
            return f"{event.kind}: {_short(event.message)}"
        case Compacted():
            return f"events {event.covers_from} to {event.covers_to} in {len(event.summary)} characters"
        case EffectStarted():
            probe = " (asks for the outcome)" if event.purpose == "probe" else ""
            return ", ".join(f"{calls(c.call)} #{c.attempt}" for c in event.calls) + f" by {event.worker}{probe}"
        case Finished():
            message = event.error.message if event.error else event.result
            whole_result = (
                f" (whole: {event.result_bytes} bytes, blob {event.result_ref.sha256})" if event.result_ref else ""
            )
            findings = f" (but {_short('; '.join(event.findings))})" if event.findings else ""
            attempt = f" #{event.attempt}" if event.attempt else ""
            return f"{calls(event.call)}{attempt} {event.outcome}: {_short(message)}{whole_result}{findings}"
        case Widened():
            names = ", ".join(calls(call.call, call.grant.name) for call in event.calls)
            return f"{names} may do more now than was approved; a person must approve"
        case Stopped():
            return f"by {event.by} ({event.code}): {event.why.removesuffix('.')}; {len(event.open)} open"
        case Sealed():
            # The event before has the reason.
            return event.status + (f": {event.why}" if event.why and event.status != "refused" else "")
        case Amended():
            return f"late results: {', '.join(str(n) for n in event.facts)}"
        case _:
            assert_never(event)


def _describe_validator_event(
    event: Opened | Refused | Judged | Checked | Accepted | Returned, calls: CallNames
) -> str:
    match event:
        case Opened():
            return f"{event.agent.name} on {event.model.model}: {_short(event.task.text)}"
        case Refused():
            return f"{event.code}: {event.sentence}"
        case Judged():
            return ", ".join(
                f"{calls(call.call, call.tool)} {call.verdict}"
                + (f" ({'; '.join(call.errors)})" if call.errors else "")
                for call in event.calls
            )
        case Checked():
            return f"event {event.finished_n} {event.verdict}" + "".join(f"; {found}" for found in event.findings)
        case Accepted():
            return _short(event.answer)
        case Returned():
            return "; ".join(event.errors)
        case _:
            assert_never(event)


def _describe_approver_event(
    event: Cleared | Asked | Granted | Denied | Edited | Answered | Resolved, calls: CallNames
) -> str:
    match event:
        case Cleared():
            return ", ".join(f"{calls(call.call)} ({call.rule})" for call in event.calls)
        case Asked():
            parts = [f"{_question_text(call, calls)} ({call.rule})" for call in event.calls]
            if event.question:
                parts.append(f"{event.question.text} ({calls(event.question.call)})")
            if event.spend:
                parts.append(f"may it spend more than {rounded_dollars(event.spend.limit_micros)}?")
            return ", ".join(parts)
        case Granted() | Denied():
            what = calls(event.call) if event.call else "spending"
            return f"{what} by {event.by}" + (f": {event.why}" if event.why else "")
        case Edited():
            return f"{calls(event.call)} by {event.by}: {_short(event.args)}"
        case Answered():
            return f"{calls(event.call)} by {event.by}: {_short(event.answer)}"
        case Resolved():
            return f"{calls(event.call)} by {event.by}: {event.action}" + (f", {event.why}" if event.why else "")
        case _:
            assert_never(event)


def _question_text(call: AskedCall, calls: CallNames) -> str:
    name = calls(call.call, call.tool)
    if call.wider and call.rule != "unknown":
        return f"may {name} be done? {call.wider}"
    return f"what is the outcome of {name}?" if call.rule == "unknown" else f"may {name} be done?"


def _short(text: Text) -> str:
    shown = text_or_size(text)
    return shown if len(shown) <= TEXT_CHARS_MAX else shown[: TEXT_CHARS_MAX - 1] + "…"
