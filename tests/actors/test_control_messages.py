"""The event that a control message becomes, or why it is rejected."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import NOW, OK, RUN, TENANT, UNKNOWN, Story, agent, at_work, call, paid, refusal, reply

from linestop.actors.control_messages import rejection_reason
from linestop.actors.facts import ControlMessage
from linestop.actors.model_turn.prompt import assemble
from linestop.schemas.events import (
    Answered,
    Asked,
    Cleared,
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
    StopMode,
    Stopped,
)
from linestop.schemas.messages import Control, Verb
from linestop.schemas.verify.check_log import verify

CLEAR = agent(policy=Policy(clear=("pay", "drop")))
KNOWN = '{"q":"ann@example.com","amount":25}'
STRANGE = '{"q":"eve@example.org"}'


def test_an_approval_names_the_arguments_and_contract_that_were_shown() -> None:
    """The grant binds to call, arguments and contract."""
    story = at_work(call("pay", KNOWN))
    line = story.last(Asked).calls[0]
    story.send_control("approve", call="pay", args_sha256=line.args_sha256, contract_digest=line.contract_digest).then(
        Granted, call="pay", by="bob", args_sha256=line.args_sha256, contract_digest=line.contract_digest
    )
    assert story.stage("pay") == "ready"


@pytest.mark.parametrize("field", ["args_sha256", "contract_digest"])
def test_an_approval_of_something_else_than_shown_is_refused(field: str) -> None:
    """Arguments or a contract that changed meanwhile make it void, with a sentence that says why."""
    changed: dict[str, Any] = {field: "0" * 64}
    assert "look again" in refusal(at_work(call("pay")), "approve", call="pay", **changed)


@pytest.mark.parametrize("field", ["args_sha256", "contract_digest"])
def test_a_forged_grant_for_other_arguments_is_ignored_by_the_fold(field: str) -> None:
    """A grant is bound to arguments and contract, whichever process wrote it."""
    story = at_work(call("pay"))
    granted = story.send_control("approve", call="pay").decided
    assert isinstance(granted, Granted)
    forged = msgspec.structs.replace(granted, **{field: "0" * 64})
    assert "other arguments" in story.append("approver", forged).ignored
    assert story.stage("pay") == "asked"


def test_a_grant_after_its_expiry_is_ignored_by_the_fold() -> None:
    """It expires even if no timer has fired yet."""
    story = at_work(call("pay"))
    granted = story.send_control("approve", call="pay").decided
    assert granted is not None
    assert story.advance_s(3_600).append("approver", granted).ignored == "the approval had expired"
    assert "expired" in refusal(story, "approve", call="pay")


def test_an_approval_covers_one_effect() -> None:
    """The same call in a later proposal is not done again."""
    story = (
        at_work(call("pay", KNOWN))
        .send_control("approve", call="pay")
        .append_decided()
        .run_until_idle()
        .finish_tools(pay=OK)
    )
    story.finish_model(reply(call("pay", KNOWN, id="again")))
    assert story.last(Judged).calls[0].verdict == "recorded"
    assert sum(isinstance(entry.event, EffectStarted) for entry in story.run.entries) == 1


def test_the_model_receives_the_reason_of_a_denied_call() -> None:
    """The run continues; the model may try something else."""
    story = at_work(call("pay"))
    story.send_control("deny", call="pay", why="too much").then(Denied, by="bob", why="too much")
    assert story.run.calls["pay"].outcome_text == "A person (bob) denied this call: too much"


def test_an_unanswered_approval_is_denied_after_an_hour() -> None:
    """``approval_expires_s``: a question without a reply is denied."""
    story = at_work(call("pay")).advance_s(3_599)
    story.when("approver").expect_nothing()
    story.advance_s(1).when("approver").then(Denied, call="pay", by="timer")
    assert story.run.calls["pay"].outcome_text == "Nobody answered in time, so this was not done."


def test_a_shorter_expiry_is_stored() -> None:
    """An agent may give people less time."""
    story = at_work(call("pay"), version=agent(limits={"approval_expires_s": 10})).advance_s(10)
    story.when("approver").then(Denied, by="timer")


def test_a_quorum_of_two_needs_two_different_people() -> None:
    """The same person twice is one vote."""
    story = at_work(call("pay"), version=agent(policy=Policy(quorum=2)))
    story.send_control("approve", by="bob", call="pay").then(Granted)
    assert story.stage("pay") == "asked"
    assert "has already approved call 'pay'" in refusal(story, "approve", by="bob", call="pay")
    story.send_control("approve", by="eva", call="pay").then(Granted)
    assert story.stage("pay") == "ready"


def test_only_deciders_decide() -> None:
    """``deciders`` bounds approve, deny and edit."""
    story = at_work(call("pay"), version=agent(policy=Policy(deciders=("eva",))))
    verbs: tuple[Verb, ...] = ("approve", "deny", "edit")
    for verb in verbs:
        assert "may not decide" in refusal(story, verb, by="bob", call="pay", args={})
    story.send_control("approve", by="eva", call="pay").then(Granted)


def test_a_required_signature_must_be_a_known_persons() -> None:
    """If people have keys, an unsigned decision has no effect."""
    story = at_work(call("pay"))
    line = story.last(Asked).calls[0]
    shown: dict[str, Any] = {"args_sha256": line.args_sha256, "contract_digest": line.contract_digest}
    assert "must be signed" in refusal(story, "approve", call="pay", must_sign=True)
    assert "sign what was shown" in refusal(story, "approve", by="eva", call="pay", must_sign=True, signer="eva")
    signed = {"signature": "ab", **shown}
    assert "names 'bob' but is signed with the key of 'eva'" in refusal(
        story, "approve", call="pay", must_sign=True, signer="eva", **signed
    )
    message = ControlMessage(
        verb="approve", control=Control(call="pay", **shown), signer="eva", signature_required=True
    )
    story.when("approver", message).then(Granted, by="eva")


def test_a_signed_decision_counts_once() -> None:
    """A process that read "do it again" cannot repeat the effect by sending it once more."""
    story = paid().finish_tools(pay=UNKNOWN)
    control = Control(by="eva", call="pay", action="retry", signature="ab", key_id="eva")
    message = ControlMessage(verb="resolve", control=control, signer="eva", signature_required=True)
    story.when("approver", message).then(Resolved, nonce="", by="eva", signature="ab")
    story.run_until_idle().finish_tools(pay=UNKNOWN)
    assert story.stage("pay") == "asked"
    assert "already submitted" in rejection_reason(story.run, message, story.now)
    story.when("approver", message).expect_nothing()


def test_an_unknown_outcome_is_resolved_by_deciders_only() -> None:
    """Doing an effect again is a decision like the first, about the same arguments and in its time."""
    story = at_work(call("pay"), version=agent(policy=Policy(deciders=("eva",))))
    story.send_control("approve", by="eva", call="pay").append_decided().run_until_idle().finish_tools(pay=UNKNOWN)
    assert "may not decide about 'pay'; eva may" in refusal(story, "resolve", by="bob", call="pay", action="retry")
    fields: dict[str, Any] = {"by": "eva", "call": "pay", "action": "retry"}
    assert "not those that were shown" in refusal(story, "resolve", args_sha256="0" * 64, **fields)
    assert "expired" in refusal(story, "resolve", expires_at=story.now, **fields)
    assert not refusal(story, "resolve", **fields)


@pytest.mark.parametrize("tool", ["pay", "drop"])
def test_an_edit_approves_the_persons_own_arguments(tool: str) -> None:
    """One step: judged like any arguments, cleared by the edit, and exactly these arguments run."""
    story = at_work(call(tool, STRANGE), version=CLEAR)
    story.send_control("edit", call=tool, args={"q": "ann@example.com"}).then(Edited, approves=True)
    assert story.stage(tool) == "pending"
    story.run_until_idle()
    assert story.last(Judged).calls[0].args == '{"q":"ann@example.com"}'
    assert [line.rule for line in story.last(Cleared).calls] == ["edited"]
    work = story.executor.prepare(story.run, story.last(EffectStarted), story.executor_facts)[0]
    assert work.args == b'{"q":"ann@example.com"}'
    assert verify(TENANT, RUN, story.messages).status != "broken"


def test_the_model_sees_an_edited_call_as_it_was_made_with_a_note() -> None:
    """Its own arguments were never used, so its prompt must not show them; the provider's blocks are changed too."""
    raw: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "tool_use", "id": "pay", "name": "pay", "input": {"q": "order 4711"}},
    ]
    story = Story().open_run().run_until_idle().finish_model(reply(call("pay"), blocks=tuple(raw)))
    before = story.run.context_bytes
    story.send_control("edit", call="pay", args={"q": "order 4712"}).append_decided().run_until_idle().finish_tools(
        pay=OK
    )
    prompt = assemble(story.run, story.version)
    proposal, result = prompt.messages[-2:]
    assert (proposal.calls[0].args, proposal.blocks) == (
        '{"q":"order 4712"}',
        (raw[0], raw[1] | {"input": {"q": "order 4712"}}),
    )
    assert msgspec.json.decode(result.result_text) == {
        "status": "succeeded",
        "edited_by": "bob",
        "untrusted": True,
        "result": {"ok": True},
        "note": "A person changed the arguments of this call to those shown.",
    }
    assert story.run.context_bytes >= before + len('{"q":"order 4712"}') + len(result.result_text)


