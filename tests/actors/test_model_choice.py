"""Which model is asked when one is down or asks to wait, to the second; the checker agrees, and sees what breaks it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import OK, SPARE, Story, agent, call, reply

from linestop.schemas.events import ModelStarted, Stopped
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.verify.check_log import verify
from linestop.schemas.verify.verdict import Verdict

DOWN = ModelFailed("availability", "connection refused")
MAIN, OTHER = "playbook/large", "playbook/small"


def _slow(seconds: float) -> ModelFailed:
    return ModelFailed("rate_limit", "slow down", status=429, retry_after_s=seconds)


def _story(**fields: Any) -> Story:
    given: dict[str, Any] = {"fallbacks": (SPARE,), **fields}
    given["limits"] = {"wall_s": 10_000, **given.get("limits", {})}
    return Story(agent(**given)).open_run().run_until_idle()


def _asked(story: Story) -> list[str]:
    return [entry.event.model for entry in story.run.entries if isinstance(entry.event, ModelStarted)]


def _verdict(story: Story) -> Verdict:
    return verify(story.run.tenant, story.run.run, story.messages)


@pytest.mark.parametrize(
    ("asked_s", "limits", "falls_back"),
    [
        (30.0, {}, False),
        (30.001, {}, True),
        (3_600.0, {}, True),
        (5.0, {"model_wait_max_s": 5}, False),
        (5.1, {"model_wait_max_s": 5}, True),
        (3_600.0, {"model_wait_max_s": 3_600}, False),
        (25.0, {"run_max_s": 25}, True),
        (24.0, {"run_max_s": 25}, False),
    ],
)
def test_a_wait_that_is_too_long_or_does_not_fit_goes_to_the_fallback_at_once(
    asked_s: float, limits: dict[str, float], *, falls_back: bool
) -> None:
    """One that fits is waited for, to the moment that the provider named."""
    story = _story(limits=limits).finish_model(_slow(asked_s))
    assert _asked(story) == ([MAIN, OTHER] if falls_back else [MAIN])
    if not falls_back:
        story.advance_s(asked_s - 0.001).when("planner").expect_nothing()
        assert story.advance_s(0.001).when("planner").then(ModelStarted).model == MAIN
    else:
        assert story.last(ModelStarted).at == story.now
        assert story.last(ModelStarted).fallback_of == MAIN
    assert _verdict(story).status == "consistent"


@pytest.mark.parametrize(
    ("choice", "code"), [("fall_back", "model_down"), ("fail", "model_down"), ("hand_off", "handed_off")]
)
def test_without_a_fallback_a_wait_that_is_too_long_ends_the_run_at_once(choice: str, code: str) -> None:
    """The sentence names the provider's wait, the bound and its key."""
    story = _story(fallbacks=(), on_model_down=choice).finish_model(_slow(3_600))
    stopped = story.last(Stopped)
    assert (stopped.code, stopped.at) == (code, story.now)
    assert "playbook/large asks to wait 3600 s, and a run waits at most 30 s (model_wait_max_s)" in stopped.why
    assert "slow down" in stopped.why


def test_a_run_that_queues_waits_as_long_as_the_provider_asks_and_the_wait_is_not_work() -> None:
    """To the second, instead of the usual minute."""
    story = _story(on_model_down="queue").finish_model(_slow(3_600))
    start = next_start(story.run, story.now)
    assert isinstance(start, NextStart)
    assert start.at == story.now + timedelta(seconds=3_600)
    story.advance_s(3_600)
    assert story.run.active_s(story.now) == 0
    assert story.run_until_idle().last(ModelStarted).at == story.now
    assert _asked(story) == [MAIN, MAIN]


def _on_fallback(**fields: Any) -> Story:
    """A run whose own model was down, and whose fallback has proposed a call that is in progress."""
    story = _story(limits={"model_retries_max": 0}, **fields).finish_model(DOWN)
    return story.finish_model(reply(call("look")))


@pytest.mark.parametrize(("seconds", "first"), [(0, OTHER), (59.999, OTHER), (60, MAIN), (300, MAIN)])
def test_a_fallback_that_answered_is_tried_first_for_a_minute(seconds: float, first: str) -> None:
    """From the failure of the model before it; then the run's own model is tried first again."""
    story = _on_fallback().advance_s(seconds).finish_tools(look=OK)
    assert _asked(story) == [MAIN, OTHER, first]
    assert story.last(ModelStarted).fallback_of == (MAIN if first == OTHER else "")
    assert _verdict(story).status == "consistent"


def test_an_outage_costs_one_round_of_retries_a_minute_and_not_one_a_turn() -> None:
    """Four turns in a minute: the model that is down is asked in the first only."""
    story = _on_fallback()
    for turn in range(3):
        story.advance_s(10).finish_tools(**{"look" if not turn else f"look{turn}": OK})
        story.finish_model(reply(call("look", f'{{"q":"order {turn}"}}', id=f"look{turn + 1}")))
    assert _asked(story) == [MAIN, OTHER, OTHER, OTHER, OTHER]


def test_a_provider_that_named_its_wait_is_not_asked_before() -> None:
    """Also if the wait is longer than a minute."""
    story = _story().finish_model(_slow(600)).finish_model(reply(call("look"))).advance_s(599).finish_tools(look=OK)
    assert _asked(story) == [MAIN, OTHER, OTHER]


def test_a_fallback_that_goes_down_gives_the_run_back_to_its_own_model() -> None:
    """Each model is asked in each turn before the run gives up."""
    story = _on_fallback().finish_tools(look=OK).finish_model(DOWN)
    assert _asked(story) == [MAIN, OTHER, OTHER, MAIN]
    assert story.last(ModelStarted).attempt == 2
    assert story.finish_model(DOWN).last(Stopped).code == "model_down"
    assert _verdict(story).status == "consistent"


def test_a_model_that_replies_again_is_no_longer_down() -> None:
    """The next turn begins with it."""
    story = _on_fallback().finish_tools(look=OK).finish_model(DOWN)
    story.finish_model(reply(call("look", '{"q":"again"}', id="look2"))).finish_tools(look2=OK)
    assert _asked(story)[-1] == MAIN


def test_a_fallback_without_a_failure_before_it_is_found_by_the_checker() -> None:
    """A planner may not choose a model by itself."""
    story = _story()
    started = story.last(ModelStarted)
    story.given(*story.planner_events(ModelFailed("malformed", "odd")))
    cost = SPARE.price.cost_max_micros(started.input_tokens_max, started.output_tokens_max)
    story.append("planner", msgspec.structs.replace(started, attempt=2, model=OTHER, cost_max_micros=cost))
    sentences = [problem.sentence for problem in _verdict(story).problems]
    assert "It requests the fallback 'playbook/small' although no model was known to be down." in sentences
