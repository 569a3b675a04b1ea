"""How long a run waits before it tries a model or a tool call again.

Every wait follows from the log alone: the jitter comes from a seed in it, not from chance, so every reader computes
the same moment.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from linestop.schemas.defaults import (
    MODEL_RETRY_DELAYS_S,
    NOT_BEGUN_DELAY_MAX_S,
    NOT_BEGUN_DELAY_S,
    QUEUE_RETRY_MAX_S,
    QUEUE_RETRY_MIN_S,
    RETRY_AFTER_MAX_S,
    RETRY_JITTER,
)
from linestop.schemas.run.call_states import Attempt, CallState, not_begun_in_a_row

if TYPE_CHECKING:
    from linestop.schemas.events import Finished
    from linestop.schemas.run.state import RunState


def retry_delay_s(seed: str, attempt: int, requested_s: float | None = None) -> float:
    """Return the wait before attempt ``attempt + 1``: the requested one, else 1, 2 or 4 s, a quarter either way.

    ``seed`` determines the jitter.
    """
    if requested_s is not None:
        return min(max(0.0, requested_s), RETRY_AFTER_MAX_S)
    return MODEL_RETRY_DELAYS_S[min(attempt, len(MODEL_RETRY_DELAYS_S)) - 1] * _jitter(seed, attempt)


def not_begun_delay_s(seed: str, attempt: int, in_a_row: int) -> float:
    """Return the wait after ``in_a_row`` attempts that did not begin; jitter as in ``retry_delay_s``."""
    base = min(NOT_BEGUN_DELAY_S * 2.0 ** min(in_a_row - 1, 10), NOT_BEGUN_DELAY_MAX_S)
    return base * _jitter(f"{seed}:not-begun", attempt)


def _jitter(seed: str, attempt: int) -> float:
    unit = int.from_bytes(hashlib.sha256(f"{seed}:{attempt}".encode()).digest()[:4], "big") / 0xFFFFFFFF
    return 1 - RETRY_JITTER + 2 * RETRY_JITTER * unit


def queue_retry_s(extra_tries: int) -> float:
    """Return the wait of a queued run after ``extra_tries`` requests beyond its usual retries."""
    doublings = min(max(extra_tries - 1, 0), 10)
    return min(QUEUE_RETRY_MIN_S * float(2**doublings), QUEUE_RETRY_MAX_S)


def model_retry_at(run: RunState, last: Attempt, tried: int, now: datetime) -> datetime:
    """Return when to try the same model again. A takeover need not wait; a failure waits from when it was recorded."""
    if last.failure is None:
        return now
    wait_s = retry_delay_s(f"{run.run}:{last.turn}", tried, last.failure.retry_after_s)
    return last.failure.at + timedelta(seconds=wait_s)


def call_retry_at(call: CallState, failed: Finished) -> datetime:
    """Return when a failed tool call may be tried again."""
    requested_s = failed.error.retry_after_s if failed.error else None
    return failed.at + timedelta(seconds=retry_delay_s(call.call, max(call.tries, 1), requested_s))


def not_begun_call_retry_at(call: CallState, at: datetime) -> datetime | None:
    """Return when a tool call whose last attempts did not begin may be tried again; None for at once."""
    in_a_row = not_begun_in_a_row(call.effects)
    if not in_a_row:
        return None
    return at + timedelta(seconds=not_begun_delay_s(call.call, len(call.effects), in_a_row))
