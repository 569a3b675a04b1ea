"""The outcomes and alerts that follow a stored event. Pure; the shell publishes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from linestop.bus.cloud_events import event_headers
from linestop.schemas.dollars import dollars
from linestop.schemas.events import (
    AnyEvent,
    Asked,
    Compacted,
    Finished,
    ModelFailedEvent,
    Proposed,
    Sealed,
    Stopped,
    Text,
    Warned,
)
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subjects import NO_AGENT, RoleName, TenantId
from linestop.schemas.tool_contracts import canonical
from linestop.schemas.trace_context import own_trace, run_trace
from linestop.schemas.verify.checkpoint_signature import Checkpoint

SYSTEM_TENANT: Final = TenantId("system")
"""The tenant in the subject of an alert that belongs to no run."""

EVENT_ALERT_KINDS: Final[tuple[str, ...]] = (
    "approval-asked",
    "stopped",
    "threshold",
    "wider-contract",
    "over-reservation",
)
"""The kinds of alerts that events of a run cause."""


def alert_kind(event: AnyEvent | None) -> str:
    """Return the kind of the alert that this event causes, empty if it causes none."""
    match event:
        case Asked():
            return "approval-asked"
        case Stopped():
            return "stopped"
        case Warned():
            return "threshold"
        case Finished() if event.error and event.error.widened:
            return "wider-contract"
        case _:
            return ""


class AlertMessage(msgspec.Struct, frozen=True):
    """An alert: the last token of its subject, its JSON, its headers."""

    kind: str
    payload: bytes
    headers: dict[str, str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The message about an ended run, published once on ``outcomes.<tenant>.<agent>.<run>``.

    ``user``, ``submitter`` and ``labels`` are the task's. ``model`` is the model of the last turn. ``answer_is`` is
    ``json`` if the agent has an output schema, else ``text``. An outcome of an older linestop has an empty
    ``answer_is``, and None for the times.
    """

    run: str
    tenant: str
    agent: str
    status: str
    cause: str = ""
    why: str = ""
    text: Text | None = msgspec.field(default=None, name="answer")
    partial: str = ""
    partial_is: str = ""
    """``summary`` (of the run's closing turn), ``results`` (a list of them) or ``words`` (the model's last text)."""

    answer_is: str = ""
    key: str = ""
    gave_key_back: bool = False
    """Whether the key may name another run, because nothing of this one had started; False in old outcomes."""

    user: str = ""
    submitter: str = ""
    labels: dict[str, str] = {}
    model: str = ""
    asked_at: datetime | None = None
    opened_at: datetime | None = None
    ended_at: datetime | None = None
    turns: int = 0
    calls: int = 0
    tokens: int = 0
    cost_micros: int = 0
    receipt: tuple[JsonObject, ...] = ()
    receipt_omits: int = 0
    n: int = 0
    head_sha256: str = ""
    checkpoint: Checkpoint | None = None
    """The recorder's signature over the run's log, if it has a key; ``linestop verify`` accepts it as proof."""


def agent_of(run: Run) -> str:
    """Return the agent in the subject of a run's outcome: the run's, else the requested one, else ``none``.

    A run that was stopped before it was opened has none, even if its task arrived before it was sealed.
    """
    if run.opened:
        return run.opened.agent.name
    asked = run.refused.agent if run.refused and run.refused.code != "stopped" else ""
    return asked or NO_AGENT


