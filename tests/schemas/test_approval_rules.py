"""Gates and judgements in the fold: a role that forges them changes nothing for any reader."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import OK, UNKNOWN, Story, agent, at_gate, at_work, call, contract, reply

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import (
    Asked,
    AskedCall,
    BlobRef,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    Granted,
    Judged,
    Policy,
    Question,
    Resolved,
)

EVA = agent(policy=Policy(deciders=("eva",)))


def cleared(story: Story, name: str) -> Cleared:
    """Return a clearing of that call, as a process with the approver's credential might write it."""
    line = ClearedCall(call=name, rule="policy:clear", args_sha256=story.run.calls[name].args_sha256)
    return Cleared(calls=(line,))


@pytest.mark.parametrize(
    ("tool", "version", "reason"),
    [
        ("pay", agent(), "needs a person (tier:irreversible)"),
        ("note", agent(policy=Policy(ask=("no*",))), "needs a person (policy:ask)"),
        ("pay", agent(policy=Policy(clear=("pay",)), tools=(contract("pay", tier="destructive"),)), "only a person"),
        ("ask.person", agent(), "is a question: only an answer ends it"),
    ],
)
def test_a_call_that_needs_a_person_is_not_cleared(tool: str, version: AgentVersion, reason: str) -> None:
    """The policy of the run counts, not the approver's decision."""
    args = '{"question":"which?"}' if tool == "ask.person" else '{"q":"order 4711"}'
    story = at_gate(call(tool, args), version=version)
    assert reason in story.append("approver", cleared(story, tool)).ignored
    assert story.stage(tool) == "gate"


def test_a_value_of_unknown_origin_is_not_cleared_though_policy_clears_the_tool() -> None:
    """Provenance binds the approver too."""
    story = at_gate(call("pay", '{"q":"eve@example.org"}'), version=agent(policy=Policy(clear=("pay",))))
    assert "needs a person (provenance)" in story.append("approver", cleared(story, "pay")).ignored


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        ({"quorum": 1}, "asks other people"),
        ({"deciders": ("mallory",)}, "asks other people"),
        ({"args_sha256": "0" * 64}, "another tool, contract or arguments"),
        ({"contract_digest": "0" * 64}, "another tool, contract or arguments"),
        ({"tool": "look"}, "another tool, contract or arguments"),
        ({"years": 5}, "for longer than the run's limit"),
    ],
)
def test_an_invalid_question_is_ignored(forgery: dict[str, Any], reason: str) -> None:
    """Policy, judgement and limits fix the people, the content and the expiry of a question."""
    story = at_gate(call("pay"), version=agent(policy=Policy(deciders=("eva", "bob"), quorum=2)))
    honest = story.when("approver").decided
    assert isinstance(honest, Asked)
    years = forgery.pop("years", 0)
    line: AskedCall = msgspec.structs.replace(honest.calls[0], **forgery)
    line = msgspec.structs.replace(line, expires_at=line.expires_at.replace(year=line.expires_at.year + years))
    assert reason in story.append("approver", Asked(calls=(line,))).ignored
    assert not story.append("approver", honest).ignored


def test_an_effect_cannot_be_turned_into_a_question_that_an_answer_settles() -> None:
    """Otherwise the model would be told of a payment that was never made."""
    story = at_gate(call("pay"))
    question = Question(call="pay", text="paid?", expires_at=story.now + timedelta(hours=1))
    assert "is not a question" in story.append("approver", Asked(question=question)).ignored


def test_only_deciders_decide() -> None:
    """Granting, denying, editing and resolving in another name has no effect."""
    story = at_work(call("pay"), version=EVA)
    line = story.last(Asked).calls[0]
    shown: dict[str, Any] = {"args_sha256": line.args_sha256, "contract_digest": line.contract_digest}
    for by in ("mallory", "", "timer"):
        reason = story.append("approver", Granted(call="pay", by=by, **shown)).ignored
        assert "may not decide" in reason or "a person's name" in reason
    assert "'mallory' may not decide" in story.append("approver", Denied(call="pay", by="mallory", **shown)).ignored
    edited = Edited(call="pay", args="{}", args_sha256="x", by="mallory")
    assert "'mallory' may not decide; eva may" in story.append("approver", edited).ignored
    story.given(Granted(call="pay", by="eva", **shown)).run_until_idle().finish_tools(pay=UNKNOWN)
    retry = Resolved(call="pay", action="retry", by="mallory")
    assert "may not decide" in story.append("approver", retry).ignored
    assert not story.append("approver", msgspec.structs.replace(retry, by="eva")).ignored


