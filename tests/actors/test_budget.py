"""Budget: what may this run spend?"""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import OK, RUN, TENANT, Story, agent, at_work, call, contract, reply

from linestop.actors.budget import next_hold
from linestop.actors.facts import Reservation
from linestop.schemas.defaults import STARTS_PER_HOLD
from linestop.schemas.events import (
    AccountLine,
    Finished,
    Held,
    ModelStarted,
    Proposed,
    Queued,
    Sealed,
    Settled,
    SettledHold,
    Stopped,
    Warned,
)
from linestop.schemas.model_messages import ModelFailed, Usage
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.verify.check_log import verify


def start_of(story: Story) -> NextStart:
    """The next start."""
    start = next_start(story.run, story.now)
    assert isinstance(start, NextStart)
    return start


def test_a_hold_covers_the_next_start_and_some_more() -> None:
    """So a run seldom waits for budget."""
    story = Story().open_run()
    cost = start_of(story).cost_max_micros
    held = story.when("budget").then(Held, hold="acme.r1.1", price_table="agent file")
    assert held.amount_micros == STARTS_PER_HOLD * cost
    story.when("budget").expect_nothing()


def test_a_hold_never_goes_beyond_the_runs_cost_limit() -> None:
    """At most the rest of the limit is held."""
    story = Story().open_run()
    cost = start_of(story).cost_max_micros
    tight = Story(agent(limits={"cost_max_micros": cost + 10})).open_run()
    tight.when("budget").then(Held, amount_micros=cost + 10)


def test_a_step_that_does_not_fit_into_the_cost_limit_stops_the_run() -> None:
    """``cost_max_micros``: the run ends before the call, not after it."""
    story = Story().open_run()
    cost = start_of(story).cost_max_micros
    poor = Story(agent(limits={"cost_max_micros": cost - 1})).open_run()
    event = poor.when("budget").then(Stopped, code="budget")
    assert event.limit is not None
    assert (event.limit.name, event.limit.value, event.limit.max_value) == ("cost_max_micros", cost, cost - 1)
    assert poor.run_until_idle().last(Sealed).status == "over_budget"


def test_the_default_cost_limit_ends_an_expensive_run() -> None:
    """Half a dollar is the default; a tool at 40 cents fits once."""
    dear = agent(tools=(contract("rent", price_micros=400_000),))
    story = at_work(call("rent"), version=dear).finish_tools(rent=msgspec.structs.replace(OK, cost_micros=400_000))
    story.finish_model(reply(call("rent", '{"q":"b"}', id="more")))
    story.finish_model(reply(text="One was rented."))
    assert story.last(Stopped).code == "budget"
    assert (story.last(Sealed).partial, story.last(Sealed).partial_is) == ("One was rented.", "summary")
    assert story.run.spent_micros <= 500_000


def test_a_hold_over_the_cost_limit_is_ignored_by_the_fold() -> None:
    """Whichever process wrote it."""
    story = Story().open_run()
    held = story.when("budget").decided
    assert isinstance(held, Held)
    entry = story.append("budget", msgspec.structs.replace(held, amount_micros=500_001))
    assert "more than its cost limit" in entry.ignored
    assert "more than its cost limit" in story.append("budget", msgspec.structs.replace(held, amount_micros=-1)).ignored


def test_the_same_hold_twice_counts_once() -> None:
    """A hold's id is made from run and ordinal."""
    story = Story().open_run().when("budget").append_decided()
    assert "exists already" in story.append("budget", story.last(Held)).ignored


def test_nothing_is_held_without_a_reply_of_the_accounts() -> None:
    """Nor with a reply about another hold."""
    story = Story().open_run()
    assert story.ask("budget", ()) is None
    other = Reservation(hold="r1.7", amount_micros=5)
    assert story.ask("budget", (other,)) is None


def refused(story: Story, *, waits: bool, spent: int = 4_999_999) -> Reservation:
    """The accounts' reply to the hold that the run wants: ann's account has no room."""
    hold, amount = next_hold(story.run, story.now)
    line = AccountLine(
        account="user-acme-1", period="2026-01-01", before_micros=4_999_999, limit_micros=5_000_000, spent_micros=spent
    )
    return Reservation(hold=hold, amount_micros=amount, accounts=(line,), refused_account=line.account, may_wait=waits)


def test_an_account_that_can_never_have_room_stops_the_run_and_is_named_by_its_owner() -> None:
    """The person reads whose account it is, how much it had, and when there is more."""
    story = Story().open_run()
    need = start_of(story).cost_max_micros
    event = story.when("budget", refused(story, waits=False)).then(Stopped, code="budget")
    assert event.limit is not None
    assert (event.limit.name, event.limit.value) == ("user-acme-1", 4_999_999 + need)
    assert "user ann may spend $5.00 a day, has spent $4.999999, resets at 2026-01-02 00:00 UTC" in event.why
    assert "raise 'user_day_micros' under [accounts]" in event.why


