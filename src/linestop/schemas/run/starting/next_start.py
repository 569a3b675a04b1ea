"""What may start next in a run, and what it may cost at most: one pure function for every role.

Budget uses it to know the hold that is needed; planner and executor use it to know whether it is their turn. All get
the same result from the same log, so no role makes a start that budget does not hold for.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from linestop.schemas.defaults import ANSWER_TOKENS_MIN, COUNT_MAX, STARTS_PER_HOLD
from linestop.schemas.events import LimitHit, ModelChoice
from linestop.schemas.model_messages import FUNCTION_MODEL_PREFIX
from linestop.schemas.run.call_states import CallState, Stage, count_tries, not_begun_in_a_row
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting import closing_summary
from linestop.schemas.run.starting.closing_summary import cost_left_micros, limit_sentence
from linestop.schemas.run.starting.compaction import is_compaction_due, summarised_size
from linestop.schemas.run.starting.model_choice import (
    NextModel,
    first_model,
    has_no_try_left,
    models_of,
    next_untried_model,
    requested_wait_s,
    tries_of_model,
    wait_sentence,
)
from linestop.schemas.run.starting.prompt_size import dropped_size, fit, output_room, tokens_estimate, tokens_left
from linestop.schemas.run.starting.retry_delays import model_retry_at, not_begun_delay_s, queue_retry_s
from linestop.schemas.run.state import RunState

RETRIED_KINDS = frozenset({"availability", "rate_limit", "malformed", "truncated", "unknown", "cancelled"})


class NextStart(msgspec.Struct, frozen=True, kw_only=True):
    """The next start. ``at`` is the earliest moment; ``takeover``: it replaces an open start that is past its end."""

    kind: Literal["model", "effect", "probe"]
    at: datetime
    cost_max_micros: int
    calls: tuple[str, ...] = ()
    model: ModelChoice | None = None
    fallback_of: str = ""
    purpose: Literal["turn", "compact", "close"] = "turn"
    turn: int = 0
    attempt: int = 1
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    takeover: bool = False
    dropped_to: int = 0
    limit: LimitHit | None = None


class Exhausted(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing may start any more, with the reason: the run must be stopped with this code."""

    code: Literal["model_down", "refusal", "handed_off", "limit", "budget", "deadline"]
    why: str
    limit: str = ""
    value: int = 0
    max_value: int = 0


def next_start(
    run: RunState, now: datetime, worker: str = "", dead: Collection[str] = ()
) -> NextStart | Exhausted | None:
    """Return what may start next (perhaps later: see ``NextStart.at``), that nothing can, or None.

    ``worker`` is the asking worker, ``<name>#<incarnation>``: a start that an older incarnation of the same name, or
    one of the ``dead`` workers, left open may be taken over at once if repeating it is safe.
    """
    if run.spend_asked or run.spend_denied or run.stop_resolution or spend_question_due(run, now, worker, dead):
        return None
    return _next_start_if_granted(run, now, worker, dead)


def spend_question_due(run: RunState, now: datetime, worker: str = "", dead: Collection[str] = ()) -> bool:
    """Whether a person must be asked before the run spends more (``policy.ask_on_spend``)."""
    if run.opened is None or not run.opened.policy.ask_on_spend or run.spend_granted:
        return False
    start = _next_start_if_granted(run, now, worker, dead)
    if not isinstance(start, NextStart):
        return False
    return run.spent_micros + run.reserved_micros + start.cost_max_micros > run.limits.ask_from_micros


def _next_start_if_granted(
    run: RunState, now: datetime, worker: str, dead: Collection[str]
) -> NextStart | Exhausted | None:
    """Return the next start as if no person had to be asked about spending."""
    if run.opened is None or run.done or run.paused:
        return None
    if run.phase in {Phase.JUDGING, Phase.ANSWERING}:
        # The present answer is judged first: a final answer is accepted whatever limits the run has used up for it.
        return None
    waits_before_request = run.phase is Phase.WAITING and (run.proposal is None or run.proposal.is_complete)
    if run.prompt.closing_limit is not None or run.phase in {Phase.QUEUED, Phase.THINKING} or waits_before_request:
        return _next_model(run, now, worker, dead)
    if run.events_left <= 0:
        return None if run.open_attempts else _limit_exhausted("events_max", run.n, run.limits.events_max)
    start = _next_calls(run, now, worker, dead)
    return start if start is None else _within_money(run, start, now)


# --- effects -----------------------------------------------------------------------------------------------


