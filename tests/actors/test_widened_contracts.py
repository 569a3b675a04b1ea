"""A tool may do more by now than was agreed to: a person is asked about the present contract, and only that counts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import CONTRACTS, NOW, RUN, TENANT, Story, agent, at_gate, at_work, call, refolded, refusal, reply

from linestop.actors.facts import DeadWorkers, ToolHere, ToolsHere, Worker
from linestop.actors.judging.task_acceptance import tool_grant
from linestop.cli.approval_questions import question_text
from linestop.cli.output.timeline import entry_line as time_line
from linestop.client.result_types import open_questions, require_shown
from linestop.errors import Refused
from linestop.schemas.defaults import WIDENED_MAX
from linestop.schemas.events import (
    Asked,
    AskedCall,
    Cleared,
    ClearedCall,
    EffectStarted,
    Finished,
    Granted,
    Policy,
    Widened,
    WidenedCall,
)
from linestop.schemas.messages import Task
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.phases import Phase
from linestop.schemas.tool_contracts import Contract, ToolError, ToolResult
from linestop.schemas.verify.check_log import verify
from linestop.testing.replay import replay

PEOPLE = {"granted", "denied", "edited", "resolved"}
CLEARS_PAY = agent(policy=Policy(clear=("pay",), provenance=False))


def changed(name: str, **fields: Any) -> ToolsHere:
    """The tools of a process in which one of them was changed."""
    here = {contract.name: contract for contract in CONTRACTS}
    here[name] = msgspec.structs.replace(here[name], **fields)
    return ToolsHere(by_name={each.name: ToolHere(grant=tool_grant(each), contract=each) for each in here.values()})


def last_question(story: Story) -> AskedCall:
    """The last question about a call."""
    (asked,) = story.last(Asked).calls
    return asked


def approve(story: Story, *facts: Any, **fields: Any) -> Story:
    """Agree to the call that is asked about, as it is shown."""
    asked = last_question(story)
    shown = {"call": asked.call, "args_sha256": asked.args_sha256, "contract_digest": asked.contract_digest}
    return story.send_control("approve", **{**shown, **fields}).append_decided().run_until_idle(*facts)


def proves_itself(story: Story) -> None:
    """The log is consistent, folds alike from the start, and today's roles decide it again."""
    checked = verify(TENANT, RUN, story.messages)
    assert checked.problems == ()
    assert [entry.ignored for entry in story.run.entries if entry.ignored] == []
    assert refolded(story).phase == story.run.phase
    # People's decisions came without control messages here.
    assert [each for each in replay(story.messages, story.version) if each.event not in PEOPLE] == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tier": "destructive"}, "its tier is 'destructive', no longer 'irreversible'"),
        ({"scopes": ("money.all",)}, "its scopes have 'money.all' in addition"),
        ({"egress": ("q",)}, "its egress have 'q' in addition"),
    ],
)
def test_a_waiting_call_is_asked_about_again(fields: dict[str, Any], reason: str) -> None:
    """In the same run, with the same time to decide and a sentence about the wider part; then the call is made."""
    story = at_work(call("pay"))
    before, tools = last_question(story), changed("pay", **fields)
    story.advance_s(30.0).run_until_idle(tools)
    asked = last_question(story)
    assert story.event_names()[-2:] == ["executor.widened", "approver.asked"]
    assert (asked.rule, asked.wider) == ("contract:wider", f"'pay' may do more by now than was agreed to: {reason}.")
    assert asked.contract_digest == tools.by_name["pay"].grant.contract_digest != before.contract_digest
    assert (asked.args_sha256, asked.expires_at) == (before.args_sha256, before.expires_at + timedelta(seconds=30))
    assert before.wider == ""
    approve(story, tools)
    (started,) = story.last(EffectStarted).calls
    assert started.contract_digest == asked.contract_digest
    view = story.executor.prepare(story.run, story.last(EffectStarted), story.executor_facts)
    assert view[0].grant.contract_digest == asked.contract_digest
    story.finish_tools(pay=ToolResult(outcome="succeeded", value=1))
    assert story.run.calls["pay"].stage is Stage.ENDED
    proves_itself(story)


def test_the_question_is_printed_with_the_wider_part_of_the_contract() -> None:
    """By ``approvals`` and ``show``."""
    story = at_work(call("pay")).run_until_idle(changed("pay", tier="destructive"))
    sentence = "'pay' may do more by now than was agreed to: its tier is 'destructive', no longer 'irreversible'."
    (question,) = open_questions(story.run, {})
    assert f"  wider   {sentence}" in question_text(question).splitlines()
    assert f"may pay be done? {sentence} (contract:wider)" in time_line(story.run.entries[-1], story.run)
    assert "pay may do more now than was approved; a person must approve" in time_line(story.run.entries[-2])


