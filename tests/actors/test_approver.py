"""Approver: must a person agree, and did one?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from linestop.actors.facts import Word
from linestop.actors.words import objection
from linestop.schemas.events import (
    Answered,
    Asked,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    EffectStarted,
    Granted,
    Held,
    Judged,
    Paused,
    Policy,
    Question,
    Resolved,
    Resumed,
    Sealed,
    Stopped,
)
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.tools import ToolResult
from tests.builders import OK, TASK, Story, agent, at_gate, at_work, call, reply

UNKNOWN = ToolResult(outcome="unknown")
CLEAR = agent(policy=Policy(clear=("pay", "drop")))
KNOWN = '{"q":"ann@example.com","amount":25}'
STRANGE = '{"q":"eve@example.org"}'


def refusal(
    story: Story, verb: Verb, *, by: str = "bob", signer: str = "", must_sign: bool = False, **fields: object
) -> str:
    """Why this word counts for nothing now."""
    said = Word(verb=verb, control=msgspec.convert({"by": by, **fields}, Control), signer=signer,
                signature_required=must_sign)  # fmt: skip
    return objection(story.run, said, story.now)


# --- the gate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "rule"), [("look", "tier:read"), ("note", "tier:reversible")])
def test_reads_and_reversible_calls_need_nobody(tool: str, rule: str) -> None:
    """They are cleared by their tier."""
    assert at_work(call(tool)).last(Cleared).calls[0].rule == rule


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
    """``policy.clear`` needs nobody where every value comes from the task."""
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


def test_no_policy_clears_a_destructive_call() -> None:
    """A destructive call always needs a person."""
    assert at_work(call("drop", KNOWN), version=CLEAR).last(Asked).calls[0].rule == "tier:destructive"


def test_a_cleared_destructive_call_is_ignored_by_everybody() -> None:
    """Not even the approver can let it pass."""
    story = at_gate(call("drop", KNOWN))
    line = ClearedCall(call="drop", rule="policy:clear", args_sha256=story.run.calls["drop"].args_sha256)
    assert "only a person" in story.tell("approver", Cleared(calls=(line,))).ignored


def test_a_policy_may_ask_about_a_read() -> None:
    """``policy.ask`` holds whatever the tier."""
    assert at_work(call("look"), version=agent(policy=Policy(ask=("lo*",)))).last(Asked).calls[0].rule == "policy:ask"


def test_a_dry_run_needs_nobody_for_irreversible_calls() -> None:
    """They are described, not done; only destructive ones are still asked about."""
    story = at_work(call("pay", STRANGE), call("drop"), task=Task(text=TASK, dry_run=True))
    assert [line.rule for line in story.last(Cleared).calls] == ["dry-run"]
    assert [line.call for line in story.last(Asked).calls] == ["drop"]


def test_of_a_mixed_proposal_one_call_is_cleared_and_the_other_asked() -> None:
    """One call's approval never releases another's."""
    story = at_work(call("look"), call("pay"), call("drop"))
    assert [line.call for line in story.last(Cleared).calls] == ["look"]
    assert [line.call for line in story.last(Asked).calls] == ["pay", "drop"]
    story.word("approve", call="drop").said()
    assert (story.stage("drop"), story.stage("pay")) == ("ready", "asked")


# --- a person's word -------------------------------------------------------------------------------------


def test_an_approval_names_what_was_shown() -> None:
    """The grant binds to call, arguments and contract."""
    story = at_work(call("pay", KNOWN))
    line = story.last(Asked).calls[0]
    story.word("approve", call="pay", args_sha256=line.args_sha256, contract_digest=line.contract_digest).then(
        Granted, call="pay", by="bob", args_sha256=line.args_sha256, contract_digest=line.contract_digest
    )
    assert story.stage("pay") == "ready"


@pytest.mark.parametrize("field", ["args_sha256", "contract_digest"])
def test_an_approval_of_something_else_than_shown_is_refused(field: str) -> None:
    """Arguments or contract that changed meanwhile make it void, with a sentence saying so."""
    assert "look again" in refusal(at_work(call("pay")), "approve", call="pay", **{field: "0" * 64})


@pytest.mark.parametrize("field", ["args_sha256", "contract_digest"])
def test_a_forged_grant_for_other_arguments_is_ignored_by_the_fold(field: str) -> None:
    """Whoever wrote it: a grant is bound to arguments and contract."""
    story = at_work(call("pay"))
    granted = story.word("approve", call="pay").decided
    assert isinstance(granted, Granted)
    forged = msgspec.structs.replace(granted, **{field: "0" * 64})
    assert "other arguments" in story.tell("approver", forged).ignored
    assert story.stage("pay") == "asked"


def test_a_grant_after_its_expiry_is_ignored_by_the_fold() -> None:
    """It expires to deny even if no timer has fired yet."""
    story = at_work(call("pay"))
    granted = story.word("approve", call="pay").decided
    assert granted is not None
    assert story.wait(3_600).tell("approver", granted).ignored == "the approval had expired"
    assert "expired" in refusal(story, "approve", call="pay")


def test_an_approval_covers_one_effect() -> None:
    """The same call in a later answer is not done again."""
    story = at_work(call("pay", KNOWN)).word("approve", call="pay").said().quiet().tools(pay=OK)
    story.model(reply(call("pay", KNOWN, id="again")))
    assert story.last(Judged).calls[0].verdict == "recorded"
    assert sum(isinstance(entry.event, EffectStarted) for entry in story.run.entries) == 1


def test_a_denied_call_is_told_to_the_model_with_its_reason() -> None:
    """The run goes on; the model may try something else."""
    story = at_work(call("pay"))
    story.word("deny", call="pay", why="too much").then(Denied, by="bob", why="too much")
    assert story.run.calls["pay"].answer == "A person (bob) denied this call: too much"


def test_an_unanswered_approval_is_denied_after_an_hour() -> None:
    """``approval_expires_s``: nobody's answer is a no."""
    story = at_work(call("pay")).wait(3_599)
    story.when("approver").silent()
    story.wait(1).when("approver").then(Denied, call="pay", by="timer")
    assert story.run.calls["pay"].answer == "Nobody answered in time, so this was not done."