def _next_calls(run: RunState, now: datetime, worker: str, dead: Collection[str]) -> NextStart | None:
    if run.proposal is None:
        return None
    starts = [_probe_start(call, now) for call in run.proposal.calls if _needs_probe(call)]
    able = [call for call in run.proposal.calls if _startable(run, call, now, worker=worker, dead=dead)]
    due = [call for call in able if call.ready_at is None or call.ready_at <= now]
    if due:
        starts.append(_calls_start("effect", due, now, takeover=any(call.open_attempt for call in due)))
    starts.extend(
        _calls_start("effect", [call], call.ready_at) for call in able if call.ready_at and call.ready_at > now
    )
    return min(starts, key=lambda start: start.at, default=None)


def _needs_probe(call: CallState) -> bool:
    return call.stage is Stage.UNKNOWN_OUTCOME and call.grant is not None and call.grant.probe and not call.probed


def _probe_start(call: CallState, now: datetime) -> NextStart:
    """Return the probe of a call whose outcome is unknown; it waits until all attempts are over or past their end."""
    probe_at = max((attempt.done_by for attempt in call.effects if not attempt.ended), default=now)
    return _calls_start("probe", [call], max(now, probe_at))


def _startable(run: RunState, call: CallState, now: datetime, *, worker: str, dead: Collection[str]) -> bool:
    if call.grant is None or call.judged is None:
        return False
    if call.grant.ordered and run.proposal is not None:
        before = run.proposal.calls[: call.index]
        if any(other.stage is not Stage.ENDED for other in before):
            return False
    if call.stage is Stage.READY:
        return True
    # The late result of an earlier attempt may have ended the call: then there is no takeover of the one still open.
    attempt = call.open_attempt if call.stage is Stage.OPEN else None
    return (
        attempt is not None
        and attempt.purpose == "effect"
        and call.grant.safe_to_repeat
        and call.tries <= call.grant.retries_max
        and attempt.expired(now, worker, dead)
    )


def _calls_start(
    kind: Literal["effect", "probe"], calls: list[CallState], at: datetime, *, takeover: bool = False
) -> NextStart:
    cost = 0 if kind == "probe" else sum(call.grant.price_micros for call in calls if call.grant)
    return NextStart(
        kind=kind, at=at, cost_max_micros=cost, calls=tuple(call.call for call in calls), takeover=takeover
    )


# --- model requests -------------------------------------------------------------------------------------------