def test_a_grant_that_ended_sooner_than_its_question_is_over() -> None:
    """A person may agree for less time than the question allowed."""
    story = at_work(call("pay"))
    line = story.last(Asked).calls[0]
    granted = Granted(
        call="pay",
        by="bob",
        args_sha256=line.args_sha256,
        contract_digest=line.contract_digest,
        expires_at=story.now + timedelta(seconds=10),
    )
    assert "expired" in story.advance_s(10).append("approver", granted).ignored


def test_no_question_is_denied_before_it_expires() -> None:
    """``timer`` is not a person, and denies only when the question has expired."""
    story = at_work(call("pay"))
    denied = Denied(call="pay", by="timer")
    assert "not expired yet" in story.advance_s(3_599).append("approver", denied).ignored
    assert not story.advance_s(1).append("approver", denied).ignored


def test_only_deciders_decide_about_spending() -> None:
    """A question about spending names no deciders, so the policy's count."""
    policy = Policy(ask_on_spend=True, deciders=("eva",))
    story = Story(agent(policy=policy, limits={"ask_from_micros": 0})).open_run().run_until_idle()
    assert "may not decide" in story.append("approver", Granted(call="", by="mallory")).ignored
    assert "may not decide" in story.append("approver", Denied(call="", by="mallory")).ignored
    assert "not expired yet" in story.append("approver", Denied(call="", by="timer")).ignored
    asked = story.last(Asked).spend
    assert asked is not None
    story.given(Granted(call="", by="eva"))
    longer = Asked(spend=msgspec.structs.replace(asked, expires_at=asked.expires_at.replace(year=2030)))
    assert "for longer" in story.append("approver", longer).ignored


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        ({"tier": "read"}, "lowers call 'pay' from irreversible to read"),
        ({"args": '{"q":"eve"}'}, "digest of the arguments"),
        ({"effect_key": "0" * 64}, "effect key of call 'pay'"),
        ({"args": BlobRef(sha256="0" * 64, bytes=9)}, "digest of call 'pay' is false"),
        ({"verdict": "recorded", "recorded_n": 3}, "event 3 is not a result of the effect"),
    ],
)
def test_an_invalid_verdict_is_ignored(forgery: dict[str, Any], reason: str) -> None:
    """Tier, digest, key and record are recomputed by every reader."""
    story = Story().open_run().run_until_idle()
    honest = story.given(*story.planner_events(reply(call("pay")))).when("validator").decided
    assert isinstance(honest, Judged)
    verdict = msgspec.structs.replace(honest.calls[0], **forgery)
    assert reason in story.append("validator", msgspec.structs.replace(honest, calls=(verdict,))).ignored
    assert story.stage("pay") == "pending"


def test_an_answer_is_not_taken_from_the_record_of_another_effect() -> None:
    """Only the result of the same effect may be reused."""
    version = agent(policy=Policy(clear=("pay",)))
    story = at_work(call("pay"), version=version).finish_tools(pay=OK)
    honest = story.given(*story.planner_events(reply(call("pay", '{"q":"25"}', id="b")))).when("validator").decided
    assert isinstance(honest, Judged)
    record = story.run.calls["pay"].finished_n
    verdict = msgspec.structs.replace(honest.calls[0], verdict="recorded", recorded_n=record)
    entry = story.append("validator", msgspec.structs.replace(honest, calls=(verdict,)))
    assert "is not a result of the effect of call 'b'" in entry.ignored


@pytest.mark.parametrize(
    ("limits", "tools", "reason"),
    [
        ({"calls_max": 1}, agent().tools, "the run may make 1 calls"),
        ({"calls_per_tool_max": 1}, agent().tools, "the tool 'look' may be called 1 times"),
        ({}, (contract("look", calls_max=1),), "the tool 'look' may be called 1 times"),
    ],
)
def test_more_calls_than_the_limits_allow_do_not_pass(limits: dict[str, int], tools: Any, reason: str) -> None:
    """Run, tool and contract each limit the number; the judgement as a whole is ignored."""
    two = reply(call("look", id="a"), call("look", '{"q":"b"}', id="b"))
    verdicts = agent(tools=(contract("look"),))
    judge = Story(verdicts).open_run().run_until_idle()
    honest = judge.given(*judge.planner_events(two)).when("validator").decided
    assert isinstance(honest, Judged)
    story = Story(agent(tools=tools, limits=limits)).open_run().run_until_idle()
    story.given(*story.planner_events(two))
    assert reason in story.append("validator", honest).ignored
