"""Which model is requested next, and when: retry, fall back, queue, or give up. From the log alone.

A turn begins with the run's own model, or with the fallback that answered last while a model before it is known to be
down. From there each model is requested with its retries, in the agent's order and around, so that none is left out.
If a model asks for a longer wait than ``model_wait_max_s``, or than the run has left, the run does not wait for it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from linestop.schemas.defaults import FALLBACK_FIRST_S, RETRY_AFTER_MAX_S
from linestop.schemas.events import ModelChoice, ModelFailedEvent, Opened, RequestsModel
from linestop.schemas.run.call_states import Attempt, count_tries
from linestop.schemas.run.phases import Phase

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


class NextModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model to request, from when on, and which one it replaces."""

    at: datetime
    model: ModelChoice
    fallback_of: str = ""


def models_of(opened: Opened) -> tuple[ModelChoice, ...]:
    """Return the models that the run may request: its own, then its fallbacks."""
    return (opened.model, *(opened.fallbacks if opened.on_model_down == "fall_back" else ()))


def down_until(at: datetime, failure: ModelFailedEvent) -> datetime:
    """Return until when a model that failed at that moment is not tried first."""
    requested_s = min(max(failure.retry_after_s or 0.0, 0.0), RETRY_AFTER_MAX_S)
    return at + timedelta(seconds=max(FALLBACK_FIRST_S, requested_s))


def first_model(run: RunState, now: datetime) -> NextModel | None:
    """Return the model that a new turn begins with."""
    if run.opened is None:
        return None
    models = models_of(run.opened)
    last = next((i for i, model in enumerate(models) if run.proposal and model.is_requested_by(run.proposal)), 0)
    down = any(now < run.down_until.get((model.model, model.base_url), now) for model in models[:last])
    place = last if down else 0
    return NextModel(at=now, model=models[place], fallback_of=models[place - 1].model if place else "")


def tries_of_model(attempts: list[Attempt], model: RequestsModel) -> int:
    """Return how many of a turn's attempts requested the same model as ``model``, without completed summaries."""
    same = [attempt for attempt in attempts if (attempt.model, attempt.base_url) == (model.model, model.base_url)]
    return count_tries([attempt for attempt in same if attempt.outcome != "compacted"])


def has_no_try_left(run: RunState, attempts: list[Attempt]) -> bool:
    """Whether the model that has just failed is not tried again: no retry is left, or it asks for too long a wait."""
    return tries_of_model(attempts, attempts[-1]) > run.limits.model_retries_max or _wait_is_too_long(run, attempts[-1])


def requested_wait_s(attempt: Attempt) -> float:
    """Return the wait that the provider asked for; 0 if none."""
    retry_after_s = attempt.failure.retry_after_s if attempt.failure else None
    return min(max(retry_after_s or 0.0, 0.0), RETRY_AFTER_MAX_S)


def next_untried_model(run: RunState, attempts: list[Attempt]) -> ModelChoice | None:
    """Return the next model, around to the first, that was not requested in this turn; None if all were."""
    assert run.opened is not None
    models, last = models_of(run.opened), attempts[-1]
    place = next((i for i, model in enumerate(models) if model.is_requested_by(last)), 0)
    around = (*models[place + 1 :], *models[:place])
    return next((model for model in around if not any(model.is_requested_by(attempt) for attempt in attempts)), None)


def wait_sentence(run: RunState, last: Attempt) -> str:
    """Return why the run does not wait for its model, with the requested wait; empty if it would wait."""
    if not _wait_is_too_long(run, last):
        return ""
    wait_s, bound_s = requested_wait_s(last), run.limits.model_wait_max_s
    reason = f"a run waits at most {bound_s:g} s" if wait_s > bound_s else "the run has less time left"
    return f"{last.model} asks to wait {wait_s:g} s, and {reason} (model_wait_max_s). Name a fallback, or queue. "


def _wait_is_too_long(run: RunState, last: Attempt) -> bool:
    """Whether the provider asks for a longer wait than the run may make, or has left; a wait is not active time."""
    wait_s = requested_wait_s(last)
    if last.failure is None or run.opened is None or not last.down or not wait_s:
        return False
    at = last.failure.at + timedelta(seconds=wait_s)
    return wait_s > run.limits.model_wait_max_s or at >= run.opened.deadline_at


def waits_for_model(run: RunState) -> bool:
    """Whether the run's model is down and its agent's file says ``queue``: that time is not active.

    It lasts from the failure that used up the usual retries until an answer, attempts in between included.
    """
    if run.opened is None or run.opened.on_model_down != "queue" or run.phase not in {Phase.QUEUED, Phase.THINKING}:
        return False
    ended = [attempt for attempt in run.turn_attempts if not attempt.open and attempt.begun]
    if not ended or not ended[-1].down:
        return False
    return has_no_try_left(run, ended)
