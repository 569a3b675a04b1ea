"""The validator's judgement of calls: allowed, well formed, no loop, no repeated effect."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import NOW, OK, TASK, Story, agent, at_gate, at_work, call, contract, refusal, reply

from linestop.actors.facts import (
    Texts,
)
from linestop.schemas.events import (
    BlobRef,
    Edited,
    EffectStarted,
    Finished,
    Judged,
    JudgedCall,
    ModelStarted,
    Proposed,
    ProposedCall,
    Stopped,
)
from linestop.schemas.messages import Task
from linestop.schemas.model_messages import ToolCall
from linestop.schemas.tool_contracts import ToolResult


def verdicts(*calls: ToolCall, **limits: Any) -> list[JudgedCall]:
    """The verdicts on these calls of a first proposal."""
    return list(at_gate(*calls, version=agent(limits=limits)).last(Judged).calls)


def stop(story: Story) -> tuple[str, str, int, int]:
    """Code, limit, value and maximum of the run's stop."""
    event = story.last(Stopped)
    hit = event.limit
    return (event.code, hit.name, hit.value, hit.max_value) if hit else (event.code, "", 0, 0)


def test_arguments_become_canonical_and_are_keyed() -> None:
    """Equal calls have equal digests, however the model wrote them."""
    first, second = verdicts(
        call("look", '{"q":"a","amount":1.0}', id="a"), call("look", '{"amount": 1, "q":"a"}', id="b")
    )
    assert first.args == second.args == '{"amount":1,"q":"a"}'
    assert first.effect_key == second.effect_key != ""
    assert first.raw_args_sha256 != second.raw_args_sha256


def test_a_call_of_an_unknown_tool_is_rejected_with_the_names_of_the_tools() -> None:
    """The model can correct it in one turn."""
    verdict = verdicts(call("fly"))[0]
    assert verdict.verdict == "reject"
    assert "the tools are: look, note" in verdict.errors[0]


def test_all_errors_of_the_arguments_come_at_once() -> None:
    """So one turn is enough to correct them."""
    assert len(verdicts(call("look", '{"q":1,"amount":"x"}'))[0].errors) == 2


def test_a_tool_that_is_not_in_scope_does_not_exist() -> None:
    """A grant that was not given when the run opened cannot be used later."""
    story = at_work(call("pay"), task=Task(text=TASK, scope=("look",)))
    assert "There is no tool 'pay'" in story.run.calls["pay"].outcome_text


def test_three_rejected_proposals_in_a_row_end_the_run() -> None:
    """``rejections_max``."""
    story = at_work(call("fly", id="a"))
    for name in ("b", "c"):
        assert story.run.stopped is None
        story.finish_model(reply(call("fly", id=name)))
    assert stop(story) == ("limit", "rejections_max", 3, 3)


def test_one_good_proposal_resets_the_count() -> None:
    """Only rejections in a row count."""
    story = at_work(call("fly", id="a")).finish_model(reply(call("fly", id="b")))
    story.finish_model(reply(call("fly", id="c"), call("look"))).finish_tools(look=OK)
    assert story.run.rejections_in_a_row == 0
    assert story.run.stopped is None