def test_a_shorter_expiry_is_kept() -> None:
    """An agent may give people less time."""
    story = at_work(call("pay"), version=agent(limits={"approval_expires_s": 10})).wait(10)
    story.when("approver").then(Denied, by="timer")


def test_a_quorum_of_two_needs_two_different_people() -> None:
    """The same person twice is one vote."""
    story = at_work(call("pay"), version=agent(policy=Policy(quorum=2)))
    story.word("approve", by="bob", call="pay").then(Granted)
    assert story.stage("pay") == "asked"
    assert "approved call 'pay' already" in refusal(story, "approve", by="bob", call="pay")
    story.word("approve", by="eva", call="pay").then(Granted)
    assert story.stage("pay") == "ready"


def test_only_those_who_may_decide_decide() -> None:
    """``deciders`` bounds approve, deny and edit."""
    story = at_work(call("pay"), version=agent(policy=Policy(deciders=("eva",))))
    for verb, more in (("approve", {}), ("deny", {}), ("edit", {"args": {}})):
        assert "may not decide" in refusal(story, verb, by="bob", call="pay", **more)
    story.word("approve", by="eva", call="pay").then(Granted)


def test_a_required_signature_must_be_a_known_persons() -> None:
    """Where people have keys, an unsigned decision counts for nothing."""
    story = at_work(call("pay"))
    line = story.last(Asked).calls[0]
    shown = {"args_sha256": line.args_sha256, "contract_digest": line.contract_digest}
    assert "must be signed" in refusal(story, "approve", call="pay", must_sign=True)
    assert "sign what was shown" in refusal(story, "approve", call="pay", must_sign=True, signer="eva")
    assert not refusal(story, "approve", call="pay", must_sign=True, signer="eva", **shown)
    said = Word(
        verb="approve", control=Control(by="mallory", call="pay", **shown), signer="eva", signature_required=True
    )
    story.when("approver", said).then(Granted, by="eva")