def test_only_a_decision_about_the_shown_contract_counts() -> None:
    """A decision about the narrower contract does not, nor one that names no contract; a denial needs none."""
    story = at_work(call("pay"))
    before, (shown_before,) = last_question(story), open_questions(story.run, {})
    story.run_until_idle(tools := changed("pay", tier="destructive"))
    (shown,) = open_questions(story.run, {})
    for digest in (shown_before.shown, before.args_sha256):
        with pytest.raises(Refused, match="is no longer the one shown"):
            require_shown(shown, digest)
    require_shown(shown, shown.shown)
    args: dict[str, Any] = {"call": "pay", "args_sha256": before.args_sha256}
    old = refusal(story, "approve", **args, contract_digest=before.contract_digest)
    assert old == "The contract of 'pay' is not the one that was shown; look again."
    assert refusal(story, "approve", **args).endswith("Look again, and name the contract that is shown.")
    assert refusal(story, "deny", **args) == ""
    stale = Granted(call="pay", by="bob", args_sha256=before.args_sha256, contract_digest=before.contract_digest)
    assert story.append("approver", stale).ignored
    assert story.run.calls["pay"].stage is Stage.ASKED
    story.when("executor", tools).expect_nothing()


def test_a_grant_from_before_the_change_no_longer_counts() -> None:
    """Its call has not begun: a person is asked again, under the present contract."""
    story = at_work(call("pay"))
    story.send_control("approve", call="pay").append_decided()
    assert story.run.calls["pay"].stage is Stage.READY
    story.run_until_idle(tools := changed("pay", scopes=("more",)))
    assert story.event_names()[-2:] == ["executor.widened", "approver.asked"]
    assert "executor.started" not in story.event_names()
    approve(story, tools)
    assert story.event_names()[-1] == "executor.started"
    proves_itself(story)


def test_two_people_agree_again_where_the_policy_asks_for_two() -> None:
    """The vote of the first one was for another contract."""
    story = at_work(call("pay"), version=agent(policy=Policy(quorum=2)))
    story.send_control("approve", by="ann", call="pay").append_decided()
    story.run_until_idle(tools := changed("pay", tier="destructive"))
    approve(story, tools, by="bob")
    assert story.stage("pay") == "asked"
    approve(story, tools, by="ann")
    assert story.stage("pay") == "open"
    proves_itself(story)


@pytest.mark.parametrize(
    ("name", "fields", "version"),
    [
        ("look", {"scopes": ("more",)}, agent()),
        ("look", {"tier": "irreversible"}, agent()),
        ("note", {"egress": ("q",)}, agent()),
        ("pay", {"scopes": ("more",)}, CLEARS_PAY),
    ],
)
def test_a_call_that_needed_no_person_needs_one_now(name: str, fields: dict[str, Any], version: Any) -> None:
    """Whether the change was there before the call passed its gate, or comes between the gate and the start."""
    for at in ("the gate", "the start"):
        story, tools = at_gate(call(name), version=version), changed(name, **fields)
        if at == "the start" and name != "look":
            story.when("approver").then(Cleared)
        story.run_until_idle(tools)
        assert last_question(story).rule == "contract:wider", at
        assert "executor.started" not in story.event_names()
        approve(story, tools)
        assert story.event_names()[-1] == "executor.started"
        proves_itself(story)


def test_a_contract_that_allows_no_more_causes_no_question() -> None:
    """A docstring, a longer timeout, a narrower contract; nor once a person has agreed to the wider one."""
    for fields in ({"description": "Pays."}, {"timeout_s": 60.0}, {"tier": "reversible"}):
        story = at_work(call("pay"))
        story.run_until_idle(changed("pay", **fields))
        assert story.event_names()[-1] == "approver.asked"
        approve(story, changed("pay", **fields))
        assert story.last(EffectStarted).calls[0].contract_digest == ""
    story = at_work(call("pay")).run_until_idle(changed("pay", tier="destructive"))
    story.run_until_idle(ToolsHere(by_name={c.name: ToolHere(grant=tool_grant(c), contract=c) for c in CONTRACTS}))
    assert story.event_names().count("executor.widened") == 1


def test_a_contract_that_becomes_wider_again_causes_another_question() -> None:
    """The sentence compares with the last agreement; the questions are bounded, should two processes disagree."""
    story = at_work(call("pay")).run_until_idle(changed("pay", scopes=("a",)))
    story.run_until_idle(changed("pay", scopes=("a", "b")))
    assert "its scopes have 'a' in addition" in last_question(story).wider
    approve(story)
    other = at_work(call("pay"))
    for i in range(2 * WIDENED_MAX):
        other.run_until_idle(changed("pay", scopes=(f"s{i}",)))
    assert other.event_names().count("executor.widened") == WIDENED_MAX


