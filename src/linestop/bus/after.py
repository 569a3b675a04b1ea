"""What goes out after an event was stored: outcomes and alerts. Pure; the shell publishes them."""

from __future__ import annotations

from typing import Any

import msgspec

from linestop.schemas.events import AnyEvent, Asked, Sealed, Stopped, Text, Warned
from linestop.schemas.run import Run
from linestop.schemas.subjects import NO_AGENT
from linestop.schemas.tools import canonical
from linestop.schemas.verify.checkpoint import Checkpoint


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


def alert(run: Run, event: AnyEvent) -> tuple[str, bytes] | None:
    """The alert an event gives rise to: kind and payload, or None."""
    match event:
        case Asked():
            return "approval-asked", _payload(run, event)
        case Stopped():
            return "stopped", _payload(run, event)
        case Warned():
            return "threshold", _payload(run, event)
        case _:
            return None


def _payload(run: Run, event: AnyEvent) -> bytes:
    return canonical(
        {"tenant": run.tenant, "run": run.run, "agent": agent_of(run), "event": msgspec.to_builtins(event)}
    )
