"""The rules of the fold: what an event changes, and why one is ignored, whichever process wrote it."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import OK, Story, at_work, call, reply

from linestop.actors.facts import Worker
from linestop.schemas.events import (
    AnyEvent,
    Compacted,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    Refused,
    Returned,
    Stopped,
)
from linestop.schemas.model_messages import ModelFailed, Usage


def test_a_start_counts_as_reserved_until_its_outcome_and_as_spent_afterwards() -> None:
    """The real cost replaces the reservation."""
    story = Story().open_run().run_until_idle()
    cost = story.last(ModelStarted).cost_max_micros
    assert (story.run.reserved_micros, story.run.spent_micros) == (cost, 0)
    story.given(Proposed(turn=1, attempt=1, text="x", final=True, cost_micros=7, usage=Usage(fresh_in=3)))
    assert (story.run.reserved_micros, story.run.spent_micros, story.run.tokens) == (0, 7, 3)


def test_a_start_fits_if_it_is_not_negative_and_covered() -> None:
    """The check is exact to the micro-dollar."""
    run = Story().open_run().when("budget").append_decided().run
    assert run.fits(run.available_micros)
    assert not run.fits(run.available_micros + 1)
    assert not run.fits(-1)


@pytest.mark.parametrize(
    "event",
    [
        Proposed(turn=1, attempt=2),
        Proposed(turn=2, attempt=1),
        ModelFailedEvent(turn=9, attempt=1, kind="unknown", message=""),
        Compacted(turn=1, attempt=1, covers_from=1, covers_to=2, summary="s"),
    ],
)
def test_a_result_without_its_start_is_ignored(event: AnyEvent) -> None:
    """An answer needs a request."""
    assert Story().open_run().run_until_idle().append("planner", event).ignored


def test_a_second_result_of_one_attempt_is_ignored() -> None:
    """The first result counts."""
    story = Story().open_run().run_until_idle().finish_model(reply(call("look")))
    assert "has its result" in story.append("planner", Proposed(turn=1, attempt=1)).ignored
    failed = ModelFailedEvent(turn=1, attempt=1, kind="unknown", message="x")
    assert "has its result" in story.append("planner", failed).ignored


@pytest.mark.parametrize(("turn", "attempt"), [(1, 1), (1, 3), (2, 1)])
def test_a_start_with_another_turn_or_attempt_than_the_next_is_ignored(turn: int, attempt: int) -> None:
    """No number is skipped or repeated: after a failure comes the next attempt of the same turn."""
    story = Story().open_run().run_until_idle().finish_model(ModelFailed("availability", "down"))
    wrong = msgspec.structs.replace(story.last(ModelStarted), turn=turn, attempt=attempt)
    assert story.append("planner", wrong).ignored == "the next model request is attempt 2 of turn 1"


def test_a_proposal_of_a_superseded_attempt_counts_only_its_cost() -> None:
    """Its calls are not made."""
    story = Story().open_run().run_until_idle()
    story.when("planner", Worker(id="w#2")).append_decided()
    story.given(*story.planner_events(reply(call("look")), n=3))
    assert story.run.calls == {}
    assert story.run.phase == "thinking"


def test_the_first_stop_stands() -> None:
    """A second one changes nothing."""
    story = at_work(call("look")).given(Stopped(by="ann", why="first"), by="operator")
    story.given(Stopped(by="bob", why="second"), by="planner")
    assert story.run.stopped is not None
    assert (story.run.stopped.why, story.run.stopped_role) == ("first", "operator")


def test_a_task_is_refused_once() -> None:
    """After the opening it cannot be refused."""
    refusal = Refused(code="stopped", sentence="x")
    story = Story().given(Stopped(by="a", why="b"), by="operator").given(refusal)
    assert "opened or refused before" in story.append("validator", refusal).ignored
    opened = Story().open_run().given(Stopped(by="a", why="b"), by="operator")
    assert "opened or refused before" in opened.append("validator", refusal).ignored


def test_a_returned_answer_lets_the_model_be_requested_again() -> None:
    """Its errors are part of the next prompt."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply()))
    before = story.run.context_bytes
    story.given(Returned(proposal_n=story.run.n, errors=("too short",), returned_in_a_row=1))
    assert (story.run.phase, story.run.returned_in_a_row) == ("queued", 1)
    assert story.run.context_bytes > before


def test_a_summary_replaces_the_events_that_it_covers() -> None:
    """The bound on the prompt becomes smaller."""
    story = at_work(call("look")).finish_tools(look=msgspec.structs.replace(OK, value="x" * 9_000))
    attempt = story.run.turn_attempts[-1]
    attempt.purpose = "compact"
    before = story.run.context_bytes
    story.given(Compacted(turn=2, attempt=1, covers_from=1, covers_to=story.run.proposals[-1].n, summary="s"))
    assert story.run.context_bytes < before - 9_000
    assert story.run.phase == "queued"


def test_a_summary_that_comes_after_a_stop_is_only_paid_for() -> None:
    """A late result closes its attempt and changes nothing else."""
    story = at_work(call("look")).finish_tools(look=OK)
    story.run.turn_attempts[-1].purpose = "compact"
    story.given(Stopped(by="a", why="b"), by="operator")
    story.given(Compacted(turn=2, attempt=1, covers_from=1, covers_to=4, summary="s", cost_micros=9))
    assert (story.run.compactions, story.run.open_attempts, story.run.spent_micros) == ([], [], 209)
