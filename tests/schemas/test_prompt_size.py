"""How many tokens a prompt has: never more than the budget has left, never more than the window."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from tests.builders import MODEL, OK, RUN, SPARE, TENANT, Story, agent, at_work, call, reply

from linestop.actors.model_turn.prompt import assemble
from linestop.schemas.defaults import TOKEN_OVERHEAD
from linestop.schemas.events import Compacted, ModelStarted, Sealed, Stopped
from linestop.schemas.model_messages import ModelFailed, Usage
from linestop.schemas.run.starting.prompt_size import TOKEN_BYTES_MAX, tokens_estimate
from linestop.schemas.text.text_size import Size
from linestop.schemas.verify.check_log import verify

ROOMY = {
    "tokens_max": 2_000_000,
    "cost_max_micros": 50_000_000,
    "turns_max": 100,
    "wall_s": 10_000,
    "calls_max": 100,
    "calls_per_tool_max": 100,
    "rejections_max": 50,
    "equal_calls_max": 50,
}
DENSITY = 4
"""Bytes a token of the models here."""


def real(story: Story) -> int:
    """Return the real tokens of the open model request's prompt."""
    start = story.last(ModelStarted)
    prompt = assemble(story.run, story.version, purpose=start.purpose, limit=start.limit)
    return len(msgspec.json.encode(prompt)) // DENSITY


def turn(story: Story, n: int, *, result: str, reported: int | None = None) -> Story:
    """Add one more call of ``look`` with this result; the provider reports the real tokens, or ``reported``."""
    read = real(story) if reported is None else reported
    story.finish_model(reply(call("look", f'{{"q":"{n}"}}', id=f"c{n}"), usage=Usage(fresh_in=read, out=40)))
    return story.finish_tools(**{f"c{n}": msgspec.structs.replace(OK, value=result)})


def test_a_prompt_that_a_model_has_answered_counts_as_its_provider_counted_it() -> None:
    """The bound is the known count and a token a byte for the new part: here less than half of all bytes."""
    story = Story(agent(prompt="Be good. " * 1_000, limits=ROOMY)).open_run().run_until_idle()
    first = story.last(ModelStarted)
    assert first.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD
    before, read = story.run.context_bytes, real(story)
    turn(story, 1, result="y" * 1_000)
    start = story.last(ModelStarted)
    assert start.input_tokens_max == read + story.run.context_bytes - before + TOKEN_OVERHEAD
    assert start.input_tokens_max < story.run.context_bytes // 2


@pytest.mark.parametrize("reported", [1, 50])
def test_a_count_that_is_too_small_to_be_true_is_ignored(reported: int) -> None:
    """No prompt has more than six bytes a token."""
    story = Story(agent(prompt="Be good. " * 1_000, limits=ROOMY)).open_run().run_until_idle()
    before = story.run.context_bytes
    turn(story, 1, result="y", reported=reported)
    assert story.last(ModelStarted).input_tokens_max >= before // TOKEN_BYTES_MAX


def test_a_provider_that_counts_more_than_possible_is_never_used_again() -> None:
    """Its counts are not used as bounds, so every byte counts for the rest of the run."""
    story = Story(agent(limits=ROOMY)).open_run().run_until_idle()
    turn(turn(story, 1, result="y"), 2, result="y", reported=story.run.context_bytes * 3)
    assert story.last(ModelStarted).input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_another_model_and_a_summary_begin_with_bytes_again() -> None:
    """One tokenizer's count says nothing about another tokenizer or another prompt."""
    story = Story(agent(fallbacks=(SPARE,), on_model_down="fall_back", limits=ROOMY)).open_run().run_until_idle()
    turn(story, 1, result="y" * 500)
    for _ in range(4):
        story.finish_model(ModelFailed("availability", "down")).advance_s(10).run_until_idle()
    start = story.last(ModelStarted)
    assert start.model == SPARE.model
    assert start.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_the_same_model_at_another_server_begins_with_bytes_again() -> None:
    """Another server may count differently."""
    other_server = msgspec.structs.replace(MODEL, base_url="http://127.0.0.1:9/v1")
    story = Story(agent(fallbacks=(other_server,), on_model_down="fall_back", limits=ROOMY)).open_run().run_until_idle()
    turn(story, 1, result="y" * 500)
    assert story.last(ModelStarted).input_tokens_max < story.run.context_bytes + TOKEN_OVERHEAD
    for _ in range(4):
        story.finish_model(ModelFailed("availability", "down")).advance_s(10).run_until_idle()
    start = story.last(ModelStarted)
    assert (start.model, start.base_url) == (other_server.model, other_server.base_url)
    assert start.input_tokens_max == story.run.context_bytes + TOKEN_OVERHEAD


