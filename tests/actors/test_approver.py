"""Approver: must a person agree, and did one?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.builders import (
    OK,
    RUN,
    SPARE,
    TASK,
    TENANT,
    UNKNOWN,
    Story,
    agent,
    at_gate,
    at_work,
    call,
    contract,
    paid,
    refusal,
    reply,
)

from linestop.schemas.defaults import Limits
from linestop.schemas.events import (
    Asked,
    Cleared,
    ClearedCall,
    Denied,
    EffectStarted,
    Granted,
    Judged,
    ModelStarted,
    Opened,
    Policy,
    Resolved,
    Sealed,
    Stopped,
)
from linestop.schemas.messages import Task
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.tool_contracts import ToolResult
from linestop.schemas.verify.check_log import verify

CLEAR = agent(policy=Policy(clear=("pay", "drop")))
KNOWN = '{"q":"ann@example.com","amount":25}'
STRANGE = '{"q":"eve@example.org"}'
FRUGAL = Policy(ask_on_spend=True)


def with_unknown_outcome() -> Story:
    """A run with an effect that may have happened."""
    return paid().finish_tools(pay=UNKNOWN)


def frugal(deciders: tuple[str, ...] = ()) -> Story:
    """A run that must ask before its first call."""
    policy = Policy(ask_on_spend=True, deciders=deciders)
    return Story(agent(policy=policy, limits={"ask_from_micros": 100})).open_run().run_until_idle()


def test_a_reversible_call_needs_no_person() -> None:
    """It is cleared by its tier."""
    assert at_work(call("note")).last(Cleared).calls[0].rule == "tier:reversible"


def test_a_turn_with_one_read_is_five_events() -> None:
    """Nothing holds the read back, so the approver appends nothing."""
    story = at_work(call("look")).finish_tools(look=OK)
    turn = story.event_names()[2:7]
    assert turn == [
        "planner.started",
        "planner.proposed",
        "validator.judged",
        "executor.started",
        "executor.finished",
    ]
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_the_approver_appends_nothing_about_a_read_that_nothing_holds_back() -> None:
    """Neither before its start nor after it."""
    at_gate(call("look")).when("approver").expect_nothing()
    at_work(call("look")).when("approver").expect_nothing()


def test_in_a_run_of_an_older_version_a_read_is_cleared_before_it_starts() -> None:
    """A run keeps the form that it was opened with, whichever version continues it."""
    opened = msgspec.structs.replace(Story().open_run().last(Opened), gate_form=0)
    story = Story().given(opened).run_until_idle().finish_model(reply(call("look")))
    assert story.event_names()[-3:] == ["validator.judged", "approver.cleared", "executor.started"]
    assert story.last(Cleared).calls[0].rule == "tier:read"
    assert verify(TENANT, RUN, story.messages).problems == ()


@pytest.mark.parametrize(("tool", "rule"), [("pay", "tier:irreversible"), ("drop", "tier:destructive")])
def test_irreversible_and_destructive_calls_need_a_person(tool: str, rule: str) -> None:
    """They are asked about, with exactly what is to be agreed to and until when."""
    story = at_work(call(tool, KNOWN))
    line = story.last(Asked).calls[0]
    state = story.run.calls[tool]
    assert state.grant is not None
    assert (line.rule, line.args_sha256, line.contract_digest) == (rule, state.args_sha256, state.grant.contract_digest)
    assert line.expires_at == story.now + timedelta(hours=1)


def test_a_policy_clears_an_irreversible_call_whose_values_the_task_names() -> None:
    """``policy.clear`` needs no person if every value comes from the task."""
    assert at_work(call("pay", KNOWN), version=CLEAR).last(Cleared).calls[0].rule == "policy:clear"


def test_a_strange_value_needs_a_person_although_policy_clears_the_tool() -> None:
    """The provenance gate: a value from neither the task nor a trusted source."""
    line = at_work(call("pay", STRANGE), version=CLEAR).last(Asked).calls[0]
    assert line.rule == "provenance"
    assert line.provenance[0].path == "$.q"


def test_a_policy_may_switch_the_provenance_gate_off() -> None:
    """``provenance = false`` leaves the tool to ``clear`` alone."""
    loose = agent(policy=Policy(clear=("p*",), provenance=False))
    assert at_work(call("pay", STRANGE), version=loose).last(Cleared).calls[0].rule == "policy:clear"


@pytest.mark.parametrize(
    ("tool", "rule"),
    [("pay", "fallback"), ("note", "tier:reversible"), ("drop", "tier:destructive")],
)
def test_a_call_above_reversible_by_a_fallback_needs_a_person_whatever_policy_clears(tool: str, rule: str) -> None:
    """A policy trusts the model that the agent names, not the one that replaces it."""
    version = msgspec.structs.replace(CLEAR, fallbacks=(SPARE,), limits=Limits(model_retries_max=0))
    story = Story(version).open_run().run_until_idle().finish_model(ModelFailed("availability", "down"))
    assert story.finish_model(reply(call(tool, KNOWN))).last(ModelStarted).fallback_of
    needs_person = rule in {"fallback", "tier:destructive"}
    assert (story.last(Asked) if needs_person else story.last(Cleared)).calls[0].rule == rule


def test_a_call_of_the_first_model_after_a_fallback_is_cleared_by_policy() -> None:
    """Only the fallback's own proposal is concerned, not the rest of the run."""
    version = msgspec.structs.replace(CLEAR, fallbacks=(SPARE,), limits=Limits(model_retries_max=0))
    story = (
        Story(version)
        .open_run()
        .run_until_idle()
        .finish_model(ModelFailed("availability", "down"))
        .finish_model(reply(call("look")))
    )
    # For a minute the fallback is tried first.
    story.advance_s(60).finish_tools(look=ToolResult(outcome="succeeded", value=1)).finish_model(
        reply(call("pay", KNOWN))
    )
    assert story.last(Cleared).calls[0].rule == "policy:clear"