def test_edited_arguments_are_judged_and_asked_about_again() -> None:
    """What a person writes is no more trusted than what a model writes, and needs its own approval."""
    story = at_work(call("pay", STRANGE), version=CLEAR)
    story.word("edit", call="pay", args={"q": "ann@example.com"}).then(Edited)
    assert story.stage("pay") == "pending"
    story.quiet()
    assert story.last(Judged).calls[0].args == '{"q":"ann@example.com"}'
    assert story.last(Asked).calls[0].rule == "edited"
    story.word("approve", call="pay").said().quiet()
    work = story.executor.view(story.run, story.last(EffectStarted), story.facts)[0]
    assert work.args == b'{"q":"ann@example.com"}'


def test_an_approval_given_before_an_edit_does_not_cover_it() -> None:
    """The old grant is for other arguments."""
    story = at_work(call("pay"))
    granted = story.word("approve", call="pay").decided
    assert granted is not None
    story.word("edit", call="pay", args={"q": "other"}).said().quiet()
    assert "other arguments" in story.tell("approver", granted).ignored


def test_edited_arguments_that_do_not_fit_the_schema_go_back_to_the_model() -> None:
    """The validator has the last word about form."""
    story = at_work(call("pay")).word("edit", call="pay", args={"wrong": 1}).said().quiet()
    assert story.run.calls["pay"].answer_is_error


def test_a_question_of_the_model_waits_for_an_answer() -> None:
    """``ask.person`` becomes a question, and the answer its result."""
    story = at_work(call("ask.person", '{"question":"Which one?","options":["a","b"]}', id="q"))
    question = story.last(Asked).question
    assert question is not None
    assert (question.text, question.options) == ("Which one?", ("a", "b"))
    assert "answer it" in refusal(story, "approve", call="q")
    story.word("answer", call="q", answer="a").then(Answered, answer="a")
    assert story.run.calls["q"].answer == "a"


def test_an_answer_that_is_no_text_is_kept_as_json() -> None:
    """Any JSON value may be an answer."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q"))
    story.word("answer", call="q", answer={"n": 1}).then(Answered, answer='{"n":1}')


def test_an_unanswered_question_is_denied() -> None:
    """A question expires like an approval."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q")).wait(3_600)
    assert isinstance(story.run.calls["q"].asked, Question)
    story.when("approver").then(Denied, call="q", by="timer")


# --- effects of unknown fate -----------------------------------------------------------------------------


def doubtful() -> Story:
    """A run with an effect that may have happened."""
    return at_work(call("pay")).word("approve", call="pay").said().quiet().tools(pay=UNKNOWN)


def test_a_doubt_can_be_resolved_but_neither_approved_nor_denied() -> None:
    """It is asked what happened, not whether it may."""
    story = doubtful()
    assert "does not wait" in refusal(story, "approve", call="pay")
    assert "does not wait" in refusal(story, "deny", call="pay")
    assert "Say what to do" in refusal(story, "resolve", call="pay")
    granted = Granted(call="pay", by="bob", args_sha256=story.run.calls["pay"].args_sha256)
    assert "does not wait" in story.tell("approver", granted).ignored


def test_a_person_says_that_it_was_done() -> None:
    """Their result is the call's answer, and the effect is not made again."""
    story = doubtful().word("resolve", call="pay", action="done", result={"id": 7}).said().quiet()
    assert story.run.calls["pay"].answer == '{"id":7}'
    assert story.run.calls["pay"].fate == "done"
    story.model(reply(call("pay", id="again")))
    verdict = story.last(Judged).calls[0]
    assert (verdict.verdict, verdict.errors) == ("reject", ("The same effect was done already (call 'pay').",))