def test_arguments_that_the_tool_no_longer_accepts_cause_no_question() -> None:
    """The executor reports them to the model instead."""
    other: dict[str, Any] = {"type": "object", "properties": {"whom": {}}, "required": ["whom"]}
    story = at_gate(call("look"))
    story.run_until_idle(changed("look", scopes=("more",), parameters=other))
    assert story.event_names()[-1] == "executor.started"


def test_a_dry_run_asks_no_person() -> None:
    """Nothing is done in it, under any contract."""
    story = at_work(call("pay"), task=Task(text="Pay.", dry_run=True)).run_until_idle(
        changed("pay", tier="destructive")
    )
    assert "approver.asked" not in story.event_names()
    story = Story(task=Task(text="Look.", dry_run=True)).open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("look")))).when("validator").append_decided()
    story.run_until_idle(changed("look", tier="irreversible"))
    assert story.event_names()[-3:] == ["executor.widened", "approver.cleared", "executor.started"]
    proves_itself(story)


# --- calls that were begun before ------------------------------------------------------------------------------


def retried(name: str, **fields: Any) -> Story:
    """A call that failed once, and is to be repeated in a moment."""
    story = at_work(call(name))
    error = ToolError(type="transient", message="No.", **fields)
    return story.finish_tools(**{name: ToolResult(outcome="failed", error=error)})


def test_a_retry_waits_for_the_person_too() -> None:
    """A call that failed before it did anything is asked about, and then made at once."""
    story = retried("note", retry_safe=True, known_by="tool")
    assert story.run.calls["note"].stage is Stage.READY
    story.run_until_idle(tools := changed("note", scopes=("more",)))
    approve(story, tools)
    assert story.last(EffectStarted).calls[0].attempt == 2
    proves_itself(story)


def test_a_failed_call_has_an_unknown_outcome_once_repeating_it_is_no_longer_safe() -> None:
    """A tool that is no longer idempotent is not simply called again; and a person's retry is asked about."""
    story = retried("note", retry_safe=True)
    story.run_until_idle(tools := changed("note", idempotent=False))
    assert (last_question(story).rule, story.run.calls["note"].asked_about_outcome) == ("unknown", True)
    assert "it is no longer safe to repeat" in last_question(story).wider
    story.send_control("resolve", call="note", action="retry").append_decided().run_until_idle(tools)
    assert last_question(story).rule == "contract:wider"
    approve(story, tools)
    assert story.last(EffectStarted).calls[0].attempt == 2
    proves_itself(story)


def test_an_open_start_of_another_worker_is_not_taken_over_under_a_wider_contract() -> None:
    """Its attempt ends as unknown, and a person is asked; a late success becomes the result."""
    for late in (False, True):
        story = at_work(call("note"))
        first = story.last(EffectStarted).worker
        tools, here = changed("note", scopes=("more",)), (Worker("other#1"), DeadWorkers(frozenset({first})))
        story.run_until_idle(tools, *here)
        assert story.event_names()[-3:] == ["executor.finished", "executor.widened", "approver.asked"]
        assert story.last(Finished).dead_workers == (first,)
        if late:
            story.given(Finished(call="note", attempt=1, outcome="succeeded", result="1", result_bytes=1))
            assert story.run.calls["note"].stage is Stage.ENDED
            continue
        approve(story, tools, *here)
        assert story.last(EffectStarted).calls[0].attempt == 2
        proves_itself(story)


def test_arguments_of_a_call_that_was_begun_are_not_edited() -> None:
    """The effect may have happened with the old ones."""
    story = retried("note", retry_safe=True).run_until_idle(changed("note", scopes=("more",)))
    shown: dict[str, Any] = {
        "call": "note",
        "contract_digest": last_question(story).contract_digest,
        "args": {"q": "x"},
    }
    assert "has started with its present arguments and can no longer be edited" in refusal(story, "edit", **shown)


def test_an_edit_agrees_to_the_contract_that_was_shown_with_it() -> None:
    """One step, as elsewhere; and after a later change a person is asked again."""
    story = at_work(call("pay")).run_until_idle(tools := changed("pay", tier="destructive"))
    asked = last_question(story)
    edit: dict[str, Any] = {"call": "pay", "args_sha256": asked.args_sha256, "contract_digest": asked.contract_digest}
    story.send_control("edit", args={"q": "order 4712"}, **edit).append_decided()
    story.when("validator").append_decided()
    story.run_until_idle(tools)
    assert story.last(EffectStarted).calls[0].contract_digest == asked.contract_digest
    proves_itself(story)
    story = at_work(call("pay")).run_until_idle(tools)
    edit = {"call": "pay", "contract_digest": last_question(story).contract_digest, "args": {"q": "order 4712"}}
    story.send_control("edit", **edit).append_decided().when("validator").append_decided()
    story.run_until_idle(changed("pay", tier="destructive", scopes=("more",)))
    assert "its scopes have 'more' in addition" in last_question(story).wider
    assert story.run.calls["pay"].stage is Stage.ASKED


