"""The last turn of a run that has reached a limit: without tools, the model sums up the results. Pure.

A run that has results does not end without a summary: if a closing turn fits, it comes before the stop. It is one
attempt, beyond ``turns_max``. Other starts leave tokens and money for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from linestop.schemas.defaults import (
    CLOSING_ANSWER_TOKENS_MAX,
    CLOSING_ANSWER_TOKENS_MIN,
    CLOSING_EVENTS,
    TOKEN_OVERHEAD,
)
from linestop.schemas.dollars import dollars
from linestop.schemas.events import LimitHit, ModelChoice
from linestop.schemas.model_messages import FUNCTION_MODEL_PREFIX
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.starting.model_choice import models_of, tries_of_model
from linestop.schemas.run.starting.prompt_size import (
    INSTRUCTION_BYTES,
    Fit,
    fit,
    output_room,
    tokens_estimate,
    tokens_left,
)
from linestop.schemas.text.text_size import Size

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState

NOTE_BYTES: Final = 256
"""The size of a call without an outcome: a note that it was not made."""

CALLS_TO_COME: Final = 4
"""The number of calls of the next answer for which the reserve of the closing turn has room."""

CLOSING_EVENTS_MIN: Final = 4
RESULTS_NAMED_MAX: Final = 50
PARTIAL_CHARS_MAX: Final = 2_000


PartialIs = Literal["", "summary", "results", "words"]
NO_PARTIAL: Final[tuple[str, PartialIs]] = ("", "")


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """A closing turn that fits, and its bounds."""

    model: ModelChoice
    fit: Fit
    output_tokens_max: int
    cost_max_micros: int
    limit: LimitHit


def closing_turn(run: RunState, limit: LimitHit) -> Closing | None:
    """Return the closing turn of a run that has reached ``limit``; None if it had one, has no results or no room."""
    model = closing_model(run)
    if (
        model is None
        or run.open_attempts
        or run.events_left + CLOSING_EVENTS < CLOSING_EVENTS_MIN
        or not any(successful_calls(run))
    ):
        return None
    left = tokens_left(run)
    size = run.context + Size.framing(INSTRUCTION_BYTES + _open_calls_bytes(run))
    money = cost_left_micros(run)
    affordable = model.price.input_affordable(money, CLOSING_ANSWER_TOKENS_MIN)
    prompt_fit = fit(run, model, size=size, tokens_max=min(left - CLOSING_ANSWER_TOKENS_MIN, affordable))
    if prompt_fit is None:
        return None
    output = min(CLOSING_ANSWER_TOKENS_MAX, output_room(run, model), left - prompt_fit.bound)
    output = min(output, model.price.output_affordable(money, prompt_fit.bound))
    cost = model.price.cost_max_micros(prompt_fit.bound, output)
    if output <= 0 or cost > money:
        return None
    return Closing(model=model, fit=prompt_fit, output_tokens_max=output, cost_max_micros=cost, limit=limit)


def tokens_reserved(run: RunState, model: ModelChoice) -> int:
    """Return the tokens that another turn leaves for the closing one; 0 while there is nothing to sum up."""
    return _input_reserved(run, model) + 2 * CLOSING_ANSWER_TOKENS_MIN if _may_close(run) else 0


def cost_reserved_micros(run: RunState) -> int:
    """Return the money that another start leaves for the closing turn; 0 while there is nothing to sum up."""
    model = closing_model(run)
    if model is None or not _may_close(run):
        return 0
    return model.price.cost_max_micros(_input_reserved(run, model), 2 * CLOSING_ANSWER_TOKENS_MIN)


def limit_sentence(hit: LimitHit) -> str:
    """Return why a run that has reached this limit is over."""
    if hit.name == "cost_max_micros":
        limit = f"its limit 'cost_max_micros' ({dollars(hit.max_value)})"
        return f"The next step would bring the run to {dollars(hit.value)} of {limit}."
    return f"The run reached its limit '{hit.name}': {hit.value} of at most {hit.max_value}."


def _may_close(run: RunState) -> bool:
    return closing_model(run) is not None and any(successful_calls(run))


def _input_reserved(run: RunState, model: ModelChoice) -> int:
    """Return the tokens of a closing prompt: the conversation, and notes for present and future open calls."""
    notes = max(_open_calls_bytes(run), CALLS_TO_COME * NOTE_BYTES)
    return tokens_estimate(run, model, run.context) + INSTRUCTION_BYTES + TOKEN_OVERHEAD + notes


def cost_left_micros(run: RunState) -> int:
    """Return what the run's own limit still allows it to spend."""
    return run.limits.cost_max_micros - run.spent_micros - run.reserved_micros


def closing_model(run: RunState) -> ModelChoice | None:
    """Return the model that answered last; None if it is a function, has no try left, or the closing turn is over."""
    if run.opened is None or any(attempt.purpose == "close" for attempt in run.turn_attempts):
        return None
    last = run.proposal
    model = next(
        (choice for choice in models_of(run.opened) if last and choice.is_requested_by(last)), run.opened.model
    )
    same_turn = bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed"
    if same_turn and tries_of_model(run.turn_attempts, model) > run.limits.model_retries_max:
        return None
    return None if model.model.startswith(FUNCTION_MODEL_PREFIX) else model


def successful_calls(run: RunState) -> Iterator[CallState]:
    """Return the calls that gave a result."""
    for call in run.calls.values():
        if call.stage is Stage.ENDED and call.finished is not None and call.finished.outcome == "succeeded":
            yield call


def partial_answer(run: RunState) -> tuple[str, PartialIs]:
    """Return the partial answer of a run that did not complete, shortened, and its kind; see ``Sealed.partial_is``."""
    answer = run.prompt.closing
    if answer is not None and isinstance(answer.text, str):
        return answer.text[:PARTIAL_CHARS_MAX], "summary"
    texts = [p.event.text for p in run.proposals if isinstance(p.event.text, str) and p.event.text]
    last_text = texts[-1] if texts else ""
    named = [f"{call.tool} (event {call.finished_n})" for call in successful_calls(run)]
    if not named:
        return last_text[:PARTIAL_CHARS_MAX], "words" if last_text else ""
    more = f" and {len(named) - RESULTS_NAMED_MAX} more" if len(named) > RESULTS_NAMED_MAX else ""
    listed = f"Results so far: {', '.join(named[:RESULTS_NAMED_MAX])}{more}."
    room = PARTIAL_CHARS_MAX - len(listed) - 1
    return (f"{last_text[:room]}\n{listed}" if last_text and room > 0 else listed)[:PARTIAL_CHARS_MAX], "results"


def _open_calls_bytes(run: RunState) -> int:
    """Return the bytes that calls without an outcome take in the closing prompt."""
    return sum(NOTE_BYTES for call in run.proposal.calls if call.stage is not Stage.ENDED) if run.proposal else 0