def test_a_run_waits_once_for_money_that_other_runs_hold() -> None:
    """The run is queued: meanwhile it does not work, and gives back what it holds itself."""
    story = Story().open_run()
    event = story.when("budget", refused(story, waits=True, spent=1_000)).then(Queued, owner="user ann", holds=())
    assert "holds $4.998999 for runs at work" in event.why
    story.when("budget", refused(story, waits=True, spent=2_000)).expect_nothing()
    assert story.advance_s(500).active_s() == 0
    story.when("budget").then(Held)
    assert story.run.queued is None
    assert story.run_until_idle().run.model_attempt is not None


def test_a_run_that_waits_for_money_holds_only_what_it_has_spent() -> None:
    """So no two runs wait for each other's money; later holds come on top of what is spent."""
    poor = Story(agent(tools=(contract("rent", price_micros=400_000),))).open_run().run_until_idle()
    poor.given(*poor.planner_events(reply(call("rent")))).when("validator").append_decided()
    spent = poor.run.spent_micros
    held = sum(hold.amount_micros for hold in poor.run.holds.values())
    event = poor.when("budget", refused(poor, waits=True, spent=0)).then(Queued)
    assert [(line.spent_micros, line.released_micros) for line in event.holds] == [(spent, held - spent)]
    assert (poor.run.held_micros, poor.run.available_micros, poor.run.holds) == (spent, 0, {})
    again = poor.when("budget").then(Held)
    assert again.amount_micros >= 400_000
    poor.run_until_idle().finish_tools(rent=msgspec.structs.replace(OK, cost_micros=300_000))
    poor.finish_model(reply(text="done"))
    assert poor.last(Sealed).status == "completed"
    assert sum(line.spent_micros for line in poor.last(Settled).holds) == poor.run.spent_micros - spent
    assert verify(TENANT, RUN, poor.messages).problems == ()


def test_money_is_not_given_back_while_a_start_is_open() -> None:
    """Its reservation is part of the held money."""
    story = Story().open_run().run_until_idle()
    lines = tuple(
        SettledHold(hold=hold, spent_micros=0, released_micros=held.amount_micros)
        for hold, held in story.run.holds.items()
    )
    assert story.append("budget", Queued(need_micros=1, why="x", holds=lines)).ignored == "a start is still open"


def test_a_wait_for_money_that_charges_too_little_is_ignored() -> None:
    """Otherwise a run could spend its limit twice."""
    story = Story(agent(tools=(contract("rent", price_micros=400_000),))).open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("rent")))).when("validator").append_decided()
    held = {hold: held.amount_micros for hold, held in story.run.holds.items()}
    lines = tuple(SettledHold(hold=hold, spent_micros=0, released_micros=amount) for hold, amount in held.items())
    assert "charge" in story.append("budget", Queued(need_micros=1, why="x", holds=lines)).ignored
    assert "open holds" in story.append("budget", Queued(need_micros=1, why="x", holds=())).ignored


def test_accounts_that_cannot_be_changed_are_waited_for_with_the_cause() -> None:
    """The run records the reason, and asks again."""
    story = Story().open_run()
    hold, amount = next_hold(story.run, story.now)
    broken = Reservation(hold=hold, amount_micros=amount, cause="The stream of shared has no room.")
    event = story.when("budget", broken).then(Queued, account=None)
    assert event.why.endswith("the accounts cannot be changed now: The stream of shared has no room.")
    story.when("budget", broken).expect_nothing()


def test_a_hold_names_its_accounts() -> None:
    """The log keeps what each account had given out before."""
    story = Story().open_run()
    hold, amount = next_hold(story.run, story.now)
    line = AccountLine(account="tenant.acme", period="2026-01-01", before_micros=1, limit_micros=2)
    story.when("budget", Reservation(hold=hold, amount_micros=amount, accounts=(line,))).then(Held, accounts=(line,))


def test_budget_holds_again_for_a_tool_the_hold_does_not_cover() -> None:
    """An effect's price needs a hold, like that of a model request."""
    dear = agent(tools=(contract("rent", price_micros=200_000),))
    story = at_work(call("rent"), version=dear)
    assert story.event_names().count("budget.held") == 2
    assert story.run.available_micros >= 0


def test_a_hold_is_made_in_advance_of_a_retry() -> None:
    """While a retry waits for its moment, its money is held already."""
    story = Story().open_run().run_until_idle()
    failed = story.planner_events(ModelFailed("availability", "down", possibly_billed=True))
    story.given(*failed)
    story.run.held_micros = story.run.spent_micros
    story.when("planner").expect_nothing()
    story.when("budget").then(Held)


@pytest.mark.parametrize("percent", [74, 75])
def test_a_warning_comes_once_at_three_quarters_of_the_cost(percent: int) -> None:
    """``warn_percent`` of ``cost_max_micros``, what is spent and what is reserved together."""
    story = Story(agent(limits={"cost_max_micros": 100_000})).open_run().when("budget").append_decided()
    start = story.when("planner").then(ModelStarted)
    event = Proposed(turn=1, attempt=1, text="x", final=True, cost_micros=percent * 1_000)
    story.given(event)
    assert start.cost_max_micros < 75_000
    story.when("budget")
    if percent < 75:
        story.expect_nothing()
        return
    story.then(Warned, limit="cost_max_micros", value=75_000, max_value=100_000)
    story.when("budget").expect_nothing()