def test_an_edit_is_asked_about_again_where_the_policy_wants_two_people() -> None:
    """A person's arguments are not trusted more than a model's, and two people must have seen them."""
    story = at_work(call("pay"), version=agent(policy=Policy(quorum=2)))
    story.send_control("edit", call="pay", args={"q": "x"}).then(Edited, approves=False)
    story.run_until_idle()
    assert story.last(Asked).calls[0].rule == "edited"
    story.send_control("approve", call="pay", by="ann").append_decided().send_control(
        "approve", call="pay", by="bob"
    ).append_decided().run_until_idle()
    assert story.stage("pay") == "open"
    assert verify(TENANT, RUN, story.messages).status != "broken"


def test_an_edit_of_an_older_version_is_asked_about_again() -> None:
    """It did not state its approval; the model gets no note, as when its log was written."""
    story = at_work(call("pay"))
    edited = story.send_control("edit", call="pay", args={"q": "x"}).decided
    assert isinstance(edited, Edited)
    story.given(msgspec.structs.replace(edited, approves=None)).run_until_idle()
    assert story.last(Asked).calls[0].rule == "edited"
    story.send_control("approve", call="pay").append_decided().run_until_idle().finish_tools(pay=OK)
    assert story.run.calls["pay"].outcome_text == '{"ok":true}'
    assert assemble(story.run, story.version).messages[-2].calls[0].args == '{"q":"order 4711"}'


