"""How a stop is written: by any role, by a person, by the shell for a defect; always with its receipt."""

from __future__ import annotations

from linestop.schemas.events import LimitHit, OpenStart, SealStatus, StopCode, Stopped
from linestop.schemas.run import Run

STATUS: dict[StopCode, SealStatus] = {
    "person": "stopped",
    "policy": "stopped",
    "squatted": "stopped",
    "budget": "over_budget",
    "expired": "expired",
    "denied": "denied",
    "handed_off": "handed_off",
    "limit": "failed",
    "loop": "failed",
    "deadline": "failed",
    "defect": "failed",
    "stuck": "failed",
    "model_down": "failed",
    "refusal": "failed",
    "unknown_effect": "failed",
}
"""How a run ends that was stopped with this code."""

CAUSE: dict[StopCode, str] = {
    "person": "person",
    "policy": "person",
    "squatted": "defect",
    "budget": "budget",
    "expired": "person",
    "denied": "person",
    "handed_off": "model",
    "limit": "validation",
    "loop": "validation",
    "deadline": "timeout",
    "defect": "defect",
    "stuck": "defect",
    "model_down": "model",
    "refusal": "model",
    "unknown_effect": "tool",
}
"""Which part of the system ended it: model, tool, validation, timeout, budget, person or defect."""


def receipt(run: Run) -> tuple[OpenStart, ...]:
    """The starts whose result is not known: what may still be on the wire when a stop is acknowledged."""
    return tuple(
        OpenStart(n=attempt.n, what=attempt.call or f"model:{attempt.model}", attempt=attempt.attempt)
        for attempt in run.open_attempts
    )


def stopped(run: Run, *, by: str, why: str, code: StopCode = "person", limit: LimitHit | None = None) -> Stopped:
    """A stop of ``run`` as it stands, listing what is open."""
    return Stopped(by=by, why=why, code=code, limit=limit, open=receipt(run))
