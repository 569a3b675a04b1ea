"""Attempts that their busy worker did not begin: they cost no try, wait longer each time, and are bounded."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.builders import RUN, TENANT, Story, agent, at_work, call, contract, refolded

from linestop.schemas.defaults import MODEL_RETRY_DELAYS_S, NOT_BEGUN_DELAY_MAX_S, NOT_BEGUN_DELAY_S, NOT_BEGUN_MAX
from linestop.schemas.events import EffectStarted, Finished, ModelFailedEvent, ModelStarted
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.run.fold import Run
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.next_start import Exhausted, NextStart, next_start
from linestop.schemas.tool_contracts import ToolResult
from linestop.schemas.verify.check_log import verify

BUSY = ModelFailed("cancelled", "The worker was too busy.", begun=False)
DOWN = ModelFailed("availability", "It is down.", status=503)
IDLE = ToolResult(outcome="never_started", begun=False)


def wait_s(story: Story) -> float:
    """Return how long the next start has to wait."""
    found = next_start(story.run, story.now)
    assert isinstance(found, NextStart), found
    return (found.at - story.now).total_seconds()


def until_next(story: Story) -> Story:
    """Let the pause before the next start pass, and let it start."""
    return story.advance_s(wait_s(story)).run_until_idle()


def test_a_model_request_that_did_not_begin_costs_no_try() -> None:
    """Beyond its retries it is still started, and a real failure afterwards has all of its retries."""
    story = Story(agent(limits={"model_retries_max": 1, "wall_s": 3_600})).open_run().run_until_idle()
    for _ in range(5):
        until_next(story.finish_model(BUSY))
    assert story.run.phase is Phase.THINKING
    assert story.last(ModelStarted).attempt == 6
    until_next(story.finish_model(DOWN)).finish_model(DOWN)
    assert story.run.stopped is not None
    assert "2 attempts" in story.run.stopped.why


def test_the_pause_doubles_and_is_bounded() -> None:
    """Half a second, one, two …, thirty, a quarter either way; an attempt that begins resets it."""
    story = Story(agent(limits={"wall_s": 36_000})).open_run().run_until_idle()
    pauses: list[float] = []
    for _ in range(10):
        pauses.append(wait_s(story.finish_model(BUSY)))
        until_next(story)
    expected = [min(NOT_BEGUN_DELAY_S * 2**k, NOT_BEGUN_DELAY_MAX_S) for k in range(10)]
    assert [pause / base for pause, base in zip(pauses, expected, strict=True)] == pytest.approx([1.0] * 10, abs=0.251)
    assert wait_s(story.finish_model(DOWN)) == pytest.approx(MODEL_RETRY_DELAYS_S[0], abs=0.26)


def test_a_model_request_that_never_begins_ends_the_run_after_a_bound() -> None:
    """The bound is large, but exists."""
    story = Story(agent(limits={"model_retries_max": 0, "wall_s": 36_000})).open_run().run_until_idle()
    for count in range(1, NOT_BEGUN_MAX + 3):
        story.finish_model(BUSY)
        if story.run.done:
            assert count == NOT_BEGUN_MAX + 1
            return
        until_next(story)
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("tool", ["look", "pay"])
def test_a_tool_call_that_did_not_begin_costs_no_try(tool: str) -> None:
    """Also one that is not safe to repeat is started again, after its pause and under the same key."""
    one = contract(tool, tier="read" if tool == "look" else "irreversible", retries_max=0)
    story = at_work(call(tool), version=agent(tools=(one,), limits={"wall_s": 3_600}))
    if tool == "pay":
        story.send_control("approve", call=tool).append_decided().run_until_idle()
    keys = {story.last(EffectStarted).calls[0].effect_key}
    for k in range(4):
        story.finish_tools(**{tool: IDLE})
        assert story.stage(tool) == "ready"
        assert wait_s(story) == pytest.approx(NOT_BEGUN_DELAY_S * 2**k, rel=0.26)
        until_next(story)
        keys.add(story.last(EffectStarted).calls[0].effect_key)
    assert (story.stage(tool), len(keys)) == ("open", 1)
    story.finish_tools(**{tool: ToolResult(outcome="succeeded", value=1)})
    assert story.stage(tool) == "answered"
    assert verify(TENANT, RUN, story.messages).status != "broken"


def test_a_start_before_its_pause_is_over_is_ignored() -> None:
    """The pause gives a busy worker time to recover."""
    story = at_work(call("look"))
    started = story.last(EffectStarted)
    story.finish_tools(look=IDLE)
    line = msgspec.structs.replace(started.calls[0], attempt=2)
    entry = story.append("executor", msgspec.structs.replace(started, calls=(line,)))
    assert "may not start before" in entry.ignored


def test_an_older_log_is_folded_as_before() -> None:
    """``never_started`` without ``begun`` counted as a try and was repeated at once."""
    one = contract("look", retries_max=0)
    story = at_work(call("look"), version=agent(tools=(one,)))
    story.given(Finished(call="look", attempt=1, outcome="never_started"))
    assert (story.stage("look"), story.run.calls["look"].outcome_text) == ("answered", "The call could not be started.")
    story = at_work(call("look"))
    story.given(Finished(call="look", attempt=1, outcome="never_started"))
    assert wait_s(story) == 0.0


@pytest.mark.parametrize(
    "claim",
    [
        ModelFailedEvent(turn=1, attempt=1, kind="cancelled", message="", begun=False, charged_micros=5),
        ModelFailedEvent(turn=1, attempt=1, kind="cancelled", message="", begun=False, possibly_billed=True),
    ],
)
def test_an_attempt_that_cost_something_began(claim: ModelFailedEvent) -> None:
    """Readers count it as a try although it claims not to have begun, and ``verify`` calls the log broken."""
    story = Story(agent(limits={"model_retries_max": 0})).open_run().run_until_idle()
    story.given(claim)
    assert isinstance(next_start(story.run, story.now + timedelta(seconds=60)), Exhausted)
    assert any("did not begin" in finding.sentence for finding in verify(TENANT, RUN, story.messages).problems)


def test_a_tool_call_that_has_a_result_began() -> None:
    """``begun`` counts only with ``never_started``."""
    story = at_work(call("look"))
    story.given(Finished(call="look", attempt=1, outcome="failed", begun=False))
    assert story.run.calls["look"].tries == 1
    assert any("did not begin" in finding.sentence for finding in verify(TENANT, RUN, story.messages).problems)


def test_every_reader_folds_the_same() -> None:
    """The state follows from the log alone."""
    story = Story().open_run().run_until_idle().finish_model(BUSY)
    found: Run = refolded(story)
    assert next_start(found, story.now) == next_start(story.run, story.now)
