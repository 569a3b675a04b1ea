"""How many tokens a prompt has: never more than the budget has left, never more than the window."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import MODEL, OK, RUN, SPARE, TENANT, Story, agent, at_work, call, reply

from linestop.actors.context import assemble
from linestop.schemas.events import Compacted, ModelStarted, Sealed, Stopped
from linestop.schemas.limits import TOKEN_OVERHEAD
from linestop.schemas.model import ModelFailed, Usage
from linestop.schemas.prompt_size import TOKEN_BYTES_MAX
from linestop.schemas.verify import verify

ROOMY = {"tokens_max": 2_000_000, "cost_max_micros": 50_000_000, "turns_max": 100, "wall_s": 10_000,
         "calls_max": 100, "calls_per_tool_max": 100, "rejections_max": 50, "equal_calls_max": 50}  # fmt: skip
DENSITY = 4
"""Bytes a token of the models here."""


def real(story: Story) -> int:
    """What the open model call's prompt really has in tokens."""
    start = story.last(ModelStarted)
    prompt = assemble(story.run, story.version, purpose=start.purpose, limit=start.limit)
    return len(msgspec.json.encode(prompt)) // DENSITY


def turn(story: Story, n: int, *, result: str, reported: int | None = None) -> Story:
    """One more look with this result; the provider reports the real tokens, or ``reported``."""
    read = real(story) if reported is None else reported
    story.model(reply(call("look", f'{{"q":"{n}"}}', id=f"c{n}"), usage=Usage(fresh_in=read, out=40)))
    return story.tools(**{f"c{n}": msgspec.structs.replace(OK, value=result)})


def test_what_a_model_has_answered_to_counts_as_it_was_counted() -> None:
    """The bound is the known part and a token a byte for what is new: here less than half of all bytes."""
    story = Story(agent(prompt="Be good. " * 1_000, limits=ROOMY)).opened().quiet()
    first = story.last(ModelStarted)
    assert first.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD
    before, read = story.run.context_bytes, real(story)
    turn(story, 1, result="y" * 1_000)
    start = story.last(ModelStarted)
    assert start.input_tokens_max == read + story.run.context_bytes - before + TOKEN_OVERHEAD
    assert start.input_tokens_max < story.run.context_bytes // 2


@pytest.mark.parametrize("reported", [1, 50])
def test_a_count_that_is_too_small_to_be_true_is_not_believed(reported: int) -> None:
    """No prompt has more than six bytes a token."""
    story = Story(agent(prompt="Be good. " * 1_000, limits=ROOMY)).opened().quiet()
    before = story.run.context_bytes
    turn(story, 1, result="y", reported=reported)
    assert story.last(ModelStarted).input_tokens_max >= before // TOKEN_BYTES_MAX