def test_a_warning_comes_for_tokens_too() -> None:
    """Three quarters of the token budget."""
    story = Story().open_run().run_until_idle()
    story.given(Proposed(turn=1, attempt=1, text="x", final=True, usage=Usage(fresh_in=37_500)))
    story.when("budget").then(Warned, limit="tokens_max", value=37_500, max_value=50_000)


def test_a_run_that_is_over_is_settled_once_nothing_is_open() -> None:
    """Money spent stays charged, the rest is released."""
    story = at_work(call("look")).given(Stopped(by="bob", why="enough"), by="operator")
    story.when("budget").expect_nothing()
    story.given(Finished(call="look", attempt=1, outcome="succeeded"))
    event = story.when("budget").then(Settled)
    assert sum(hold.spent_micros for hold in event.holds) == story.run.spent_micros == 200
    assert sum(hold.spent_micros + hold.released_micros for hold in event.holds) == story.run.held_micros
    assert [(line.cost_micros, line.source) for line in event.by_event] == [(200, "reported")]
    story.when("budget").expect_nothing()


def test_a_settlement_with_an_open_start_or_without_every_hold_is_ignored() -> None:
    """Money that may still be spent is not released."""
    story = at_work(call("look")).given(Stopped(by="bob", why="enough"), by="operator")
    assert story.append("budget", Settled(holds=())).ignored == "a start is still open"
    story.given(Finished(call="look", attempt=1, outcome="succeeded"))
    assert "exactly the open holds" in story.append("budget", Settled(holds=())).ignored


def test_a_run_that_held_nothing_is_sealed_without_settlement() -> None:
    """A stop as the first event needs no budget."""
    story = Story().given(Stopped(by="bob", why="no"), by="operator")
    story.when("budget").expect_nothing()
    assert story.run_until_idle().event_names() == ["operator.stopped", "recorder.sealed"]


def test_unknown_usage_is_charged_at_the_reservation() -> None:
    """A model request that was cut off may have been billed in full."""
    story = Story().open_run().run_until_idle()
    cost = story.last(ModelStarted).cost_max_micros
    story.finish_model(ModelFailed("availability", "reset", possibly_billed=True))
    assert story.run.spent_micros == cost


def test_a_failure_that_cannot_be_billed_costs_nothing() -> None:
    """A connection that was never made is free."""
    story = Story().open_run().run_until_idle().finish_model(ModelFailed("availability", "refused"))
    assert story.run.spent_micros == 0


def test_a_superseded_attempt_is_charged_until_its_late_result_states_its_cost() -> None:
    """First the reservation, then the real cost, although both replies name their calls alike."""
    story = Story(agent(limits={"wall_s": 600})).open_run().run_until_idle()
    first = story.open_model()
    cost = story.last(ModelStarted).cost_max_micros
    story.advance_s(131).run_until_idle()
    assert story.run.spent_micros == cost
    late = story.planner_events(reply(call("look")), n=first)
    story.finish_model(reply(call("look")))
    assert story.run.spent_micros == cost + 200
    story.given(*late)
    assert story.run.spent_micros == 400
    assert len(story.run.proposals) == 1


def test_a_report_below_zero_gives_nothing_back() -> None:
    """Neither money nor tokens."""
    story = Story().open_run().run_until_idle()
    story.given(Proposed(turn=1, attempt=1, final=True, cost_micros=-5, usage=Usage(fresh_in=-100)))
    assert (story.run.spent_micros, story.run.tokens) == (0, 0)


def test_a_start_that_does_not_fit_or_costs_less_than_nothing_is_ignored() -> None:
    """A start is its reservation: the fold itself ignores one that no hold covers."""
    story = Story().open_run().when("budget").append_decided()
    start = story.when("planner").decided
    assert isinstance(start, ModelStarted)
    for cost, reason in ((story.run.available_micros + 1, "does not fit into the run's hold"), (-1, "less than")):
        entry = story.append("planner", msgspec.structs.replace(start, cost_max_micros=cost))
        assert reason in entry.ignored


def test_usage_beyond_the_holds_is_charged_to_the_accounts_when_the_run_waits() -> None:
    """The account is charged all that the run has spent, also above its holds; later holds come on top."""
    limits = {"cost_max_micros": 90_000_000, "tokens_max": 50_000_000}
    story = Story(agent(tools=(contract("rent", price_micros=400_000),), limits=limits)).open_run().run_until_idle()
    held = sum(hold.amount_micros for hold in story.run.holds.values())
    usage = Usage(fresh_in=story.last(ModelStarted).input_tokens_max * 200)
    story.given(*story.planner_events(reply(call("rent"), usage=usage))).when("validator").append_decided()
    spent = story.run.spent_micros
    assert spent > held
    event = story.when("budget", refused(story, waits=True, spent=0)).then(Queued)
    assert [(line.spent_micros, line.released_micros) for line in event.holds] == [(spent, 0)]
    assert (story.run.settled_micros, story.run.available_micros, story.run.holds) == (spent, 0, {})
    assert story.when("budget").then(Held).amount_micros >= 400_000
