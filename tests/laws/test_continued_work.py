"""What a fold or a role keeps so that a turn costs what is new in it: always what the whole log says."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import OK, Story, agent, at_work, call, reply
from tests.laws.walk import AGENTS, Walk

from linestop.actors.model_turn.prompt import Conversations, Prompt, assemble
from linestop.schemas.events import Compacted, Edited, ModelStarted, Policy
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import canonical

NUMBERS = st.lists(st.integers(0, 1_000_000), min_size=10, max_size=120)
BOUNDED = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def digest(prompt: Prompt) -> str:
    """The digest of a prompt, computed from all of it."""
    optional = [prompt.params, prompt.output_schema] if prompt.params or prompt.output_schema else []
    return hashlib.sha256(canonical([prompt.system, prompt.messages, prompt.tools, *optional])).hexdigest()


@BOUNDED
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_a_prompt_that_continues_the_last_one_is_the_prompt_of_the_whole_log(choice: int, numbers: list[int]) -> None:
    """At every moment of a random history: through summaries, results left out, edits, returned and late results."""
    walk, conversations = Walk(choice, check=False), Conversations()
    for number in numbers:
        walk.step(number)
        if walk.run.opened is None:
            continue
        for dropped_to in (0, walk.run.n):
            expect_the_same(walk, conversations, dropped_to=dropped_to)


def expect_the_same(story: Story, conversations: Conversations, *, dropped_to: int = 0) -> None:
    """Expect that the continued prompt and its digest are those that the log gives."""
    continued = assemble(story.run, story.version, dropped_to=dropped_to, conversations=conversations)
    assert continued == assemble(story.run, story.version, dropped_to=dropped_to)
    assert continued.sha256 == digest(continued)


def test_a_prompt_begins_again_after_a_summary_and_when_results_are_left_out() -> None:
    """The summary stands for the turns that it covers, and the note for the result."""
    conversations = Conversations()
    story = at_work(call("look")).finish_tools(look=msgspec.structs.replace(OK, value="z" * 8_000))
    expect_the_same(story, conversations)
    expect_the_same(story, conversations, dropped_to=story.run.n)
    expect_the_same(story, conversations)
    start, covered = story.last(ModelStarted), story.run.proposals[-1].n
    story.run.turn_attempts[-1].purpose = "compact"
    summary = Compacted(turn=start.turn, attempt=1, covers_from=1, covers_to=covered, summary="looked once")
    story.given(summary).run_until_idle()
    expect_the_same(story, conversations)
    story.finish_model(reply(call("look", id="again"))).finish_tools(again=OK)
    expect_the_same(story, conversations)


@BOUNDED
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_what_the_fold_keeps_about_calls_and_attempts_is_what_a_walk_over_them_finds(
    choice: int, numbers: list[int]
) -> None:
    """The calls that count against a limit, those of one effect, and the attempts that an event ended."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
        run = walk.run
        calls = list(run.calls.values())
        assert +run.judged_calls.passed == Counter(each.tool for each in calls if each.has_passed)
        for key in {each.judged.effect_key for each in calls if each.judged}:
            same = [each.call for each in calls if each.judged and each.judged.effect_key == key]
            assert [each.call for each in run.judged_calls.of_effect(key)] == same
        assert ended(run) == {n: attempts for n in range(1, run.n + 1) if (attempts := ended_in(run, n))}


def ended(run: Run) -> dict[int, set[tuple[str, int, int]]]:
    """What the fold keeps."""
    return {n: {_name(attempt) for attempt in attempts} for n, attempts in run.ended_attempts.items()}


def ended_in(run: Run, n: int) -> set[tuple[str, int, int]]:
    """The attempts that event ``n`` took over, or whose result is event ``n``."""
    name, event = run.entries[n - 1].name, run.entries[n - 1].event
    everything = [attempt for attempts in run.attempts.values() for attempt in attempts]
    results = {"proposed", "failed", "compacted", "finished"}
    own = (getattr(event, "call", ""), getattr(event, "turn", 0), getattr(event, "attempt", 0))
    ours = {_name(a) for a in everything if name in results and _name(a) == own and not run.entries[n - 1].ignored}
    return ours | {_name(a) for a in everything if a.superseded_n == n}


def _name(attempt: Attempt) -> tuple[str, int, int]:
    return attempt.call, attempt.turn, attempt.attempt


def test_an_edited_call_keeps_its_place_among_the_calls_of_its_effect() -> None:
    """It is judged after the later ones of its answer, and was proposed before them."""
    story = at_work(
        call("look", '{"q":"x"}', id="first"),
        call("look", '{"q":"y"}', id="second"),
        version=agent(policy=Policy(ask=("look",))),
    )
    story.send_control("edit", call="first", args={"q": "y"}).then(Edited)
    story.run_until_idle()
    judged = story.run.calls["second"].judged
    assert judged is not None
    assert [each.call for each in story.run.judged_calls.of_effect(judged.effect_key)] == ["first", "second"]
    assert story.run.judged_calls.passed["look"] == 2
