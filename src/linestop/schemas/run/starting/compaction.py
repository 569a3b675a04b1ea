"""When a conversation is summarised, and which part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linestop.schemas.defaults import (
    COMPACT_AT_TOKENS,
    COMPACT_AT_WINDOW,
    COMPACT_FACTOR_MIN,
    COMPACT_TOKENS_LEFT_FACTOR,
)
from linestop.schemas.model_messages import FUNCTION_MODEL_PREFIX
from linestop.schemas.run.call_states import ITEM
from linestop.schemas.run.starting.prompt_size import proposal_size, tokens_estimate
from linestop.schemas.text.text_size import Size, total

if TYPE_CHECKING:
    from linestop.schemas.events import ModelChoice
    from linestop.schemas.run.state import RunState


def is_compaction_due(run: RunState, model: ModelChoice) -> bool:
    """Whether the next request must summarise the conversation instead of continuing it."""
    if len(run.compactions) >= run.limits.compactions_max or run.opened is None:
        return False
    if model.model.startswith(FUNCTION_MODEL_PREFIX):
        # A planner function plans from the whole conversation; it can neither write nor read a summary.
        return False
    last = run.compactions[-1].covers_to if run.compactions else 0
    if len(run.proposals) < COMPACT_FACTOR_MIN or run.proposals[-COMPACT_FACTOR_MIN].n <= last:
        return False
    if (
        run.turn_attempts
        and run.turn_attempts[-1].purpose == "compact"
        and run.turn_attempts[-1].outcome == "compacted"
    ):
        return False
    base = run.opened.base_bytes + run.opened.task.text_bytes
    if run.context_bytes < COMPACT_FACTOR_MIN * base:
        return False
    next_prompt_tokens, left = tokens_estimate(run, model, run.context), run.limits.tokens_max - run.tokens
    full = next_prompt_tokens > COMPACT_AT_WINDOW * model.window_tokens
    scarce = left - next_prompt_tokens < (1 - COMPACT_AT_TOKENS) * run.limits.tokens_max
    return full or (scarce and left >= COMPACT_TOKENS_LEFT_FACTOR * next_prompt_tokens)


def last_covered_n(run: RunState) -> int:
    """Return the last event that a summary made now replaces: all but the last turn, which stays word for word.

    If that turn alone is half of the conversation, it is summarised too: otherwise the next summary would be due at
    once.
    """
    assert run.opened is not None
    *before, last = run.proposals
    conversation_bytes = run.context_bytes - run.opened.base_bytes - run.opened.task.text_bytes
    size = proposal_size(last, run.prompt.dropped_to).bytes
    return before[-1].n if before and COMPACT_FACTOR_MIN * size < conversation_bytes else last.n


def summarised_size(run: RunState) -> Size:
    """Return the size of the prompt of a summary made now: only the part that the summary replaces."""
    covers_to = last_covered_n(run)
    later = (p for p in run.proposals if p.n > covers_to)
    return run.context - total(proposal_size(p, run.prompt.dropped_to) - ITEM for p in later)
