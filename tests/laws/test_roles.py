"""The laws of every role, in runs made of any events in any order."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import refolded
from tests.laws.walk import AGENTS, Walk

from linestop.schemas.events import Sealed

NUMBERS = st.lists(st.integers(0, 1_000_000), min_size=10, max_size=60)
BOUNDED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@BOUNDED
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_every_role_is_pure_idempotent_fenced_by_a_stop_and_silent_after_an_unknown_event(
    choice: int, numbers: list[int]
) -> None:
    """Checked at each decision of a random walk, with wakes, costs and prompt sizes: see ``Walk.decide``."""
    walk = Walk(choice)
    for number in numbers:
        walk.step(number)


@settings(BOUNDED, max_examples=150)
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_every_run_reaches_its_seal_and_folds_to_the_same_state_again(choice: int, numbers: list[int]) -> None:
    """Whatever happened before: a person replies, deadlines pass, and nothing is left open."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
    run = walk.run_to_seal()
    assert not run.open_attempts
    assert not run.holds
    sealed = walk.last(Sealed)
    again = refolded(walk)
    assert (again.phase, again.head, again.sealed, again.spent_micros) == (
        run.phase,
        run.head,
        sealed,
        run.spent_micros,
    )
    assert [entry.ignored for entry in again.entries] == [entry.ignored for entry in run.entries]


@settings(BOUNDED, max_examples=150)
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_no_unsafe_effect_is_attempted_twice_without_a_decision(choice: int, numbers: list[int]) -> None:
    """A second attempt of an unsafe effect follows a failure that is known to be safe, or a person's decision."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
    for state in walk.run_to_seal().calls.values():
        if state.grant is None or state.grant.safe_to_repeat:
            continue
        for first, second in zip(state.effects, state.effects[1:], strict=False):
            between = walk.run.entries[first.n : second.n]
            about_call = [e for e in between if getattr(e.event, "call", "") == state.call and not e.ignored]
            allowed = [
                e
                for e in about_call
                if e.name == "resolved" or getattr(e.event, "outcome", "") in {"failed", "never_started"}
            ]
            assert allowed, [f"{e.role}.{e.name}" for e in between]


@settings(BOUNDED, max_examples=150)
@given(st.integers(0, len(AGENTS) - 1), NUMBERS)
def test_a_run_never_spends_what_it_does_not_hold(choice: int, numbers: list[int]) -> None:
    """Spent and reserved stay within the holds, and the holds within the limit, at every moment."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
        run = walk.run
        assert run.spent_micros + run.reserved_micros <= run.held_micros <= run.limits.cost_max_micros
        assert min(run.spent_micros, run.reserved_micros) >= 0