def test_a_person_stops_the_run_over_an_unknown_effect() -> None:
    """``resolve stop`` ends the run; nothing starts in between."""
    story = doubtful().word("resolve", call="pay", action="stop", why="call the bank").said()
    story.when("planner").silent()
    story.when("executor").silent()
    story.when("approver").then(Stopped, code="unknown_effect", by="bob", why="call the bank")
    story.quiet()
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.cause) == ("failed", "tool")
    assert [fate.fate for fate in sealed.receipt] == ["unknown"]


def test_after_a_resolution_that_needs_money_budget_is_woken() -> None:
    """The next start must be held for, whoever made it possible."""
    assert "approver.resolved" in Story().roles["budget"].wakes


def test_a_doubt_nobody_resolves_ends_the_run() -> None:
    """After the expiry the run is over, and its receipt says unknown."""
    story = doubtful().wait(3_600)
    story.when("approver").then(Stopped, code="expired")
    story.quiet()
    assert [fate.fate for fate in story.last(Sealed).receipt] == ["unknown"]


def test_a_resolution_of_what_is_not_in_doubt_is_refused() -> None:
    """A person cannot declare the fate of a call that is not in question."""
    assert "not in doubt" in refusal(at_work(call("pay")), "resolve", call="pay", action="done")
    forged = Resolved(call="pay", action="done", by="bob")
    assert "not in doubt" in at_work(call("pay")).tell("approver", forged).ignored


# --- spending --------------------------------------------------------------------------------------------

FRUGAL = Policy(ask_on_spend=True)


def frugal(deciders: tuple[str, ...] = ()) -> Story:
    """A run that must ask before its first call."""
    policy = Policy(ask_on_spend=True, deciders=deciders)
    return Story(agent(policy=policy, limits={"ask_from_micros": 100})).opened().quiet()


def test_a_run_asks_before_it_spends_more_than_its_policy_lets_it() -> None:
    """Nothing is held or started while the question is open."""
    story = frugal()
    spend = story.last(Asked).spend
    assert spend is not None
    assert (spend.so_far_micros, spend.limit_micros) == (0, 100)
    for role in ("planner", "budget", "executor"):
        story.when(role).silent()


def test_a_run_below_the_threshold_does_not_ask() -> None:
    """At the default $0.25 a small run is not disturbed."""
    story = Story(agent(policy=FRUGAL)).opened().quiet()
    assert story.run.spend_asked is None
    assert story.open_model()


def test_a_run_whose_policy_does_not_ask_spends_up_to_its_limit() -> None:
    """Without the policy the threshold means nothing."""
    assert Story(agent(limits={"ask_from_micros": 0})).opened().quiet().open_model()


def test_granted_spending_lets_the_run_go_on_for_good() -> None:
    """The question is asked once."""
    story = frugal().word("approve").said().quiet()
    assert story.open_model()
    story.when("approver").silent()


def test_denied_spending_ends_the_run() -> None:
    """Nothing starts between the denial and the stop."""
    story = frugal().word("deny", why="no").said()
    story.when("planner").silent()
    story.when("approver").then(Stopped, code="denied")
    assert story.quiet().last(Sealed).status == "denied"


def test_unanswered_spending_is_denied() -> None:
    """It expires like an approval, and an approval after that counts for nothing."""
    story = frugal()
    granted = story.word("approve").decided
    assert granted is not None
    story.wait(3_600)
    assert "expired" in refusal(story, "approve")
    assert "expired" in story.tell("approver", granted).ignored
    story.when("approver").then(Denied, call="", by="timer")


def test_only_those_who_may_decide_decide_about_spending() -> None:
    """``deciders`` holds for money too, and somebody must put a name to it."""
    assert "may not decide about spending" in refusal(frugal(("eva",)), "approve", by="bob")
    assert not refusal(frugal(("eva",)), "approve", by="eva")
    assert "Say who approves" in refusal(frugal(), "approve", by="")


