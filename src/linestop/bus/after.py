"""What goes out after an event was stored: outcomes and alerts. Pure; the shell publishes them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from linestop.bus.stamp import headers, traceparent
from linestop.schemas.events import Asked, Sealed, Stopped, Text, Warned
from linestop.schemas.run import Entry, Run
from linestop.schemas.subjects import NO_AGENT, RoleName
from linestop.schemas.tools import canonical
from linestop.schemas.verify.checkpoint import Checkpoint

KINDS: Final[dict[type, str]] = {Asked: "approval-asked", Stopped: "stopped", Warned: "threshold"}
"""The events that call a person, and the kind of the alert."""


class Alert(msgspec.Struct, frozen=True):
    """What calls a person: the last token of its subject, its JSON, its headers."""

    kind: str
    payload: bytes
    headers: dict[str, str]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a client gets when a run is over, published once on ``outcomes.<tenant>.<agent>.<run>``."""

    run: str
    tenant: str
    agent: str
    status: str
    cause: str = ""
    why: str = ""
    answer: Text | None = None
    partial: str = ""
    key: str = ""
    turns: int = 0
    calls: int = 0
    tokens: int = 0
    cost_micros: int = 0
    receipt: tuple[dict[str, Any], ...] = ()
    receipt_omits: int = 0
    n: int = 0
    head_sha256: str = ""
    checkpoint: Checkpoint | None = None
    """The recorder's signature over the run's log, where it has a key: what ``linestop verify`` takes as proof."""


def agent_of(run: Run) -> str:
    """The agent an outcome goes to: the run's, else the one that was asked for, else ``none``."""
    if run.opened:
        return run.opened.agent.name
    return run.refused.agent if run.refused and run.refused.agent else NO_AGENT


def outcome(run: Run, sealed: Sealed, checkpoint: Checkpoint | None = None) -> bytes:
    """The outcome of a sealed run as JSON."""
    totals = sealed.totals
    return msgspec.json.encode(
        Outcome(
            run=run.run, tenant=run.tenant, agent=agent_of(run), status=sealed.status, cause=sealed.cause,
            why=sealed.why, answer=sealed.answer, partial=sealed.partial,
            key=run.opened.task.key if run.opened else "", turns=totals.turns, calls=totals.calls,
            tokens=totals.tokens, cost_micros=totals.cost_micros,
            receipt=tuple(msgspec.to_builtins(fate) for fate in sealed.receipt),
            receipt_omits=sealed.receipt_omits, n=run.sealed_n, head_sha256=sealed.head_sha256,
            checkpoint=checkpoint,
        )
    )  # fmt: skip


def outcome_headers(run: Run, sealed: Sealed) -> dict[str, str]:
    """The headers of its outcome."""
    trace = traceparent(run.tenant, run.run, sealed.id)
    return headers(trace, ident=f"{run.tenant}/{run.run}/{run.sealed_n}", role="recorder", kind="outcome")


def alert(run: Run, entry: Entry) -> Alert | None:
    """The alert that an event of the run gives rise to, or None.

    It has the event as it is stored. Its message id is the event's place, so that saying it again changes nothing.
    """
    event = entry.event
    kind = KINDS.get(type(event))
    if event is None or kind is None or entry.ignored:
        return None
    trace, ident = traceparent(run.tenant, run.run, event.id), f"{run.tenant}/{run.run}/{entry.n}"
    named = headers(trace, ident=ident, role=entry.role, kind=f"alert.{kind}")
    return Alert(kind, _payload(run, entry.n, event=msgspec.to_builtins(event)), {**named, "Nats-Msg-Id": ident})


def alerts(run: Run, *, since: datetime, kinds: frozenset[str] = frozenset(KINDS.values())) -> Iterator[Alert]:
    """The alerts of all of a run's events since then."""
    for entry in run.entries:
        if entry.event is not None and entry.event.at >= since:
            found = alert(run, entry)
            if found is not None and found.kind in kinds:
                yield found


def no_worker(run: Run, role: RoleName) -> Alert:
    """The alert that nobody does the work of ``role``, with a run that waits for it; one a tenant and role."""
    ident = f"no-worker/{run.tenant}/{role}"
    named = headers(
        traceparent(run.tenant, run.run, f"{ident}/{run.n}"), ident=ident, role="recorder", kind="alert.no-worker"
    )
    return Alert("no-worker", _payload(run, run.n, role=role), {**named, "Nats-Msg-Id": ident})


def _payload(run: Run, n: int, **more: Any) -> bytes:  # noqa: ANN401 - any JSON
    return canonical({"tenant": run.tenant, "run": run.run, "agent": agent_of(run), "n": n, **more})
