"""How many tokens the next prompt has: a bound for the budget, an estimate for the model's window. Pure.

A token is at least one byte, so a prompt's bytes bound its tokens. For the part that a model has answered to there is a
better figure: the provider's count. So the bound is that count, plus a token a byte for the text that is new since. A
count is used only if it is plausible, of the same model, and while no later count exceeded its bound.

For the window this bound would be far too careful: there the new part is estimated by the kind of its characters (see
``text_size``). The only thing learned from earlier text is that a tokenizer counts more than was estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Final

import msgspec

from linestop.schemas.defaults import TOKEN_OVERHEAD
from linestop.schemas.events import ModelChoice, Opened, Proposed
from linestop.schemas.run.call_states import DROPPED, DROPPED_BYTES, ITEM, CallState, ProposalState, text_size
from linestop.schemas.run.prompt_state import KnownPrompt
from linestop.schemas.text.text_size import NO_SIZE, Size, total

if TYPE_CHECKING:
    from linestop.schemas.run.state import RunState

TOKEN_BYTES_MAX: Final = 6
"""The most bytes a token of any prompt; a provider's count with fewer tokens is not used."""

INSTRUCTION_BYTES: Final = 768
"""The size of a closing turn's own instructions."""

BASE_DENSITY: Final = 0.5
"""Tokens a byte of the beginning of a prompt, in older logs without an estimate of it."""

DENSER_MARGIN: Final = 1.25
"""If a tokenizer counts more than was estimated, other text is assumed to count this much more again."""

LEARNED_TOKENS_MIN: Final = 256
"""The smallest count from which anything is learned about a tokenizer."""


OUTPUT_SHARE: Final = 8
"""A prompt leaves one part in this many of the window for the answer, or the answer's limit if that is less."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that fits: results of calls answered up to event ``dropped_to`` are left out of it.

    ``bound`` is the most tokens that it can have, ``estimate`` the probable number.
    """

    dropped_to: int
    bound: int
    estimate: int