def test_a_provider_that_counts_more_than_it_could_is_not_believed_again() -> None:
    """Its counts bound nothing, so every byte counts for the rest of the run."""
    story = Story(agent(limits=ROOMY)).opened().quiet()
    turn(turn(story, 1, result="y"), 2, result="y", reported=story.run.context_bytes * 3)
    assert story.last(ModelStarted).input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_another_model_and_a_summary_begin_with_bytes_again() -> None:
    """One tokeniser's count says nothing of another's, nor of another prompt."""
    story = Story(agent(fallbacks=(SPARE,), on_model_down="fall_back", limits=ROOMY)).opened().quiet()
    turn(story, 1, result="y" * 500)
    for _ in range(4):
        story.model(ModelFailed("availability", "down")).wait(10).quiet()
    start = story.last(ModelStarted)
    assert start.model == SPARE.model
    assert start.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_the_same_model_at_another_server_begins_with_bytes_again() -> None:
    """Another server may count another way."""
    there = msgspec.structs.replace(MODEL, base_url="http://127.0.0.1:9/v1")
    story = Story(agent(fallbacks=(there,), on_model_down="fall_back", limits=ROOMY)).opened().quiet()
    turn(story, 1, result="y" * 500)
    assert story.last(ModelStarted).input_tokens_max < story.run.context_bytes + TOKEN_OVERHEAD
    for _ in range(4):
        story.model(ModelFailed("availability", "down")).wait(10).quiet()
    start = story.last(ModelStarted)
    assert (start.model, start.base_url) == (there.model, there.base_url)
    assert start.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_unreported_tokens_count_as_they_were_reserved() -> None:
    """Whether a whole answer has no usage, or a lost one may be billed: never over the budget."""
    story = Story(agent(limits={**ROOMY, "tokens_max": 30_000})).opened().quiet()
    first = story.last(ModelStarted)
    story.model(ModelFailed("availability", "reset", possibly_billed=True)).wait(10).quiet()
    assert story.run.tokens == first.input_tokens_max + first.output_tokens_max
    second = story.last(ModelStarted)
    used = story.run.tokens + second.input_tokens_max + second.output_tokens_max
    story.model(reply(call("look"), usage=Usage(), usage_reported=False))
    assert story.run.tokens == used <= 30_000
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_takeover_leaves_the_tokens_that_the_lost_attempt_may_be_charged() -> None:
    """Both count, so both must fit; where they do not, the run ends instead."""
    roomy = Story(agent(limits={**ROOMY, "tokens_max": 30_000})).opened().quiet()
    first = roomy.last(ModelStarted)
    each = first.input_tokens_max + first.output_tokens_max
    roomy.wait(200).quiet()
    assert roomy.last(ModelStarted).attempt == 2
    assert roomy.run.tokens == each

    tight = Story(agent(limits={**ROOMY, "tokens_max": each + first.input_tokens_max})).opened().quiet()
    assert tight.last(ModelStarted).attempt == 1
    end = tight.wait(200).quiet().last(Stopped)
    assert end.limit is not None
    assert (end.limit.name, end.code) == ("tokens_max", "limit")
    assert tight.run.tokens <= tight.run.limits.tokens_max
    for story in (roomy, tight):
        assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_run_uses_nearly_all_of_its_tokens_and_never_more() -> None:
    """Real usage comes close to the budget, which a bound by bytes alone stopped at three quarters."""
    version = agent(prompt="Be good. " * 300, limits={**ROOMY, "tokens_max": 50_000, "compactions_max": 0})
    story = Story(version).opened().quiet()
    n = 0
    while story.run.stopped is None:
        n += 1
        story = (
            turn(story, n, result="word " * 100)
            if story.last(ModelStarted).purpose == "turn"
            else story.model(reply(text="summed up", usage=Usage(fresh_in=real(story), out=40)))
        )
        assert story.run.tokens <= 50_000
    assert story.run.tokens > 42_000
    assert story.last(Sealed).partial_is == "summary"
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_the_window_is_never_exceeded_after_the_last_summary() -> None:
    """The oldest results are left out with a note, and the run goes on."""
    small = msgspec.structs.replace(SPARE, window_tokens=12_000)
    story = Story(agent(model=small, limits=ROOMY)).opened().quiet()
    for n in range(40):
        assert real(story) + story.last(ModelStarted).output_tokens_max <= 12_000
        if story.last(ModelStarted).purpose == "compact":
            story.model(reply(text="short", usage=Usage(fresh_in=real(story), out=5)))
        turn(story, n, result="word " * 1_000)
    assert len([e for e in story.run.entries if isinstance(e.event, Compacted)]) == 3
    prompt = assemble(story.run, story.version)
    notes = [m.text for m in prompt.messages if m.text.startswith("[Left out")]
    assert notes
    assert "5000 bytes. Make the call again" in notes[0]
    assert not prompt.messages[-1].text.startswith("[Left out")
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_prompt_that_fits_into_no_window_ends_the_run_in_a_sentence() -> None:
    """It names the model, its window and what to do; nothing is sent."""
    tiny = msgspec.structs.replace(SPARE, window_tokens=1_000)
    story = Story(agent(model=tiny, prompt="x" * 4_000)).opened().quiet()
    event = story.last(Stopped)
    assert event.limit is not None
    assert (event.code, event.limit.name, event.limit.max_value) == ("limit", "window_tokens", 1_000)
    assert "has a window of 1000: use a model with a larger one" in event.why
    assert not [e for e in story.run.entries if isinstance(e.event, ModelStarted)]


def test_a_result_as_large_as_the_window_is_left_out_at_once() -> None:
    """The model is told that it was, and how large it is."""
    small = msgspec.structs.replace(SPARE, window_tokens=4_000, output_tokens_max=500)
    story = at_work(call("look"), version=agent(model=small, limits=ROOMY))
    story.tools(look=msgspec.structs.replace(OK, value="word " * 3_000))
    assert story.last(ModelStarted).dropped_to > 0
    assert assemble(story.run, story.version).messages[-1].text.startswith("[Left out to fit the model's window: 15000")