def _next_model(run: RunState, now: datetime, worker: str, dead: Collection[str]) -> NextStart | Exhausted | None:
    open_attempt = run.model_attempt
    if open_attempt and not open_attempt.expired(now, worker, dead):
        return None
    if run.proposal and any(call.judged and call.judged.verdict == "loop" for call in run.proposal.calls):
        # The validator is about to end the run; another model request would only cost money.
        return None
    if run.prompt.closing_limit is not None:
        return _exhausted_by(run.prompt.closing_limit)
    if run.active_s(now) >= run.limits.wall_s:
        return out_of_time(run)
    same_turn = open_attempt is not None or (bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed")
    if (hit := reached_limit(run, same_turn=same_turn)) is not None:
        return _closing_start(run, hit, now) or _exhausted_by(hit)
    chosen = _choose_model(run, now) if same_turn else first_model(run, now)
    if chosen is None or isinstance(chosen, Exhausted):
        return chosen
    model = chosen.model
    compact = is_compaction_due(run, model)
    sized = _size_request(run, model, compact=compact)
    if isinstance(sized, Exhausted):
        hit = LimitHit(name=sized.limit, value=sized.value, max_value=sized.max_value)
        return _closing_start(run, hit, now) or sized
    dropped_to, input_max, output_max = sized
    start = NextStart(
        kind="model",
        at=chosen.at,
        model=model,
        fallback_of=chosen.fallback_of,
        purpose="compact" if compact else "turn",
        cost_max_micros=model.price.cost_max_micros(input_max, output_max),
        turn=run.turn if same_turn else run.turn + 1,
        attempt=run.turn_attempts[-1].attempt + 1 if same_turn else 1,
        input_tokens_max=input_max,
        output_tokens_max=output_max,
        takeover=open_attempt is not None,
        dropped_to=dropped_to,
    )
    return _within_money(run, start, now)


def _within_money(run: RunState, start: NextStart, now: datetime) -> NextStart:
    """Return the start, or the closing turn if the start would leave no money for it within the run's own limit."""
    left = cost_left_micros(run)
    # After a summary the conversation is shorter, and with it the closing turn.
    closing_micros = (
        closing_summary.cost_reserved_micros(run) if start.cost_max_micros and start.purpose == "turn" else 0
    )
    if start.cost_max_micros + closing_micros <= left:
        return start
    needed = run.limits.cost_max_micros - left + start.cost_max_micros
    if start.cost_max_micros <= left:
        needed += closing_micros
    hit = LimitHit(name="cost_max_micros", value=needed, max_value=run.limits.cost_max_micros)
    return _closing_start(run, hit, now) or start


def reached_limit(run: RunState, *, same_turn: bool) -> LimitHit | None:
    """Return the limit that lets no other turn begin: the first that the run reached, not the last."""
    limits = run.limits
    refused = [call.judged.limit for call in run.proposal.calls if call.judged] if run.proposal else []
    if run.rejections_in_a_row >= limits.rejections_max or any(hit and hit.name == "calls_max" for hit in refused):
        in_a_row = max(run.rejections_in_a_row, 1)
        hits = [call.judged.limit for proposal in run.proposals[-in_a_row:] for call in proposal.calls if call.judged]
        own = next((hit for hit in hits if hit is not None), None)
        return own or LimitHit(name="rejections_max", value=run.rejections_in_a_row, max_value=limits.rejections_max)
    if run.events_left <= 0:
        return LimitHit(name="events_max", value=run.n, max_value=limits.events_max)
    if not same_turn and run.turn >= limits.turns_max:
        return LimitHit(name="turns_max", value=run.turn, max_value=limits.turns_max)
    return None


def _closing_start(run: RunState, hit: LimitHit, now: datetime) -> NextStart | None:
    """Return the closing turn, if it is allowed and fits."""
    closing = closing_summary.closing_turn(run, hit)
    if closing is None:
        return None
    same_turn = bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed"
    return NextStart(
        kind="model",
        at=now,
        model=closing.model,
        purpose="close",
        cost_max_micros=closing.cost_max_micros,
        turn=run.turn if same_turn else run.turn + 1,
        attempt=run.turn_attempts[-1].attempt + 1 if same_turn else 1,
        input_tokens_max=closing.fit.bound,
        output_tokens_max=closing.output_tokens_max,
        dropped_to=closing.fit.dropped_to,
        limit=hit,
    )


def _size_request(run: RunState, model: ModelChoice, *, compact: bool) -> tuple[int, int, int] | Exhausted:
    """Return up to which event the prompt leaves results out, and the token bounds of input and output.

    All are 0 for a planner function.
    """
    if model.model.startswith(FUNCTION_MODEL_PREFIX):
        return 0, 0, 0
    prompt_fit = fit(run, model, size=summarised_size(run) if compact else run.context, tokens_max=COUNT_MAX)
    if prompt_fit is None:
        return _window_too_small(run, model)
    # After a summary the conversation is shorter, and with it the closing turn.
    closing_tokens = 0 if compact else closing_summary.tokens_reserved(run, model)
    left = tokens_left(run) - prompt_fit.bound - closing_tokens
    output_max = min(
        model.output_tokens_max,
        run.limits.model_output_tokens_max,
        model.window_tokens - prompt_fit.estimate,
        max(left, 0),
    )
    if output_max < ANSWER_TOKENS_MIN:
        used = run.limits.tokens_max - tokens_left(run)
        return _limit_exhausted("tokens_max", used + prompt_fit.bound + ANSWER_TOKENS_MIN, run.limits.tokens_max)
    return prompt_fit.dropped_to, prompt_fit.bound, output_max


def _window_too_small(run: RunState, model: ModelChoice) -> Exhausted:
    """Return the end of a run whose conversation does not fit into any prompt, whatever is left out."""
    tokens_min = tokens_estimate(run, model, run.context - dropped_size(run, run.n))
    return Exhausted(
        code="limit",
        limit="window_tokens",
        value=tokens_min + output_room(run, model),
        max_value=model.window_tokens,
        why=(
            f"The conversation needs about {tokens_min} tokens even without the results of tools, and "
            f"{output_room(run, model)} for the answer; '{model.model}' has a window of {model.window_tokens}: "
            "use a model with a larger one (window_tokens), or shorten the prompt, the task or the list of tools."
        ),
    )


def _choose_model(run: RunState, now: datetime) -> NextModel | Exhausted | None:
    """Choose the model for another attempt of the same turn, and when: retry, fall back, queue, or give up."""
    if run.opened is None:
        return None
    models = models_of(run.opened)
    last = run.turn_attempts[-1]
    index = next((i for i, model in enumerate(models) if model.is_requested_by(last)), 0)
    replaced_model = models[index - 1].model if index else ""
    if last.outcome == "compacted":
        return NextModel(at=now, model=models[index], fallback_of=replaced_model)
    kind = last.failure.kind if last.failure else "unknown"
    if kind == "refusal":
        return Exhausted(code="refusal", why=last.failure.message if last.failure else "The model refused.")
    if kind not in RETRIED_KINDS:
        return Exhausted(code="model_down", why=last.failure.message if last.failure else "The model failed.")
    tried = tries_of_model(run.turn_attempts, last)
    if last.failure and not last.begun and tried <= run.limits.model_retries_max:
        in_a_row = not_begun_in_a_row(run.turn_attempts)
        wait_s = not_begun_delay_s(f"{run.run}:{last.turn}", last.attempt, in_a_row)
        return NextModel(
            at=last.failure.at + timedelta(seconds=wait_s), model=models[index], fallback_of=replaced_model
        )
    if not has_no_try_left(run, run.turn_attempts):
        return NextModel(at=model_retry_at(run, last, tried, now), model=models[index], fallback_of=replaced_model)
    if last.down and (spare := next_untried_model(run, run.turn_attempts)):
        return NextModel(at=now, model=spare, fallback_of=last.model)
    if last.failure and last.down and run.opened.on_model_down == "queue":
        wait_s = max(queue_retry_s(tried - run.limits.model_retries_max), requested_wait_s(last))
        at = last.failure.at + timedelta(seconds=wait_s)
        if at < run.opened.deadline_at:
            return NextModel(at=at, model=models[index])
    code: Literal["handed_off", "model_down"] = "handed_off" if run.opened.on_model_down == "hand_off" else "model_down"
    why = last.failure.message if last.failure else "no answer in time"
    waits, attempts = wait_sentence(run, last), _attempts_in_turn(run)
    return Exhausted(code=code, why=f"{waits}No model answered after {_attempts_text(attempts)}; the last one: {why}")


def _attempts_in_turn(run: RunState) -> int:
    """Return how many attempts this turn had, of any model; completed summaries do not count."""
    return count_tries([attempt for attempt in run.turn_attempts if attempt.outcome != "compacted"])


def _attempts_text(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def out_of_time(run: RunState) -> Exhausted:
    """Return the end of a run that has used up its time; if a model was down meanwhile, that is the reason."""
    wall_s, last = run.limits.wall_s, run.turn_attempts[-1] if run.turn_attempts else None
    if last is not None and last.down and last.failure is not None:
        within = f"within the {wall_s} s that the run may work (its limit 'wall_s')"
        why = f"No model answered in {_attempts_text(_attempts_in_turn(run))} {within}"
        return Exhausted(code="model_down", why=f"{why}; the last one: {last.failure.message}")
    return Exhausted(code="deadline", why=out_of_time_message(wall_s))


def out_of_time_message(wall_s: int) -> str:
    """Return why a run that has used up its time is over."""
    return f"The run worked for {wall_s} s, which is its limit; waiting for people is not counted."


def _limit_exhausted(name: str, value: int, max_value: int) -> Exhausted:
    return _exhausted_by(LimitHit(name=name, value=value, max_value=max_value))


def _exhausted_by(hit: LimitHit) -> Exhausted:
    """Return the end of a run that has reached this limit."""
    return Exhausted(
        code="budget" if hit.name == "cost_max_micros" else "limit",
        limit=hit.name,
        value=hit.value,
        max_value=hit.max_value,
        why=limit_sentence(hit),
    )


# --- the hold that it needs ----------------------------------------------------------------------------


def hold_min_micros(run: RunState, start: NextStart) -> int:
    """Return how much more the run must hold at least for this start; 0 if it is covered."""
    return max(start.cost_max_micros - run.available_micros, 0)


def hold_target_micros(run: RunState, start: NextStart) -> int:
    """Return how much more the run holds if there is room; 0 if the start is covered, -1 if its limit forbids it."""
    missing = start.cost_max_micros - run.available_micros
    if missing <= 0:
        return 0
    left = run.limits.cost_max_micros - run.held_micros
    if missing > left:
        return -1
    return min(left, max(missing, STARTS_PER_HOLD * start.cost_max_micros))
