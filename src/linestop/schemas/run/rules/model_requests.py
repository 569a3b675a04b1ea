"""The rules of the fold about model requests: starts, answers, failures, summaries. See ``fold``."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from linestop.schemas.events import Compacted, ModelFailedEvent, ModelStarted, Proposed
from linestop.schemas.model_messages import Usage
from linestop.schemas.run.call_states import ITEM, Attempt, CallState, ProposalState, text_size
from linestop.schemas.run.rules.opening_limits import limit_violation
from linestop.schemas.run.starting.model_choice import down_until, waits_for_model
from linestop.schemas.run.starting.prompt_size import answer_size, base_size, dropped_size, learn, proposal_size
from linestop.schemas.text.text_size import Size, total

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState


def apply_model_started(run: RunState, n: int, event: ModelStarted) -> str:
    """``planner.started``: it is the planner's turn, and the request's cost and tokens fit."""
    before, same_turn = run.model_attempt, _is_same_turn(run)
    if reason := _may_not_start(run, event, same_turn=same_turn):
        return reason
    if before:
        run.supersede(before, n)
    if not same_turn:
        run.turn, run.turn_attempts = event.turn, []
    attempt = Attempt(
        n=n,
        attempt=event.attempt,
        purpose=event.purpose,
        worker=event.worker,
        started_at=event.at,
        start_by=event.start_by,
        done_by=event.done_by,
        cost_max_micros=event.cost_max_micros,
        model=event.model,
        base_url=event.base_url,
        turn=event.turn,
        input_tokens_max=event.input_tokens_max,
        output_tokens_max=event.output_tokens_max,
        charges_tokens=event.charges_tokens,
        active=not waits_for_model(run),
    )
    if event.dropped_to > run.prompt.dropped_to:
        run.context -= dropped_size(run, event.dropped_to)
        run.prompt.dropped_to = event.dropped_to
        run.prompt.known.clear()
    if event.purpose == "close":
        run.prompt.closing_limit = event.limit
    run.turn_attempts.append(attempt)
    run.open_attempt(attempt)
    return ""


def _is_same_turn(run: RunState) -> bool:
    """Whether the next model request is another attempt of the present turn."""
    return run.model_attempt is not None or (bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed")


def _may_not_start(run: RunState, event: ModelStarted, *, same_turn: bool) -> str:
    """Return why a model request may not start now; empty if it may."""
    if run.paused:
        return "the run is paused"
    if reason := limit_violation(run, event):
        return reason
    before, proposal = run.model_attempt, run.proposal
    if before and not before.expired(event.at, event.worker, event.dead_workers):
        return f"attempt {before.attempt} of turn {run.turn} is still open"
    if any(attempt.purpose == "close" for attempt in run.turn_attempts):
        return "the run has had its closing turn"
    turn = run.turn if same_turn else run.turn + 1
    attempt = run.turn_attempts[-1].attempt + 1 if same_turn else 1
    if (event.turn, event.attempt) != (turn, attempt):
        return f"the next model request is attempt {attempt} of turn {turn}"
    closes = event.purpose == "close" and not run.open_attempts
    if turn > run.limits.turns_max + closes:
        return f"the run has had its {run.limits.turns_max} turns"
    if proposal is not None and not proposal.is_complete and not closes:
        return "not all calls of the last proposal are over"
    return "" if run.fits(event.cost_max_micros) else "its cost does not fit into the run's hold"


def _count_tokens(run: RunState, attempt: Attempt, usage: Usage, *, reported: bool) -> None:
    """Record the tokens of an attempt, unreported ones at its reservation; a negative report gives none back."""
    attempt.usage = usage
    read = usage.total - usage.out
    run.prompt.counts_unreliable = run.prompt.counts_unreliable or (
        reported and attempt.charges_tokens and read > attempt.input_tokens_max
    )
    unknown = attempt.charges_tokens and not reported
    used = attempt.input_tokens_max + attempt.output_tokens_max if unknown else max(usage.total, 0)
    run.tokens += used - attempt.tokens
    attempt.tokens = used


def _find_attempt(run: RunState, turn: int, attempt: int) -> Attempt | None:
    """Return the model attempt of that turn: one of the present turn, or an older one whose result comes late."""
    older = (entered for attempts in run.attempts.values() for entered in attempts if not entered.call)
    return next((a for a in chain(run.turn_attempts, older) if (a.turn, a.attempt) == (turn, attempt)), None)


def apply_proposed(run: RunState, n: int, event: Proposed) -> str:
    """``planner.proposed``: a complete answer of the model."""
    attempt = _find_attempt(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n:
        return f"attempt {event.attempt} of turn {event.turn} was not started, or has its result"
    alive = attempt.open and not run.done
    counts = alive and attempt.purpose == "turn"
    ids = [call.call for call in event.calls]
    if counts and (len(set(ids)) != len(ids) or any(call in run.calls for call in ids)):
        return "two of its calls have the same id, or an id was used before"
    reported = event.usage_source == "reported"
    _count_tokens(run, attempt, event.usage, reported=reported)
    run.count_start(attempt, event)
    run.close_attempt(attempt, n, outcome="proposed", cost_micros=event.cost_micros, reported=reported)
    if alive and attempt.purpose == "close":
        run.prompt.closing = event
    if not counts:
        return ""
    calls = [
        CallState(call=c.call, tool=c.tool, proposal_n=n, index=i, raw_args=c.args, grant=run.grant_of(c.tool))
        for i, c in enumerate(event.calls)
    ]
    run.down_until.pop((attempt.model, attempt.base_url), None)
    if reported and (read := event.usage.total - event.usage.out) > 0:
        learn(run, (attempt.model, attempt.base_url), read)
    if not event.final:
        run.returned_in_a_row = 0
    run.proposals.append(ProposalState(n=n, event=event, calls=calls, model=attempt.model, base_url=attempt.base_url))
    run.calls.update((call.call, call) for call in calls)
    run.context += answer_size(event) + ITEM
    return ""


def apply_failed(run: RunState, n: int, event: ModelFailedEvent) -> str:
    """``planner.failed``: no usable answer."""
    attempt = _find_attempt(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n:
        return f"attempt {event.attempt} of turn {event.turn} was not started, or has its result"
    reported = not event.possibly_billed
    _count_tokens(run, attempt, event.usage or Usage(), reported=reported or event.usage is not None)
    attempt.usage = event.usage
    attempt.failure = event
    attempt.begun = event.begun or event.possibly_billed or event.charged_micros > 0 or event.usage is not None
    run.count_start(attempt, event)
    if attempt.down:
        run.down_until[attempt.model, attempt.base_url] = down_until(event.at, event)
    run.close_attempt(attempt, n, outcome="failed", cost_micros=event.charged_micros, reported=reported)
    return ""


def apply_compacted(run: RunState, n: int, event: Compacted) -> str:
    """``planner.compacted``: a summary replaces the conversation up to some event."""
    attempt = _find_attempt(run, event.turn, event.attempt)
    if attempt is None or attempt.closed_n or attempt.purpose != "compact":
        return "no compaction was under way"
    if event.covers_to >= n:
        return "it covers events that do not exist yet"
    counts = attempt.open and not run.done
    _count_tokens(run, attempt, event.usage, reported=event.usage.total > 0)
    run.count_start(attempt, event)
    run.close_attempt(attempt, n, outcome="compacted", cost_micros=event.cost_micros, reported=True)
    if not counts:
        return ""
    run.compactions.append(event)
    run.prompt.known.clear()
    summary_bytes = text_size(event.summary) + total(text_size(value.value) + ITEM for value in event.values)
    base = base_size(run.opened) if run.opened else Size()
    after = total(proposal_size(p, run.prompt.dropped_to) for p in run.proposals if p.n > event.covers_to)
    run.context = total((base, summary_bytes, after, ITEM, ITEM, ITEM))
    return ""