def test_unreported_tokens_count_at_their_reservation() -> None:
    """A complete answer may lack its usage, and a lost one may be billed: neither exceeds the budget."""
    story = Story(agent(limits={**ROOMY, "tokens_max": 30_000})).open_run().run_until_idle()
    first = story.last(ModelStarted)
    story.finish_model(ModelFailed("availability", "reset", possibly_billed=True)).advance_s(10).run_until_idle()
    assert story.run.tokens == first.input_tokens_max + first.output_tokens_max
    second = story.last(ModelStarted)
    used = story.run.tokens + second.input_tokens_max + second.output_tokens_max
    story.finish_model(reply(call("look"), usage=Usage(), usage_reported=False))
    assert story.run.tokens == used <= 30_000
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_takeover_leaves_the_tokens_that_the_lost_attempt_may_be_charged() -> None:
    """Both count, so both must fit; otherwise the run ends."""
    roomy = Story(agent(limits={**ROOMY, "tokens_max": 30_000})).open_run().run_until_idle()
    first = roomy.last(ModelStarted)
    each = first.input_tokens_max + first.output_tokens_max
    roomy.advance_s(200).run_until_idle()
    assert roomy.last(ModelStarted).attempt == 2
    assert roomy.run.tokens == each

    tight = Story(agent(limits={**ROOMY, "tokens_max": each + first.input_tokens_max})).open_run().run_until_idle()
    assert tight.last(ModelStarted).attempt == 1
    end = tight.advance_s(200).run_until_idle().last(Stopped)
    assert end.limit is not None
    assert (end.limit.name, end.code) == ("tokens_max", "limit")
    assert tight.run.tokens <= tight.run.limits.tokens_max
    for story in (roomy, tight):
        assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_run_uses_nearly_all_of_its_tokens_and_never_more() -> None:
    """Real usage comes close to the budget, which a bound by bytes alone stopped at three quarters."""
    version = agent(prompt="Be good. " * 300, limits={**ROOMY, "tokens_max": 50_000, "compactions_max": 0})
    story = Story(version).open_run().run_until_idle()
    n = 0
    while story.run.stopped is None:
        n += 1
        story = (
            turn(story, n, result="word " * 100)
            if story.last(ModelStarted).purpose == "turn"
            else story.finish_model(reply(text="summed up", usage=Usage(fresh_in=real(story), out=40)))
        )
        assert story.run.tokens <= 50_000
    assert story.run.tokens > 42_000
    assert story.last(Sealed).partial_is == "summary"
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_the_window_is_never_exceeded_after_the_last_summary() -> None:
    """The oldest results are left out with a note, and the run continues."""
    small = msgspec.structs.replace(SPARE, window_tokens=12_000)
    story = Story(agent(model=small, limits=ROOMY)).open_run().run_until_idle()
    for n in range(40):
        assert real(story) + story.last(ModelStarted).output_tokens_max <= 12_000
        if story.last(ModelStarted).purpose == "compact":
            story.finish_model(reply(text="short", usage=Usage(fresh_in=real(story), out=5)))
        turn(story, n, result="word " * 1_000)
    assert len([e for e in story.run.entries if isinstance(e.event, Compacted)]) == 3
    prompt = assemble(story.run, story.version)
    notes = [m.text for m in prompt.messages if m.text.startswith("[Left out")]
    assert notes
    assert "5000 bytes. Make the call again" in notes[0]
    assert not prompt.messages[-1].text.startswith("[Left out")
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_prompt_that_does_not_fit_into_any_window_ends_the_run_with_a_reason() -> None:
    """The reason names the model, its window and the remedy; nothing is sent."""
    tiny = msgspec.structs.replace(SPARE, window_tokens=1_000)
    story = Story(agent(model=tiny, prompt="x" * 4_000)).open_run().run_until_idle()
    event = story.last(Stopped)
    assert event.limit is not None
    assert (event.code, event.limit.name, event.limit.max_value) == ("limit", "window_tokens", 1_000)
    assert "has a window of 1000: use a model with a larger one" in event.why
    assert not [e for e in story.run.entries if isinstance(e.event, ModelStarted)]


def test_a_result_as_large_as_the_window_is_left_out_at_once() -> None:
    """The model receives a note with its size."""
    small = msgspec.structs.replace(SPARE, window_tokens=4_000, output_tokens_max=500)
    story = at_work(call("look"), version=agent(model=small, limits=ROOMY))
    story.finish_tools(look=msgspec.structs.replace(OK, value="word " * 3_000))
    assert story.last(ModelStarted).dropped_to > 0
    assert assemble(story.run, story.version).messages[-1].text.startswith("[Left out to fit the model's window: 15000")


