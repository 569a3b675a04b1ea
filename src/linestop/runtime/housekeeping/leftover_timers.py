"""The durable timers that any process may have set for a run that is over, found from its log alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from linestop.schemas.broker_defaults import TIMER_IN_PROCESS_MAX_S
from linestop.schemas.defaults import QUEUE_RETRY_MAX_S
from linestop.schemas.events import (
    AnyEvent,
    Asked,
    EffectStarted,
    Finished,
    Judged,
    ModelFailedEvent,
    ModelStarted,
    Paused,
)
from linestop.schemas.run.fold import Run

NEAR = timedelta(seconds=TIMER_IN_PROCESS_MAX_S)


def leftover_timers(run: Run, now: datetime) -> set[str]:
    """Return the names of the timers whose moment is still to come, so that the broker would store and fire them."""
    names: set[str] = set()
    for entry in run.entries:
        if entry.event is None or entry.ignored:
            continue
        for name, at in _timers_set_after(run, entry.event):
            if at > now and at - entry.event.at > NEAR:
                names.add(name)
    return names


def _timers_set_after(run: Run, event: AnyEvent) -> Iterator[tuple[str, datetime]]:
    """Yield the timers that an event may have led to, with their moments."""
    match event:
        case Asked():
            yield from (("approver-expiry", line.expires_at) for line in event.calls)
            if event.question is not None:
                yield "approver-expiry", event.question.expires_at
            if event.spend is not None:
                yield "approver-expiry", event.spend.expires_at
        case Judged():
            yield from (("executor-wait", line.wait_until) for line in event.calls if line.wait_until is not None)
        case EffectStarted():
            ends = max(line.done_by for line in event.calls)
            yield from (("executor-done-by", ends), ("budget-done-by", ends))
        case ModelStarted():
            yield from (("planner-done-by", event.done_by), ("budget-done-by", event.done_by))
        case ModelFailedEvent():
            queues = run.opened is not None and run.opened.on_model_down == "queue"
            wait_s = max(event.retry_after_s or 0.0, QUEUE_RETRY_MAX_S if queues else 0.0)
            yield "planner-retry", event.at + timedelta(seconds=min(wait_s, QUEUE_RETRY_MAX_S * 24))
        case Finished() if event.error is not None and event.error.retry_after_s:
            yield (
                "executor-retry",
                event.at + timedelta(seconds=min(event.error.retry_after_s, QUEUE_RETRY_MAX_S * 24)),
            )
        case _:
            pass
    if run.opened is not None and isinstance(event, Asked | Paused):
        # The end of the run's time has a timer only if the run waits with no other deadline before it.
        yield "validator-run-max", run.opened.deadline_at
