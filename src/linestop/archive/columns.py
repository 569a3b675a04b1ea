"""The archive's tables, and their rows made from a folded run.

``events`` has one row for every message of the run log, in stream order, readable or not. ``runs`` and ``calls`` have
the state of each run and each call; they are derived from ``events``. Times are UTC without a zone, money is in
micro-dollars. A payload that is not an event, or not JSON, is stored unchanged in ``raw``.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Final

import msgspec

from linestop.bus.interfaces import StoredMessage
from linestop.errors import InputError
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
from linestop.schemas.subjects import parse_run_event

VERSION: Final = 1
"""The version of the tables below. A file of another version is set aside, and a new one is built from the log."""

TABLES: Final[dict[str, str]] = {
    "meta": "name VARCHAR PRIMARY KEY, value BIGINT NOT NULL",
    "events": (
        "seq BIGINT NOT NULL, tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, role VARCHAR NOT NULL, "
        "event VARCHAR NOT NULL, n BIGINT NOT NULL, said_at TIMESTAMP, cost_micros BIGINT NOT NULL, "
        "ignored VARCHAR NOT NULL, subject VARCHAR NOT NULL, payload JSON, raw BLOB"
    ),
    "runs": (
        "tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, status VARCHAR NOT NULL, phase VARCHAR NOT NULL, "
        "agent VARCHAR NOT NULL, agent_digest VARCHAR NOT NULL, model VARCHAR NOT NULL, user_id VARCHAR NOT NULL, "
        "key VARCHAR NOT NULL, thread VARCHAR NOT NULL, labels JSON NOT NULL, parent_run VARCHAR NOT NULL, "
        "dry_run BOOLEAN NOT NULL, opened_at TIMESTAMP, sealed_at TIMESTAMP, updated_at TIMESTAMP, "
        "cost_micros BIGINT NOT NULL, held_micros BIGINT NOT NULL, tokens BIGINT NOT NULL, turns BIGINT NOT NULL, "
        "calls BIGINT NOT NULL, events BIGINT NOT NULL, wait_s DOUBLE NOT NULL, cause VARCHAR NOT NULL, "
        "why VARCHAR NOT NULL, stopped_by VARCHAR NOT NULL, stop_code VARCHAR NOT NULL, task VARCHAR, answer VARCHAR, "
        "first_seq BIGINT NOT NULL, last_seq BIGINT NOT NULL, PRIMARY KEY (tenant, run)"
    ),
    "calls": (
        "tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, call VARCHAR NOT NULL, tool VARCHAR NOT NULL, "
        "tier VARCHAR NOT NULL, verdict VARCHAR NOT NULL, stage VARCHAR NOT NULL, fate VARCHAR NOT NULL, "
        "attempts BIGINT NOT NULL, effect_key VARCHAR NOT NULL, args VARCHAR, proposal_n BIGINT NOT NULL, "
        "gate_n BIGINT NOT NULL, cost_micros BIGINT NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP, "
        "duration_s DOUBLE, error_type VARCHAR NOT NULL, error VARCHAR NOT NULL, answer_is_error BOOLEAN NOT NULL, "
        "PRIMARY KEY (tenant, run, call)"
    ),
}
"""Every table and its columns."""

INTEGER_MAX: Final = 2**63 - 1

Value = str | int | float | bool | bytes | datetime | None
Row = tuple[Value, ...]


def event_row(message: StoredMessage, entry: Entry | None, *, ignored: str = "") -> Row:
    """Build the row of a message; ``entry`` is its fold entry, None if it has none (``ignored`` is the reason)."""
    subject_parts: tuple[str, str, str, str, int] = ("", "", "", "", 0)
    with contextlib.suppress(InputError):
        subject = parse_run_event(message.subject)
        subject_parts = (subject.tenant, subject.run, subject.role, subject.event, subject.n)
    event = entry.event if entry else None
    payload, raw = as_json_text(message.payload), None
    if payload is None or event is None:
        raw = message.payload
    at = _utc(event.at) if event else None
    why = entry.ignored if entry else ignored
    return (message.seq, *subject_parts, at, _cost(event), why, message.subject, payload, raw)


def clamp_integers(row: Row) -> Row:
    """Limit the integers of a row to a column's range: one absurd figure in a log must not block the other rows."""
    return tuple(min(max(v, -INTEGER_MAX), INTEGER_MAX) if isinstance(v, int) else v for v in row)


def as_json_text(payload: bytes) -> str | None:
    """Return the payload as JSON text, exactly as stored, or None if it is not JSON.

    The database accepts all JSON that msgspec accepts; the reverse is not true.
    """
    try:
        msgspec.json.decode(payload)
        return payload.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _cost(event: AnyEvent | None) -> int:
    """Return the cost that this event reports, in micro-dollars."""
    match event:
        case Proposed() | Compacted() | Finished():
            return event.cost_micros
        case ModelFailedEvent():
            return event.charged_micros
        case _:
            return 0


def run_row(run: Run) -> Row:
    """Build the row with the state of a run."""
    opened, sealed, stopped = run.opened, run.sealed, run.stopped
    task = opened.task if opened else None
    agent = opened.agent.name if opened else run.refused.agent if run.refused else ""
    why = sealed.why if sealed else stopped.why if stopped else run.refused.sentence if run.refused else ""
    return (
        run.tenant, run.run, sealed.status if sealed else "open", str(run.phase),
        agent, opened.agent.digest if opened else "", opened.model.model if opened else "", task.user if task else "",
        task.key if task else "", task.thread if task else "", _json(task.labels if task else {}),
        opened.parent.run if opened and opened.parent else "",
        task.dry_run if task else False, _utc(run.opened_at), _utc(sealed.at) if sealed else None, _utc(run.at),
        run.spent_micros, run.held_micros, run.tokens, run.turn,
        sum(1 for call in run.calls.values() if call.effects), run.n, run.wait_s, sealed.cause if sealed else "",
        why, stopped.by if stopped else "", stopped.code if stopped else "", _text(task.text if task else None),
        _text(sealed.answer if sealed else None), run.entries[0].seq if run.entries else 0, run.head_seq,
    )  # fmt: skip


def call_row(run: Run, call: CallState) -> Row:
    """Build the row with the state of a call."""
    judged, finished = call.judged, call.finished
    started = call.attempts[0].started_at if call.attempts else None
    last = last_result(run, call)
    error = last.error if last else None
    return (
        run.tenant, run.run, call.call, call.tool,
        judged.tier if judged else "", judged.verdict if judged else "", str(call.stage), call.fate,
        len(call.effects), judged.effect_key if judged else "", _text(judged.args if judged else call.raw_args),
        call.proposal_n, call.gate_n, sum(attempt.charged_micros for attempt in call.attempts),
        _utc(started) if started else None, _utc(last.at) if last else None,
        finished.duration_s if finished else last.duration_s if last else None,
        error.type if error else "", error.message if error else "", call.is_error,
    )  # fmt: skip


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


def _utc(moment: datetime) -> datetime | None:
    return None if moment == NEVER else moment.astimezone(UTC).replace(tzinfo=None)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(text: Text | None) -> str | None:
    return text if text is None or isinstance(text, str) else _json(text)