@pytest.mark.parametrize(("calls", "verdict"), [(16, "pass"), (17, "reject")])
def test_a_proposal_has_at_most_sixteen_calls(calls: int, verdict: str) -> None:
    """``proposal_calls_max``."""
    proposed = [call("look", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(calls)]
    assert {v.verdict for v in verdicts(*proposed, calls_per_tool_max=20)} == {verdict}


def test_a_tool_is_called_at_most_ten_times() -> None:
    """``calls_per_tool_max``: the eleventh is rejected, in one proposal and over several."""
    proposed = [call("look", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(11)]
    assert [v.verdict for v in verdicts(*proposed)] == ["pass"] * 10 + ["reject"]
    story = at_work(*proposed[:10]).finish_tools(**{f"c{i}": OK for i in range(10)}).finish_model(reply(proposed[10]))
    assert "has been called 10 times" in story.run.calls["c10"].outcome_text


def test_a_contract_may_allow_fewer_calls() -> None:
    """``calls_max`` of the contract."""
    once = agent(tools=(contract("look", calls_max=1),))
    story = at_gate(call("look", id="a"), call("look", '{"q":"b"}', id="b"), version=once)
    assert [v.verdict for v in story.last(Judged).calls] == ["pass", "reject"]


def test_a_run_makes_at_most_twenty_calls() -> None:
    """``calls_max``: a call beyond is rejected, the model sums up, and the run ends."""
    tools = tuple(contract(f"t{i}") for i in range(3))
    version = agent(tools=tools)
    story = at_work(*[call(f"t{i % 2}", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(16)], version=version)
    story.finish_tools(**{f"c{i}": OK for i in range(16)})
    more = [call("t2", f'{{"q":"{i}"}}', id=f"d{i}") for i in range(5)]
    assert story.finish_model(reply(*more[:4])).run.stopped is None
    story.finish_tools(**{f"d{i}": OK for i in range(4)}).finish_model(reply(more[4]))
    assert story.last(ModelStarted).purpose == "close"
    story.finish_model(reply(text="Twenty calls were made."))
    assert stop(story) == ("limit", "calls_max", 21, 20)


def test_an_edited_call_does_not_count_twice() -> None:
    """The last call a run may make is still its last after a person changed it."""
    story = at_work(call("pay"), version=agent(limits={"calls_max": 1, "calls_per_tool_max": 1}))
    story.send_control("edit", call="pay", args={"q": "x"}).then(Edited)
    story.run_until_idle()
    assert story.stage("pay") == "open"
    assert story.run.stopped is None


def test_the_same_call_with_the_same_result_three_times_is_a_loop() -> None:
    """``equal_calls_max``: the fourth ends the run."""
    story = at_work(call("look", id="a")).finish_tools(a=OK)
    for name in ("b", "c"):
        story.finish_model(reply(call("look", id=name))).finish_tools(**{name: OK})
    assert story.run.stopped is None
    story.finish_model(reply(call("look", id="d")))
    assert story.last(Judged).calls[0].verdict == "loop"
    assert stop(story) == ("loop", "equal_calls_max", 4, 3)


def test_the_same_call_with_another_result_is_not_a_loop() -> None:
    """Polling that makes progress may continue."""
    story = at_work(call("look", id="a")).finish_tools(a=OK)
    for i, name in enumerate(("b", "c", "d")):
        story.finish_model(reply(call("look", id=name))).finish_tools(
            **{name: ToolResult(outcome="succeeded", value=i)}
        )
    assert story.run.stopped is None


@pytest.mark.parametrize("tool", ["pay", "note"])
def test_a_repeated_effect_gets_the_recorded_result(tool: str) -> None:
    """The model may not repeat it: same result, nothing started."""
    story = at_work(call(tool))
    if tool == "pay":
        story.send_control("approve", call=tool).append_decided().run_until_idle()
    story.finish_tools(**{tool: ToolResult(outcome="succeeded", value="first")}).finish_model(
        reply(call(tool, id="again"))
    )
    assert (story.last(Judged).calls[0].verdict, story.run.calls["again"].outcome_text) == ("recorded", "first")
    assert sum(isinstance(entry.event, EffectStarted) for entry in story.run.entries) == 1


def test_a_repeatable_effect_may_be_repeated() -> None:
    """If the contract allows it."""
    again = agent(tools=(contract("note", tier="reversible", repeatable=True),))
    story = at_work(call("note", id="a"), version=again).finish_tools(a=OK).finish_model(reply(call("note", id="b")))
    assert story.last(Judged).calls[0].verdict == "pass"


def test_the_same_effect_twice_in_one_proposal_is_rejected() -> None:
    """One of them is enough."""
    assert [v.verdict for v in verdicts(call("pay", id="a"), call("pay", id="b"))] == ["pass", "reject"]


def test_an_edit_into_an_effect_in_progress_is_refused() -> None:
    """A person's edit must not make the effect happen twice; the person gets the reason."""
    story = at_work(call("pay", '{"q":"a"}', id="a"), call("pay", '{"q":"b"}', id="b"))
    story.send_control("approve", call="a").append_decided()
    assert "under way already (call 'a')" in refusal(story, "edit", call="b", args={"q": "a"})
    assert story.stage("b") == "asked"


def test_an_effect_with_an_unknown_outcome_is_not_proposed_again() -> None:
    """Neither while a person is asked nor afterwards."""
    story = at_work(call("pay", '{"q":"a"}', id="a"), call("pay", '{"q":"b"}', id="b"))
    story.send_control("approve", call="a").append_decided().run_until_idle().finish_tools(
        a=ToolResult(outcome="unknown")
    )
    refused = refusal(story, "edit", call="b", args={"q": "a"})
    assert "under way already" in refused or "not known yet" in refused


def test_an_effect_that_succeeded_too_late_is_not_repeated() -> None:
    """Its result came too late, but the log knows that it was done."""
    story = at_work(call("note"))
    for _ in range(3):
        story.advance_s(12).run_until_idle()
    assert story.run.calls["note"].is_error
    story.given(Finished(call="note", attempt=1, outcome="succeeded", result="1", late=True))
    story.finish_model(reply(call("note", id="again")))
    assert story.last(Judged).calls[0].errors == ("The same effect was done already (call 'note').",)


def test_long_arguments_are_judged_from_their_blob() -> None:
    """The text behind the reference counts."""
    story = Story().open_run().run_until_idle()
    ref = BlobRef(sha256="a" * 64, bytes=40_000)
    story.given(Proposed(turn=1, attempt=1, calls=(ProposedCall(call="c", tool="look", args=ref),)))
    known = Texts(by_sha256={"a" * 64: b'{"q":"long"}'})
    assert story.when("validator", known).then(Judged).calls[0].args == '{"q":"long"}'


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        ("60", 60),
        ('"2026-01-01T13:00:00+00:00"', 3_600),
        ('"2026-01-01T13:00:00+01:00"', 0),
        ("2592000", 2_592_000),
        ('"2026-01-01T11:59:30Z"', -30),
    ],
)
def test_a_wait_is_fixed_when_it_is_judged(until: str, seconds: int) -> None:
    """Seconds from then, or a moment; one that passed while the model was thinking is accepted."""
    assert verdicts(call("wait.until", f'{{"until":{until}}}'))[0].wait_until == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "until", ["2592001", '"2026-02-01T12:00:00Z"', '"soon"', "1e300", '"9999-12-31T23:59:59-14:00"', "0", "-5"]
)
def test_a_wait_beyond_a_month_or_without_a_readable_end_is_rejected(until: str) -> None:
    """At most 30 days, whatever number the model writes."""
    assert verdicts(call("wait.until", f'{{"until":{until}}}'))[0].verdict == "reject"


def test_a_wait_for_a_moment_without_a_zone_or_that_is_past_is_rejected_with_the_reason() -> None:
    """The model learns what to write, and what time it is."""
    naive = verdicts(call("wait.until", '{"until":"2026-01-01T13:00:00"}'))[0]
    assert "names no time zone; write 2026-01-01T13:00:00+00:00" in naive.errors[0]
    past = verdicts(call("wait.until", '{"until":"2025-12-31T12:00:00Z"}'))[0]
    assert past.errors == ("'2025-12-31T12:00:00Z' is past: it is 2026-01-01T12:00:00+00:00 now.",)


def test_verdicts_on_other_calls_than_the_pending_ones_are_ignored() -> None:
    """Every pending call exactly once, and no other."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("look"), call("note"))))
    judged = story.when("validator").decided
    assert isinstance(judged, Judged)
    for calls in (judged.calls[:1], (*judged.calls, judged.calls[0]), ()):
        assert (
            "exactly the pending calls"
            in story.append("validator", msgspec.structs.replace(judged, calls=calls)).ignored
        )
    wrong = msgspec.structs.replace(judged, proposal_n=1)
    assert "not the proposal under judgement" in story.append("validator", wrong).ignored