def test_numbers_that_are_written_otherwise_are_the_same() -> None:
    """4.0 becomes 4 when it is judged, and still equals the person's value."""
    story = at_work(call("pay"))
    story.send_control("edit", call="pay", args={"amount": 4.0}).append_decided().run_until_idle()
    assert story.last(Judged).calls[0].args == '{"amount":4}'
    assert story.stage("pay") == "open"


def test_an_approval_given_before_an_edit_does_not_cover_it() -> None:
    """The old grant is for other arguments."""
    story = at_work(call("pay"))
    granted = story.send_control("approve", call="pay").decided
    assert granted is not None
    edited = story.send_control("edit", call="pay", args={"q": "other"}).decided
    assert isinstance(edited, Edited)
    story.given(msgspec.structs.replace(edited, approves=False)).run_until_idle()
    assert "other arguments" in story.append("approver", granted).ignored


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"wrong": 1}, "Additional properties are not allowed ('wrong' was unexpected)"),
        ({"amount": "4250"}, '$.amount: "4250" is not of type "number"'),
    ],
)
def test_an_edit_that_cannot_work_is_refused_and_the_question_stays_open(args: dict[str, Any], why: str) -> None:
    """Seen: the reply was ``done``, the question gone, and the model got errors about arguments it had not written."""
    story = at_work(call("pay"))
    sentence = refusal(story, "edit", call="pay", args=args)
    assert sentence.startswith("The call 'pay' cannot be made with these arguments: ")
    assert why in sentence
    assert story.send_control("edit", call="pay", args=args).decided is None
    assert story.stage("pay") == "asked"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"by": "unknown"}, "needs a person's name"),
        ({"contract_digest": "0" * 64}, "another contract"),
        ({"shown_sha256": "0" * 64}, "other arguments"),
        ({"expires_at": NOW - timedelta(days=1)}, "had expired"),
    ],
)
def test_an_edit_does_not_approve_a_call_that_was_not_asked_about(changes: dict[str, Any], why: str) -> None:
    """Every reader ignores the event, whichever process wrote it, and the checker reports it."""
    story = at_work(call("pay"))
    edited = story.send_control("edit", call="pay", args={"q": "x"}).decided
    assert isinstance(edited, Edited)
    assert why in story.append("approver", msgspec.structs.replace(edited, **changes)).ignored
    assert verify(TENANT, RUN, story.messages).status == "broken"


def test_a_question_of_the_model_waits_for_an_answer() -> None:
    """``ask.person`` becomes a question, and the reply its result."""
    story = at_work(call("ask.person", '{"question":"Which one?","options":["a","b"]}', id="q"))
    question = story.last(Asked).question
    assert question is not None
    assert (question.text, question.options) == ("Which one?", ("a", "b"))
    assert "answer it" in refusal(story, "approve", call="q")
    story.send_control("answer", call="q", answer="a").then(Answered, answer="a")
    assert story.run.calls["q"].outcome_text == "a"