def encode_outcome(run: Run, sealed: Sealed, checkpoint: Checkpoint | None = None) -> bytes:
    """Encode the outcome of a sealed run as JSON."""
    totals, opened = sealed.totals, run.opened
    # The log of a refused task names its user and submitter, as far as they could be read.
    asked = opened.task if opened else run.refused.asked if run.refused else None
    answer_is = "" if sealed.answer is None else "json" if opened and opened.output_schema_digest else "text"
    return msgspec.json.encode(
        Outcome(
            run=run.run,
            tenant=run.tenant,
            agent=agent_of(run),
            status=sealed.status,
            cause=sealed.cause,
            why=sealed.why,
            text=sealed.answer,
            answer_is=answer_is,
            partial=sealed.partial,
            partial_is=sealed.partial_is,
            key=asked.key if asked else "",
            gave_key_back=run.has_released_key or run.stopped_beforehand,
            user=asked.user if asked else "",
            submitter=asked.submitter if asked else "",
            labels=asked.labels if asked else {},
            model=run.proposal.model if run.proposal else "",
            asked_at=asked.asked_at if asked else None,
            opened_at=run.opened_at if opened else None,
            ended_at=sealed.at,
            turns=totals.turns,
            calls=totals.calls,
            tokens=totals.tokens,
            cost_micros=totals.cost_micros,
            receipt=tuple(msgspec.to_builtins(fate) for fate in sealed.receipt),
            receipt_omits=sealed.receipt_omits,
            n=run.sealed_n,
            head_sha256=sealed.head_sha256,
            checkpoint=checkpoint,
        )
    )


def outcome_headers(run: Run, sealed: Sealed) -> dict[str, str]:
    """Build the headers of the run's outcome."""
    outcome_id = f"{run.tenant}/{run.run}/{run.sealed_n}"
    return event_headers(
        sealed.trace or run_trace(run).traceparent(),
        event_id=outcome_id,
        role="recorder",
        kind="outcome",
        subject=run.run,
        at=sealed.at,
    )


def alert_for_event(run: Run, entry: Entry) -> AlertMessage | None:
    """Build the alert that an event of the run causes, or return None.

    The alert and its message id contain the stored event. So publishing it again changes nothing, and no process can
    use the id before the event is known.
    """
    event = entry.event
    excess = _over_reservation(run, entry)
    kind = "over-reservation" if excess else alert_kind(event)
    if event is None or not kind or entry.ignored or _waits_for_service(run, event):
        return None
    alert_id = f"{run.tenant}/{run.run}/{entry.n}"
    headers = event_headers(
        event.trace or run_trace(run).traceparent(),
        event_id=alert_id,
        role=entry.role,
        kind=f"alert.{kind}",
        subject=run.run,
        at=event.at,
    )
    payload = _payload(run, entry.n, event=msgspec.to_builtins(event), **excess)
    return AlertMessage(kind, payload, {**headers, "Nats-Msg-Id": _digest(alert_id, payload)})


def _over_reservation(run: Run, entry: Entry) -> JsonObject:
    """Describe a provider's report of more usage than the limits of the request allow; empty if it reported less."""
    if not isinstance(entry.event, Proposed | ModelFailedEvent | Compacted):
        return {}
    attempt = next((attempt for attempt in run.ended_attempts.get(entry.n, []) if attempt.closed_n == entry.n), None)
    if attempt is None or attempt.charged_micros <= attempt.cost_max_micros:
        return {}
    where = f" at {attempt.base_url}" if attempt.base_url else ""
    why = (
        f"'{attempt.model}'{where} reported usage of {dollars(attempt.charged_micros)} for a call that could cost "
        f"{dollars(attempt.cost_max_micros)} by its limits: run and accounts are charged the reported usage, so the "
        "budget does not bound this model; check that it keeps to the output limit, and its price."
    )
    return {"model": attempt.model, "base_url": attempt.base_url, "why": why}


def _waits_for_service(run: Run, event: AnyEvent) -> bool:
    """Whether the question is a wait for an event, which a service reports and no person answers."""
    call = run.calls.get(event.question.call) if isinstance(event, Asked) and event.question else None
    return call is not None and call.tool == "wait.for_event"