def test_a_dry_run_proposed_by_a_fallback_needs_no_person() -> None:
    """Nothing is done, so there is nothing to agree to."""
    version = agent(fallbacks=(SPARE,), limits={"model_retries_max": 0})
    story = Story(version, task=Task(text=TASK, dry_run=True)).open_run().run_until_idle()
    story.finish_model(ModelFailed("availability", "down")).finish_model(reply(call("pay", KNOWN)))
    assert story.last(Cleared).calls[0].rule == "dry-run"


def test_no_policy_clears_a_destructive_call() -> None:
    """A destructive call always needs a person."""
    assert at_work(call("drop", KNOWN), version=CLEAR).last(Asked).calls[0].rule == "tier:destructive"


def test_a_cleared_destructive_call_is_ignored_by_every_reader() -> None:
    """Not even the approver can clear it."""
    story = at_gate(call("drop", KNOWN))
    line = ClearedCall(call="drop", rule="policy:clear", args_sha256=story.run.calls["drop"].args_sha256)
    assert "only a person" in story.append("approver", Cleared(calls=(line,))).ignored


def test_a_policy_may_ask_about_a_read() -> None:
    """``policy.ask`` applies to every tier."""
    assert at_work(call("look"), version=agent(policy=Policy(ask=("lo*",)))).last(Asked).calls[0].rule == "policy:ask"


def test_a_dry_run_needs_no_person_whatever_the_tier() -> None:
    """Calls are described, not done: there is nothing that a person could agree to."""
    story = at_work(call("pay", STRANGE), call("drop"), task=Task(text=TASK, dry_run=True))
    assert [(line.call, line.rule) for line in story.last(Cleared).calls] == [("pay", "dry-run"), ("drop", "dry-run")]
    assert story.stage("drop") == "open"
    verdict = verify(TENANT, RUN, story.messages)
    assert verdict.status != "broken", verdict.problems