KINDS: dict[str, str] = {
    "prose": "what we found in the house was not what they had said it would be; ",
    "digits": "4711 80 3 ",
    "identifier": "a3f9-77c0e1b2-",
    "base64": "Zm9vYmFyQmF6cXV4",
    "table": '{"a":[1,2],"b":0},',
    "Chinese": "我们再次检查了订单",
    "emoji": "🚀👍",
    "white": "\n\t",
    "capitals": "XQZV ",
    "random": "qwzx jkvb ",
}
"""Texts of one kind each, to be repeated."""


def dense(text: str) -> int:
    """Count like the worst measured tokenizers: four bytes of a word are a token, and every other byte is one."""
    words = [word for word in text.encode().replace(b"\n", b" \n ").split(b" ") if word]
    return (
        sum(
            -(-len(word) // 4) if word.isalpha() and word.islower() and not set(word) & set(b"jqxz") else len(word)
            for word in words
        )
        + text.count("\n")
        + text.count("\t")
    )


def dense_prompt(story: Story) -> int:
    """Return its count for the open model request's prompt."""
    start = story.last(ModelStarted)
    prompt = assemble(story.run, story.version, purpose=start.purpose, limit=start.limit)
    texts = [
        prompt.system,
        *(m.result_text for m in prompt.messages),
        *(c.args for m in prompt.messages for c in m.calls),
    ]
    return sum(dense(text) + 8 for text in texts) + sum(dense(str(spec)) for spec in prompt.tools)


@pytest.mark.parametrize("window", [8_000, 20_000])
@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_of_texts_exceeds_the_window(seed: int, window: int) -> None:
    """Prose first, so that a density learned from it would be wrong; then any kind and size, to the end of the run."""
    chance = Random(seed)
    small = msgspec.structs.replace(SPARE, window_tokens=window, output_tokens_max=500)
    story = Story(agent(model=small, limits={**ROOMY, "turns_max": 30})).open_run().run_until_idle()
    n = read_max = 0
    while story.run.stopped is None and n < 60:
        start, read, n = story.last(ModelStarted), dense_prompt(story), n + 1
        assert read + start.output_tokens_max <= window
        read_max = max(read_max, read)
        if start.purpose != "turn":
            story.finish_model(reply(text="summed up", usage=Usage(fresh_in=read, out=40)))
            continue
        kind = "prose" if n < 3 else chance.choice(list(KINDS))
        size = chance.choice([200, 2_000, 9_000, 16_000, 30_000])
        story.finish_model(reply(call("look", f'{{"q":"{n}"}}', id=f"c{n}"), usage=Usage(fresh_in=read, out=40)))
        story.finish_tools(**{f"c{n}": msgspec.structs.replace(OK, value=(KINDS[kind] * size)[: size // 2])})
    assert read_max > window // 3
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_the_digits_of_a_result_are_not_taken_for_prose() -> None:
    """16 kB of digits after a prompt of four bytes a token: left out of a window of 8,000, not sent into it."""
    small = msgspec.structs.replace(SPARE, window_tokens=8_000, output_tokens_max=500)
    story = Story(agent(model=small, limits=ROOMY)).open_run().run_until_idle()
    turn(story, 1, result="word " * 1_000)
    turn(story, 2, result="4711" * 4_000)
    assert story.last(ModelStarted).dropped_to == story.run.calls["c2"].outcome_n
    assert dense_prompt(story) <= 8_000


def test_the_count_of_a_tokenizer_that_counts_more_than_any_other_is_used() -> None:
    """Its ratio to the estimate applies to all new text, and never gives more than the bytes."""
    story = Story(agent(limits={**ROOMY, "tokens_max": 2_000_000})).open_run().run_until_idle()
    for n in range(2):
        story.finish_model(
            reply(
                call("look", f'{{"q":"{n}"}}', id=f"c{n}"), usage=Usage(fresh_in=story.run.context_bytes - 500, out=40)
            )
        )
        story.finish_tools(**{f"c{n}": msgspec.structs.replace(OK, value="word " * 600)})
    run = story.run
    more = Size.of("word " * 600)
    estimate = tokens_estimate(run, story.version.model, run.context + more) - tokens_estimate(
        run, story.version.model, run.context
    )
    assert more.tokens * 2 < estimate <= more.bytes + 1