def tokens_bound(run: RunState, model: ModelChoice, context_bytes: int) -> int:
    """Return the most tokens of a prompt of ``context_bytes`` that continues the last one or is a part of it."""
    known = run.prompt.known.get((model.model, model.base_url))
    by_bytes = context_bytes + TOKEN_OVERHEAD
    if known is None or run.prompt.counts_unreliable:
        return by_bytes
    counted = max(known.tokens, known.size.bytes // TOKEN_BYTES_MAX)
    return min(counted + max(context_bytes - known.size.bytes, 0) + TOKEN_OVERHEAD, by_bytes)


def tokens_estimate(run: RunState, model: ModelChoice, size: Size) -> int:
    """Return a careful estimate of the tokens of such a prompt."""
    known = run.prompt.known.get((model.model, model.base_url)) or KnownPrompt(0, Size())
    return known.tokens + _estimate(run, size - known.size)


def _estimate(run: RunState, new: Size) -> int:
    """Return the estimated tokens of a text that no provider has counted."""
    denser = run.prompt.denser
    return max(min(int(new.tokens * (denser * DENSER_MARGIN if denser > 1 else 1)), new.bytes), 0) + 1


def learn(run: RunState, model: tuple[str, str], tokens: int) -> None:
    """Record a model's and server's count for the present prompt, and whether it is more than was estimated."""
    before = run.prompt.known.get(model) or KnownPrompt(0, Size())
    for known in (before, KnownPrompt(0, Size())):
        estimated = run.context.tokens - known.size.tokens
        if estimated >= LEARNED_TOKENS_MIN:
            run.prompt.denser = max(run.prompt.denser, (tokens - known.tokens) / estimated)
    run.prompt.known[model] = KnownPrompt(tokens, run.context)


def tokens_left(run: RunState) -> int:
    """Return the tokens that a new start may use; those that an open attempt may still be charged are not free."""
    reserved = sum(a.input_tokens_max + a.output_tokens_max for a in run.open_attempts if a.charges_tokens)
    return run.limits.tokens_max - run.tokens - reserved


def output_room(run: RunState, model: ModelChoice) -> int:
    """Return how many tokens of the window are reserved for the answer."""
    return min(model.output_tokens_max, run.limits.model_output_tokens_max, model.window_tokens // OUTPUT_SHARE)


def fit(run: RunState, model: ModelChoice, *, size: Size, tokens_max: int) -> Fit | None:
    """Return the prompt of this ``size`` with as few results left out as necessary; None if none fits.

    It fits into the window by its estimate and into ``tokens_max`` by its bound. The oldest results go first.
    """
    window = model.window_tokens - output_room(run, model)
    whole, estimate_whole = tokens_bound(run, model, size.bytes), tokens_estimate(run, model, size)
    bound = min(whole, size.bytes + TOKEN_OVERHEAD)
    if estimate_whole <= window and bound <= tokens_max:
        return Fit(dropped_to=run.prompt.dropped_to, bound=bound, estimate=estimate_whole)
    smaller, last_n = size, run.proposals[-1].n if run.proposals else 0
    for at, calls in groupby(sorted(droppable(run), key=_outcome_n), key=_outcome_n):
        for call in calls:
            smaller -= _saved(call)
            whole -= _saved(call).bytes if call.proposal_n >= last_n else 0
        bound = min(whole, smaller.bytes + TOKEN_OVERHEAD)
        # The count includes the results that are left out, so the remaining text counts as estimated.
        estimate = min(estimate_whole, _estimate(run, smaller))
        if estimate <= window and bound <= tokens_max:
            return Fit(dropped_to=at, bound=bound, estimate=estimate)
    return None


def base_size(opened: Opened) -> Size:
    """Return the size of the beginning of every prompt: instructions, tools and the task."""
    task, material = opened.task, opened.task.material
    framing = max(task.text_bytes - text_size(task.text).bytes - text_size(material).bytes, 0)
    task_tokens = text_size(task.text).tokens + text_size(material).tokens + framing
    base = min(opened.base_tokens or int(opened.base_bytes * BASE_DENSITY), opened.base_bytes)
    return Size(opened.base_bytes + task.text_bytes, base + min(task_tokens, task.text_bytes))


def answer_size(event: Proposed) -> Size:
    """Return the size of an answer in later prompts: its text and calls, or the provider's blocks of it."""
    own_size = text_size(event.text) + total(text_size(c.args) + text_size(c.tool) + ITEM for c in event.calls)
    return own_size.or_larger(text_size(event.blocks))


def proposal_size(proposal: ProposalState, dropped_to: int) -> Size:
    """Return the largest size of one proposal and its calls' outcomes in a prompt."""
    answers = total(call.shown_size(dropped_to) + ITEM for call in proposal.calls)
    returned = total(map(text_size, proposal.returned.errors)) if proposal.returned else Size()
    edits = total(text_size(c.edit.args) for c in proposal.calls if c.edit and c.edit.approves is not None)
    return total((answer_size(proposal.event), answers, returned, edits, ITEM, ITEM))


def droppable(run: RunState) -> Iterator[CallState]:
    """Return the calls whose results are in the next prompt and could be left out of it."""
    covers_to = run.compactions[-1].covers_to if run.compactions else 0
    for proposal in run.proposals:
        if proposal.n > covers_to:
            yield from (call for call in proposal.calls if call.outcome_n > run.prompt.dropped_to)


def dropped_size(run: RunState, dropped_to: int) -> Size:
    """Return how much smaller the prompt is without the results up to that event."""
    return total(_saved(call) for call in droppable(run) if call.outcome_n <= dropped_to)


def _saved(call: CallState) -> Size:
    """Return how much smaller the prompt is without the result of ``call``."""
    return call.answer_size - DROPPED if call.answer_size.bytes > DROPPED_BYTES else NO_SIZE


def _outcome_n(call: CallState) -> int:
    return call.outcome_n