def test_a_dry_run_asks_about_calls_that_its_policy_names() -> None:
    """``policy.ask`` is the operator's own wish."""
    version = agent(policy=Policy(ask=("drop",)))
    story = at_work(call("drop"), version=version, task=Task(text=TASK, dry_run=True))
    assert story.last(Asked).calls[0].rule == "policy:ask"


def test_in_a_mixed_proposal_a_read_starts_one_call_is_cleared_and_others_are_asked_about() -> None:
    """One call's approval never releases another's."""
    story = at_work(call("look"), call("note"), call("pay"), call("drop"))
    assert [line.call for line in story.last(Cleared).calls] == ["note"]
    assert (story.stage("look"), story.stage("note")) == ("open", "open")
    assert [line.call for line in story.last(Asked).calls] == ["pay", "drop"]
    story.send_control("approve", call="drop").append_decided()
    assert (story.stage("drop"), story.stage("pay")) == ("ready", "asked")


def test_an_unknown_outcome_can_be_resolved_but_neither_approved_nor_denied() -> None:
    """The question is what happened, not whether it may happen."""
    story = with_unknown_outcome()
    assert "`linestop resolve r1 pay" in refusal(story, "approve", call="pay")
    assert "`linestop resolve r1 pay" in refusal(story, "deny", call="pay")
    assert "Say what to do" in refusal(story, "resolve", call="pay")
    granted = Granted(call="pay", by="bob", args_sha256=story.run.calls["pay"].args_sha256)
    assert "does not wait" in story.append("approver", granted).ignored


def test_a_person_resolves_an_unknown_outcome_as_done() -> None:
    """The person's result is the call's result, and the effect is not repeated."""
    story = (
        with_unknown_outcome()
        .send_control("resolve", call="pay", action="done", result={"id": 7})
        .append_decided()
        .run_until_idle()
    )
    assert story.run.calls["pay"].outcome_text == '{"id":7}'
    assert story.run.calls["pay"].fate == "done"
    story.finish_model(reply(call("pay", id="again")))
    verdict = story.last(Judged).calls[0]
    assert (verdict.verdict, verdict.errors) == ("reject", ("The same effect was done already (call 'pay').",))


def test_a_person_stops_the_run_over_an_unknown_effect() -> None:
    """``resolve stop`` ends the run; nothing starts in between."""
    story = (
        with_unknown_outcome().send_control("resolve", call="pay", action="stop", why="call the bank").append_decided()
    )
    story.when("planner").expect_nothing()
    story.when("executor").expect_nothing()
    story.when("approver").then(Stopped, code="unknown_effect", by="bob", why="call the bank")
    story.run_until_idle()
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.cause) == ("failed", "tool")
    assert [fate.fate for fate in sealed.receipt] == ["unknown"]


def test_a_resolution_that_needs_money_wakes_budget() -> None:
    """The next start needs a hold, whichever decision made it possible."""
    assert "approver.resolved" in Story().roles["budget"].wakes


def test_an_unknown_outcome_that_is_not_resolved_in_time_ends_the_run() -> None:
    """After the expiry the run is over, and its receipt says unknown."""
    story = with_unknown_outcome().advance_s(3_600)
    story.when("approver").then(Stopped, code="expired")
    story.run_until_idle()
    assert [fate.fate for fate in story.last(Sealed).receipt] == ["unknown"]


def test_a_resolution_of_a_known_outcome_is_refused() -> None:
    """A person cannot decide the outcome of a call that is not in question."""
    assert "nothing to resolve" in refusal(at_work(call("pay")), "resolve", call="pay", action="done")
    forged = Resolved(call="pay", action="done", by="bob")
    assert "the outcome of call 'pay' is known" in at_work(call("pay")).append("approver", forged).ignored