def event_alerts(
    run: Run,
    *,
    since: datetime,
    kinds: frozenset[str] = frozenset(EVENT_ALERT_KINDS),
    asked_after: int | None = None,
) -> Iterator[AlertMessage]:
    """Yield the alerts of the run's events from ``since`` on, and of open questions after event ``asked_after``."""
    for entry in run.entries:
        if entry.event is None:
            continue
        is_still_open = asked_after is not None and entry.n > asked_after and _is_open_question(run, entry.event)
        if entry.event.at >= since or is_still_open:
            message = alert_for_event(run, entry)
            if message is not None and message.kind in kinds:
                yield message


def _is_open_question(run: Run, event: AnyEvent) -> bool:
    """Whether the event asks a person a question that is still open."""
    if not isinstance(event, Asked) or run.done:
        return False
    if event.spend is not None and run.spend_asked is event.spend:
        return True
    waiting = [call.asked for call in run.calls.values() if call.stage is Stage.ASKED]
    return any(line is each for line in (*event.calls, event.question) for each in waiting if each is not None)


def no_worker_alert(run: Run, role: RoleName, *, nonce: str) -> AlertMessage:
    """Build the alert that no worker has ``role``, with a run that waits for it.

    The process that knows the secret ``nonce`` publishes one for each tenant and role; no other can guess its id.
    """
    alert_id = f"no-worker/{run.tenant}/{role}"
    headers = _headers(run, alert_id=alert_id, kind="no-worker")
    return AlertMessage(
        "no-worker", _payload(run, run.n, role=role), {**headers, "Nats-Msg-Id": _digest(alert_id, nonce.encode())}
    )


def clock_off_alert(worker: str, role: RoleName, why: str, *, at: datetime) -> AlertMessage:
    """Build the alert that a worker decides nothing because its clock is wrong; it belongs to no run."""
    alert_id = f"clock-off/{worker}/{at.isoformat()}"
    trace = own_trace(SYSTEM_TENANT, worker).traceparent()
    headers = event_headers(trace, event_id=alert_id, role=role, kind="alert.clock-off", subject=worker, at=at)
    payload = canonical({"tenant": SYSTEM_TENANT, "worker": worker, "role": role, "why": why})
    return AlertMessage("clock-off", payload, {**headers, "Nats-Msg-Id": _digest(alert_id, payload)})


def space_alert(what: str, used_percent: int, why: str, *, at: datetime) -> AlertMessage:
    """Build the alert that a stream or a disk is nearly full; it belongs to no run, and all recorders use one id."""
    alert_id = f"space/{what}/{used_percent}"
    trace = own_trace(SYSTEM_TENANT, what).traceparent()
    headers = event_headers(trace, event_id=alert_id, role="recorder", kind="alert.space", subject=what, at=at)
    payload = canonical({"tenant": SYSTEM_TENANT, "what": what, "used_percent": used_percent, "why": why})
    return AlertMessage("space", payload, {**headers, "Nats-Msg-Id": _digest(alert_id, b"")})


def fold_failure_alert(run: Run) -> AlertMessage:
    """Build the alert that the fold of a run failed too often, so that no more events are appended to it."""
    payload = _payload(
        run, run.n, why=f"{len(run.fold_failures)} of its events cannot be folded: {run.fold_failures[-1].kind}"
    )
    alert_id = f"lost/{run.tenant}/{run.run}/{run.n}"
    headers = _headers(run, alert_id=alert_id, kind="lost")
    return AlertMessage("lost", payload, {**headers, "Nats-Msg-Id": _digest(alert_id, run.head.encode() + payload)})


def _headers(run: Run, *, alert_id: str, kind: str) -> dict[str, str]:
    """Build the headers of an alert about a run that none of its events causes."""
    trace = run_trace(run).traceparent()
    return event_headers(trace, event_id=alert_id, role="recorder", kind=f"alert.{kind}", subject=run.run, at=run.at)


def _digest(alert_id: str, rest: bytes) -> str:
    return hashlib.sha256(f"{alert_id}\0".encode() + rest).hexdigest()


def _payload(run: Run, n: int, **more: JsonValue) -> bytes:
    return canonical({"tenant": run.tenant, "run": run.run, "agent": agent_of(run), "n": n, **more})
