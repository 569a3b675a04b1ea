"""The last turn of a run that has reached a limit: without tools, it sums up what is there. Pure.

A run that has results does not end without a word: where a closing turn fits, it comes before the stop. It is one
attempt, beyond ``turns_max``. Other turns leave tokens for it. Money they do not: what fits is let through, and a
closing turn costs less than another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from linestop.schemas.calls import CallState, Stage
from linestop.schemas.events import LimitHit, ModelChoice
from linestop.schemas.limits import CLOSING_EVENTS, TOKEN_OVERHEAD
from linestop.schemas.model import FUNCTION_MODELS
from linestop.schemas.model_order import models_of, tries
from linestop.schemas.prompt_size import INSTRUCTION_BYTES, Fit, fit, output_room, tokens_estimate, tokens_left
from linestop.schemas.text_size import Size

if TYPE_CHECKING:
    from linestop.schemas.run import Run

OUTPUT_TOKENS: Final = 1_024
"""How long a closing answer may be."""

OUTPUT_TOKENS_LEAST: Final = 128
CLOSING_EVENTS_LEAST: Final = 4
RESULTS_NAMED_MAX: Final = 50
PARTIAL_CHARS_MAX: Final = 2_000


PartialIs = Literal["", "summary", "results", "words"]
NOTHING: Final[tuple[str, PartialIs]] = ("", "")


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """A closing turn that fits, and what it may take."""

    model: ModelChoice
    fit: Fit
    output_tokens_max: int
    cost_max_micros: int
    limit: LimitHit


def closing_turn(run: Run, limit: LimitHit) -> Closing | None:
    """The closing turn of a run that has reached ``limit``; None if it had it, has no results, or it does not fit."""
    model = closing_model(run)
    if model is None or run.open_attempts or run.room + CLOSING_EVENTS < CLOSING_EVENTS_LEAST or not any(results(run)):
        return None
    left = tokens_left(run)
    size = run.context + Size.framing(INSTRUCTION_BYTES + _unanswered(run))
    found = fit(run, model, size=size, tokens_max=left - OUTPUT_TOKENS_LEAST)
    if found is None:
        return None
    output = min(OUTPUT_TOKENS, output_room(run, model), left - found.bound)
    cost = model.price.cost_max_micros(found.bound, output)
    if cost > cost_left_micros(run):
        return None
    return Closing(model=model, fit=found, output_tokens_max=output, cost_max_micros=cost, limit=limit)


def tokens_reserved(run: Run, model: ModelChoice) -> int:
    """What another turn leaves for the closing one; nothing as long as there is nothing to sum up."""
    if closing_model(run) is None or not any(results(run)):
        return 0
    return tokens_estimate(run, model, run.context) + INSTRUCTION_BYTES + TOKEN_OVERHEAD + 2 * OUTPUT_TOKENS_LEAST


def cost_left_micros(run: Run) -> int:
    """What the run's own limit still allows it to spend."""
    return run.limits.cost_max_micros - run.spent_micros - run.reserved_micros


def closing_model(run: Run) -> ModelChoice | None:
    """The model that answered last; None if it is a function, has no try left, or the run had its closing turn."""
    if run.opened is None or any(attempt.purpose == "close" for attempt in run.turn_attempts):
        return None
    last = run.proposal
    model = next((choice for choice in models_of(run.opened) if last and choice.asked_by(last)), run.opened.model)
    same_turn = bool(run.turn_attempts) and run.turn_attempts[-1].outcome != "proposed"
    if same_turn and tries(run.turn_attempts, model) > run.limits.model_retries_max:
        return None
    return None if model.model.startswith(FUNCTION_MODELS) else model


def results(run: Run) -> Iterator[CallState]:
    """The calls that gave a result."""
    for call in run.calls.values():
        if call.stage is Stage.ANSWERED and call.finished is not None and call.finished.outcome == "succeeded":
            yield call


def partial(run: Run) -> tuple[str, PartialIs]:
    """What there is of a run that did not complete, shortened, and what that is; see ``Sealed.partial_is``."""
    answer = run.prompt.closing
    if answer is not None and isinstance(answer.text, str):
        return answer.text[:PARTIAL_CHARS_MAX], "summary"
    texts = [p.event.text for p in run.proposals if isinstance(p.event.text, str) and p.event.text]
    words = texts[-1] if texts else ""
    named = [f"{call.tool} (event {call.finished_n})" for call in results(run)]
    if not named:
        return words[:PARTIAL_CHARS_MAX], "words" if words else ""
    more = f" and {len(named) - RESULTS_NAMED_MAX} more" if len(named) > RESULTS_NAMED_MAX else ""
    listed = f"Results so far: {', '.join(named[:RESULTS_NAMED_MAX])}{more}."
    room = PARTIAL_CHARS_MAX - len(listed) - 1
    return (f"{words[:room]}\n{listed}" if words and room > 0 else listed)[:PARTIAL_CHARS_MAX], "results"


def _unanswered(run: Run) -> int:
    """Bytes that calls without an answer take in the closing prompt."""
    return sum(256 for call in run.proposal.calls if call.stage is not Stage.ANSWERED) if run.proposal else 0