def test_a_reply_that_is_not_a_text_is_stored_as_json() -> None:
    """Any JSON value may be a reply."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q"))
    story.send_control("answer", call="q", answer={"n": 1}).then(Answered, answer='{"n":1}')


def test_an_unanswered_question_is_denied() -> None:
    """A question expires like an approval."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q")).advance_s(3_600)
    assert isinstance(story.run.calls["q"].asked, Question)
    story.when("approver").then(Denied, call="q", by="timer")


def test_a_pause_and_a_resume() -> None:
    """Each once; in the wrong order they are rejected with a reason."""
    story = at_work(call("pay"))
    assert refusal(story, "resume") == "The run is not paused."
    story.send_control("pause", why="lunch").then(Paused, why="lunch")
    assert refusal(story, "pause") == "The run is paused already."
    story.send_control("resume").then(Resumed)


def test_a_pause_holds_no_money() -> None:
    """Nothing is held for what may not start."""
    story = Story().open_run().send_control("pause").append_decided()
    story.when("budget").expect_nothing()
    story.send_control("resume").append_decided().when("budget").then(Held)


def test_a_run_without_events_left_cannot_be_paused() -> None:
    """The last events of a run belong to its end."""
    story = at_work(call("pay"), version=agent(limits={"events_max": 57})).send_control("pause").append_decided()
    assert story.run.events_left == 0
    assert "can only be stopped" in refusal(story, "pause")
    assert not refusal(story, "stop")


def test_a_persons_stop_names_person_reason_and_open_starts() -> None:
    """The receipt lists calls that may still be in progress."""
    story = at_work(call("look"))
    event = story.send_control("stop", why="enough", mode=StopMode.DRAIN).then(
        Stopped, by="bob", why="enough", mode=StopMode.DRAIN
    )
    assert [(start.what, start.attempt) for start in event.open] == [("look", 1)]


def test_a_stop_before_anything_else_is_event_one() -> None:
    """A run that does not exist yet can be stopped; any other control message needs a run."""
    story = Story()
    assert "There is no run" in refusal(story, "pause")
    story.send_control("stop", why="not today").then(Stopped)
    assert story.run.n == 1


@pytest.mark.parametrize("verb", ["stop", "pause", "approve", "resolve"])
def test_a_stopped_run_accepts_no_control_messages(verb: Verb) -> None:
    """And the reply names the moment since which it is."""
    story = at_work(call("pay")).given(Stopped(by="bob", why="enough"), by="operator")
    assert "is stopped already (enough)" in refusal(story, verb, call="pay")
    story.send_control(verb, call="pay").expect_nothing()


def test_a_stop_cancels_the_calls_that_a_draining_stop_let_finish() -> None:
    """The first stop's person and reason stay; in the other order nothing changes."""
    story = at_work(call("look")).send_control("stop", why="let it end", mode=StopMode.DRAIN).append_decided()
    assert "is stopped already" in refusal(story, "stop", mode=StopMode.DRAIN)
    assert "is stopped already" in refusal(story, "pause")
    story.send_control("stop", why="no, now").then(Stopped, mode=StopMode.FENCE)
    assert story.run.stopped is not None
    assert (story.run.stopped.why, story.run.stopped.mode) == ("let it end", StopMode.FENCE)
    assert "is stopped already (let it end)" in refusal(story, "stop")
    story.finish_tools(look=OK).run_until_idle()
    assert "is over" in refusal(story, "stop")
    assert story.last(Sealed).why == "let it end"


def test_a_sealed_run_accepts_no_control_messages() -> None:
    """It is over."""
    assert "is over" in refusal(at_work(), "stop")


@pytest.mark.parametrize(
    ("verb", "fields", "sentence"),
    [
        ("approve", {"call": "nope"}, "There is no call 'nope'"),
        ("approve", {"call": "look"}, "does not wait for a person (it is answered)"),
        ("approve", {"call": "pay", "by": ""}, "Say who approves"),
        ("answer", {"call": "pay"}, "is not a question: approve or deny it"),
        ("edit", {"call": "pay"}, "as a JSON object"),
        ("edit", {"call": "look", "args": {}}, "does not wait"),
    ],
)
def test_a_rejected_control_message_names_the_reason(verb: Verb, fields: dict[str, Any], sentence: str) -> None:
    """One sentence naming the call and what is wrong."""
    story = at_work(call("look"), call("pay")).finish_tools(look=OK)
    assert sentence in refusal(story, verb, **fields)


@pytest.mark.parametrize("verb", ["approve", "deny", "edit"])
def test_an_approval_of_an_unknown_outcome_is_rejected_with_the_command_that_decides(verb: Verb) -> None:
    """It was agreed to before; the question is about its outcome."""
    story = paid().finish_tools(pay=UNKNOWN)
    assert "`linestop resolve r1 pay --retry|--done|--stop`" in refusal(story, verb, call="pay", args={})