def test_a_run_asks_before_it_spends_more_than_its_policy_lets_it() -> None:
    """Nothing is held or started while the question is open."""
    story = frugal()
    spend = story.last(Asked).spend
    assert spend is not None
    assert (spend.so_far_micros, spend.limit_micros) == (0, 100)
    for role in ("planner", "budget", "executor"):
        story.when(role).expect_nothing()


def test_a_run_below_the_threshold_does_not_ask() -> None:
    """At the default of $0.25 a small run is not interrupted."""
    story = Story(agent(policy=FRUGAL)).open_run().run_until_idle()
    assert story.run.spend_asked is None
    assert story.open_model()


def test_a_run_whose_policy_does_not_ask_spends_up_to_its_limit() -> None:
    """Without the policy the threshold has no effect."""
    assert Story(agent(limits={"ask_from_micros": 0})).open_run().run_until_idle().open_model()


def test_granted_spending_lets_the_run_continue_without_further_questions() -> None:
    """The question is asked once."""
    story = frugal().send_control("approve").append_decided().run_until_idle()
    assert story.open_model()
    story.when("approver").expect_nothing()


def test_denied_spending_ends_the_run() -> None:
    """Nothing starts between the denial and the stop."""
    story = frugal().send_control("deny", why="no").append_decided()
    story.when("planner").expect_nothing()
    story.when("approver").then(Stopped, code="denied", why="Going on spending was denied by bob: no")
    assert story.run_until_idle().last(Sealed).status == "denied"


def test_unanswered_spending_is_denied() -> None:
    """It expires like an approval, and a later approval has no effect."""
    story = frugal()
    granted = story.send_control("approve").decided
    assert granted is not None
    story.advance_s(3_600)
    assert "expired" in refusal(story, "approve")
    assert "expired" in story.append("approver", granted).ignored
    story.when("approver").then(Denied, call="", by="timer")
    story.when("approver").then(Stopped, code="expired")
    assert (story.run_until_idle().last(Sealed).status, story.last(Sealed).cause) == ("expired", "person")


def test_only_deciders_decide_about_spending() -> None:
    """``deciders`` applies to money too, and the decision needs a name."""
    assert "may not decide about spending" in refusal(frugal(("eva",)), "approve", by="bob")
    assert not refusal(frugal(("eva",)), "approve", by="eva")
    assert "Say who approves" in refusal(frugal(), "approve", by="")


def test_the_wait_for_an_answer_about_a_tools_price_is_not_work() -> None:
    """While a person decides about the money for an effect, the run waits: its wall time does not run."""
    policy = Policy(ask_on_spend=True)
    story = at_work(call("rent"), version=agent(policy=policy, limits={"ask_from_micros": 30_000}))
    assert story.last(Asked).spend is not None
    assert story.run.phase == "waiting"
    story.advance_s(1_000).when("validator").expect_nothing()
    story.send_control("approve").append_decided().run_until_idle()
    assert story.last(EffectStarted).calls[0].call == "rent"
    assert story.run.wait_s == 1_000


def test_spending_that_was_not_asked_about_cannot_be_approved() -> None:
    """An approval without a call is about spending only."""
    assert "Name the call" in refusal(at_work(call("pay")), "approve")
    assert (
        at_work(call("pay")).append("approver", Granted(call="", by="b")).ignored
        == "no person was asked about spending"
    )
    assert (
        at_work(call("pay")).append("approver", Denied(call="", by="b")).ignored == "no person was asked about spending"
    )


def test_a_question_without_an_end_expires_with_the_run() -> None:
    """The model names how long it would wait; the run's own limit bounds that, whatever the number."""
    endless = contract("ask.person", kind="wait", parameters={"type": "object"})
    asking = call("ask.person", '{"question":"which?","timeout_s":1e300}')
    story = at_work(asking, version=agent(tools=(endless,)))
    question = story.last(Asked).question
    assert question is not None
    assert question.expires_at == story.now + timedelta(days=30)