# --- lies ----------------------------------------------------------------------------------------------------------


def problems(story: Story) -> str:
    """The problems that ``verify`` finds, in one text."""
    return " ".join(problem.sentence for problem in verify(TENANT, RUN, story.messages).problems)


def test_a_start_under_a_contract_that_no_person_agreed_to_is_found() -> None:
    """Every reader ignores it: with the wider contract not asked about, asked about, or unlike the agreed one."""
    tools = changed("pay", tier="destructive")
    wide = tools.by_name["pay"].grant.contract_digest
    for digest in (wide, "0" * 64):
        story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
        started = story.when("executor").decided
        assert isinstance(started, EffectStarted)
        lines = tuple(msgspec.structs.replace(each, contract_digest=digest) for each in started.calls)
        assert "another contract" in story.append("executor", msgspec.structs.replace(started, calls=lines)).ignored
        assert "under a contract that was never agreed to" in problems(story)
    story = approve(at_work(call("pay")).run_until_idle(tools))
    run, honest = story.run, story.last(EffectStarted)
    assert (run.calls["pay"].stage, honest.calls[0].contract_digest) == (Stage.OPEN, wide)
    story = at_work(call("pay")).run_until_idle(tools)
    shown = {"call": "pay", "args_sha256": last_question(story).args_sha256, "contract_digest": wide}
    story.send_control("approve", **shown).append_decided()
    lines = tuple(msgspec.structs.replace(each, contract_digest="") for each in honest.calls)
    assert story.append("executor", msgspec.structs.replace(honest, calls=lines)).ignored
    assert "under a contract that was never agreed to" in problems(story)
    story = (
        at_work(call("pay"))
        .send_control("approve", call="pay")
        .append_decided()
        .when("executor", tools)
        .append_decided()
    )
    assert story.append("executor", honest).ignored
    assert "no event let it pass" in problems(story)


def test_a_read_whose_contract_became_wider_does_not_start_on_its_judgement() -> None:
    """The judgement was of a call under the narrower contract."""
    story = at_gate(call("look")).when("executor", changed("look", scopes=("more",))).append_decided()
    assert story.append("executor", at_work(call("look")).last(EffectStarted)).ignored
    assert "no event let it pass" in problems(story)


def test_a_gate_that_passes_a_wider_contract_without_a_person_is_found() -> None:
    """Also for calls that the policy clears, and for a question that does not name the wider contract."""
    story = at_gate(call("look")).when("executor", changed("look", scopes=("more",))).append_decided()
    sha = story.run.calls["look"].args_sha256
    cleared = Cleared(calls=(ClearedCall(call="look", rule="tier:read", args_sha256=sha),))
    assert "needs a person (contract:wider)" in story.append("approver", cleared).ignored
    assert "its tool may do more than was agreed to" in problems(story)
    story = at_gate(call("look")).when("executor", changed("look", scopes=("more",))).append_decided()
    asked = story.when("approver").decided
    assert isinstance(asked, Asked)
    quiet = msgspec.structs.replace(asked.calls[0], wider="")
    assert story.append("approver", msgspec.structs.replace(asked, calls=(quiet,))).ignored
    assert "does not state whether the tool of call 'look' may do more" in problems(story)


def test_a_contract_that_is_not_wider_or_of_another_tool_changes_nothing() -> None:
    """Nor does one for a call that has begun, is over, or does not exist."""
    narrow = tool_grant(msgspec.structs.replace(_contract("pay"), description="Pays."))
    other = tool_grant(_contract("drop"))
    wide = changed("pay", scopes=("more",)).by_name["pay"].grant
    for name, contract in [("pay", narrow), ("pay", other), ("look", wide), ("nothing", wide)]:
        story = at_work(call("pay"), call("look"))
        lie = Widened(calls=(WidenedCall(call=name, grant=contract),), worker="w#1")
        assert story.append("executor", lie).ignored
        assert verify(TENANT, RUN, story.messages).broken
        assert story.run.calls["pay"].stage is Stage.ASKED
    story = at_work(call("pay"))
    twice = Widened(calls=(WidenedCall(call="pay", grant=wide),) * 2, worker="w#1")
    assert story.append("executor", twice).ignored


def _contract(name: str) -> Contract:
    return next(contract for contract in CONTRACTS if contract.name == name)


def test_a_wait_does_not_call_a_tool() -> None:
    """No tool performs it, so its contract does not matter."""
    story = at_work(call("ask.person", '{"question":"How?"}'))
    story.run_until_idle(changed("ask.person", scopes=("more",)))
    assert story.event_names()[-1] == "approver.asked"
    assert story.run.phase is Phase.WAITING
    assert story.now == NOW