def test_the_wait_for_an_answer_about_a_tools_price_is_not_work() -> None:
    """While a person thinks about the money for an effect, the run waits: its wall time stands still."""
    policy = Policy(ask_on_spend=True)
    story = at_work(call("rent"), version=agent(policy=policy, limits={"ask_from_micros": 30_000}))
    assert story.last(Asked).spend is not None
    assert story.run.phase == "waiting"
    story.wait(1_000).when("validator").silent()
    story.word("approve").said().quiet()
    assert story.last(EffectStarted).calls[0].call == "rent"
    assert story.run.wait_s == 1_000


def test_spending_nobody_asked_about_cannot_be_approved() -> None:
    """An approval without a call is about spending only."""
    assert "Name the call" in refusal(at_work(call("pay")), "approve")
    assert at_work(call("pay")).tell("approver", Granted(call="", by="b")).ignored == "nobody asked about spending"
    assert at_work(call("pay")).tell("approver", Denied(call="", by="b")).ignored == "nobody asked about spending"


# --- pause, resume, stop ---------------------------------------------------------------------------------


def test_a_pause_and_a_resume() -> None:
    """Each once; the other way round it has an objection."""
    story = at_work(call("pay"))
    assert refusal(story, "resume") == "The run is not paused."
    story.word("pause", why="lunch").then(Paused, why="lunch")
    assert refusal(story, "pause") == "The run is paused already."
    story.word("resume").then(Resumed)


def test_a_pause_holds_no_money() -> None:
    """Nothing is held for what may not start."""
    story = Story().opened().word("pause").said()
    story.when("budget").silent()
    story.word("resume").said().when("budget").then(Held)


def test_a_run_without_room_cannot_be_paused() -> None:
    """The last events of a run belong to its end."""
    story = at_work(call("pay"), version=agent(limits={"events_max": 57})).word("pause").said()
    assert story.run.room == 0
    assert "can only be stopped" in refusal(story, "pause")
    assert not refusal(story, "stop")


def test_a_persons_stop_names_who_why_and_what_is_open() -> None:
    """The receipt's list of what may still be on the wire."""
    story = at_work(call("look"))
    event = story.word("stop", why="enough", mode="kill").then(Stopped, by="bob", why="enough", mode="kill")
    assert [(start.what, start.attempt) for start in event.open] == [("look", 1)]


def test_a_stop_before_anything_else_is_event_one() -> None:
    """A run that does not exist yet can be stopped; any other word needs a run."""
    story = Story()
    assert "There is no run" in refusal(story, "pause")
    story.word("stop", why="not today").then(Stopped)
    assert story.run.n == 1


@pytest.mark.parametrize("verb", ["stop", "pause", "approve", "resolve"])
def test_a_stopped_run_takes_no_more_words(verb: Verb) -> None:
    """And whoever says one is told since when."""
    story = at_work(call("pay")).given(Stopped(by="bob", why="enough"), by="operator")
    assert "is stopped already (enough)" in refusal(story, verb, call="pay")
    story.word(verb, call="pay").silent()


def test_a_sealed_run_takes_no_more_words() -> None:
    """It is over."""
    assert "is over" in refusal(at_work(), "stop")


@pytest.mark.parametrize(
    ("verb", "fields", "sentence"),
    [
        ("approve", {"call": "nope"}, "There is no call 'nope'"),
        ("approve", {"call": "look"}, "does not wait for a person (it is answered)"),
        ("approve", {"call": "pay", "by": ""}, "Say who approves"),
        ("answer", {"call": "pay"}, "wants approve or deny"),
        ("edit", {"call": "pay"}, "as a JSON object"),
        ("edit", {"call": "look", "args": {}}, "does not wait"),
    ],
)
def test_a_word_that_counts_for_nothing_says_why(verb: Verb, fields: dict[str, str], sentence: str) -> None:
    """One sentence naming the call and what is wrong."""
    story = at_work(call("look"), call("pay")).tools(look=OK)
    assert sentence in refusal(story, verb, **fields)
