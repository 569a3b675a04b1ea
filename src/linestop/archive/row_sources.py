"""The sources from which the archive's rows are made, and the values that take more than a line of ``columns``."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from linestop.bus.interfaces import StoredMessage
from linestop.schemas.events import (
    NEVER,
    AnyEvent,
    Compacted,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    Proposed,
    Text,
)
from linestop.schemas.run.call_states import CallState
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subjects import RunSubject

Value = str | int | float | bool | bytes | datetime | None


class EventSource(msgspec.Struct, frozen=True):
    """A message of the log; the parts of its subject, its payload as text and its event, None if it has none."""

    message: StoredMessage
    subject: RunSubject | None
    text: str | None
    event: AnyEvent | None
    ignored: str


class CallSource(msgspec.Struct, frozen=True):
    """A call, its run, and its last result that took effect."""

    run: Run
    call: CallState
    last: Finished | None


def event_source(
    message: StoredMessage, subject: RunSubject | None, entry: Entry | None, *, ignored: str = ""
) -> EventSource:
    """Prepare the row of a message; ``entry`` is its fold entry, None if it has none (``ignored`` is the reason)."""
    event = entry.event if entry else None
    text = _utf8(message.payload) if event is not None else as_json_text(message.payload)
    return EventSource(message, subject, text, event, entry.ignored if entry else ignored)


def call_source(run: Run, call: CallState) -> CallSource:
    """Prepare the row of a call."""
    return CallSource(run, call, last_result(run, call))


def as_json_text(payload: bytes) -> str | None:
    """Return the payload as JSON text, exactly as stored, or None if it is not JSON.

    The database accepts all JSON that msgspec accepts, decoded as an event or as anything; the reverse is not true.
    """
    try:
        msgspec.json.decode(payload)
        return payload.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def last_result(run: Run, call: CallState) -> Finished | None:
    """Return the last result of a call that took effect, also if it is an error; None if there is none."""
    for entry in reversed(run.entries):
        if isinstance(entry.event, Finished) and entry.event.call == call.call and not entry.ignored:
            return entry.event
    return None


def changed_calls(run: Run, since_seq: int) -> list[CallState]:
    """Return the calls that events after ``since_seq`` may have changed."""
    names: set[str] = set()
    for entry in reversed(run.entries):
        if entry.seq <= since_seq:
            break
        match entry.event:
            case Finished():
                names.add(entry.event.call)
            case EffectStarted():
                names.update(line.call for line in entry.event.calls)
            case None:
                continue
            case _:
                # Gates and judgements concern the present proposal; a seal or a stop changes no call.
                names.update(call.call for call in (run.proposal.calls if run.proposal else ()))
    return [run.calls[name] for name in sorted(names) if name in run.calls]


def cost_micros(event: AnyEvent | None) -> int:
    """Return the cost that this event reports, in micro-dollars."""
    match event:
        case Proposed() | Compacted() | Finished():
            return event.cost_micros
        case ModelFailedEvent():
            return event.charged_micros
        case _:
            return 0


def agent_name(run: Run) -> str:
    """Return the agent of a run, also of a refused one."""
    return run.opened.agent.name if run.opened else run.refused.agent if run.refused else ""


def parent_run(run: Run) -> str:
    """Return the run that started this one, empty if none did."""
    return run.opened.parent.run if run.opened and run.opened.parent else ""


def reason(run: Run) -> str:
    """Return why the run ended, as far as it is known."""
    if run.sealed:
        return run.sealed.why
    if run.stopped:
        return run.stopped.why
    return run.refused.sentence if run.refused else ""


def started_at(call: CallState) -> datetime | None:
    """Return when the first attempt of a call started."""
    started = call.attempts[0].started_at if call.attempts else None
    return utc(started) if started else None


def duration_s(of: CallSource) -> float | None:
    """Return how long the last attempt of a call took, as reported."""
    if of.call.finished:
        return of.call.finished.duration_s
    return of.last.duration_s if of.last else None


def utc(moment: datetime) -> datetime | None:
    """Return a time as the columns have it: in UTC, without a zone; None for never."""
    return None if moment == NEVER else moment.astimezone(UTC).replace(tzinfo=None)


def as_json(value: object) -> str:
    """Return a value as JSON text."""
    return msgspec.json.encode(value).decode()


def as_text(text: Text | None) -> str | None:
    """Return a text, or the reference to the blob that holds it as JSON."""
    return text if text is None or isinstance(text, str) else as_json(text)


def _utf8(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
