"""Makes stops and receipts: for any role, for a person, and for the shell after a defect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from linestop.schemas.events import Fate, LimitHit, OpenStart, SealStatus, StopCode, Stopped
from linestop.schemas.run.state import RunState

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
"""The status of a run that was stopped with this code."""

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
"""The cause of the end: model, tool, validation, timeout, budget, person or defect."""


def open_starts(run: RunState) -> tuple[OpenStart, ...]:
    """Return the starts without a result: they may still be running when a stop is acknowledged."""
    return tuple(
        OpenStart(n=attempt.n, what=attempt.call or f"model:{attempt.model}", attempt=attempt.attempt)
        for attempt in run.open_attempts
    )


def stop_event(
    run: RunState, *, by: str, why: str, code: StopCode = "person", limit: LimitHit | None = None
) -> Stopped:
    """Return a stop of ``run`` in its present state, with its open starts."""
    return Stopped(by=by, why=why, code=code, limit=limit, open=open_starts(run))


RECEIPT_BYTES_MAX: Final = 48 * 1024
"""The size of a receipt in ``sealed`` and in the outcome: some 300 calls.

An answer of ``INLINE_BYTES_MAX`` must fit into the same message, and each of its bytes may take six as JSON.
"""

_FATE_ORDER: Final = ("unknown", "in doubt", "failed", "done", "answered", "never_started", "not_started")
"""The order in which a receipt that is too long keeps its lines: first those a person must check, last the unbegun."""


def receipt_bytes(fates: Iterable[Fate]) -> int:
    """Return the length of a list of receipt lines as JSON."""
    return sum(len(msgspec.json.encode(fate)) + 1 for fate in fates)


def fit_receipt(fates: Sequence[Fate]) -> tuple[Fate, ...]:
    """Return as many of ``fates`` as a receipt has room for, in their order; of equal weight the latest."""
    if receipt_bytes(fates) <= RECEIPT_BYTES_MAX:
        return tuple(fates)
    left = RECEIPT_BYTES_MAX
    included: set[int] = set()
    for index in sorted(range(len(fates)), key=lambda i: (_FATE_ORDER.index(fates[i].fate), -i)):
        left -= receipt_bytes((fates[index],))
        if left < 0:
            break
        included.add(index)
    return tuple(fate for index, fate in enumerate(fates) if index in included)
