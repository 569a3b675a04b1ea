"""The rules of the fold for single calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import NOW, OK, UNKNOWN, Story, at_gate, at_work, call, paid

from linestop.schemas.defaults import RETRY_AFTER_MAX_S
from linestop.schemas.events import (
    Answered,
    Asked,
    BlobRef,
    Cleared,
    ClearedCall,
    Denied,
    Edited,
    Finished,
    Granted,
    Question,
    Resolved,
)
from linestop.schemas.run.starting.retry_delays import retry_delay_s
from linestop.schemas.tool_contracts import ToolResult


@given(st.text(max_size=8), st.integers(1, 9))
def test_a_pause_is_a_quarter_early_or_late_at_most_and_the_same_for_every_reader(seed: str, attempt: int) -> None:
    """The jitter comes from the log, not from chance."""
    base = (1.0, 2.0, 4.0)[min(attempt, 3) - 1]
    assert 0.75 * base <= retry_delay_s(seed, attempt) <= 1.25 * base
    assert retry_delay_s(seed, attempt) == retry_delay_s(seed, attempt)


@pytest.mark.parametrize(("asked", "pause"), [(0, 0), (-5, 0), (7.5, 7.5), (1e300, RETRY_AFTER_MAX_S)])
def test_a_requested_pause_is_bounded(asked: float, pause: float) -> None:
    """Not below zero, not beyond the longest run."""
    assert retry_delay_s("x", 1, asked) == pause


def test_a_call_is_cleared_only_at_the_gate_and_as_it_was_judged() -> None:
    """A wrong line has no effect."""
    story = at_gate(call("note"), call("note", '{"q":"b"}', id="other"), call("look"))
    good = ClearedCall(call="note", rule="r", args_sha256=story.run.calls["note"].args_sha256)
    for bad in (
        ClearedCall(call="other", rule="r", args_sha256="0"),
        ClearedCall(call="nope", rule="r", args_sha256="0"),
        ClearedCall(call="look", rule="r", args_sha256=story.run.calls["look"].args_sha256),
    ):
        assert "not waiting at the gate" in story.append("approver", Cleared(calls=(good, bad))).ignored
    assert (story.stage("note"), story.stage("look")) == ("gate", "ready")


def test_a_person_is_asked_only_about_a_call_at_the_gate() -> None:
    """A call whose outcome is unknown may be asked about too."""
    story = at_work(call("look"))
    question = Question(call="look", text="?", expires_at=NOW)
    assert "not waiting at the gate" in story.append("approver", Asked(question=question)).ignored


@pytest.mark.parametrize(
    "decision",
    [
        Granted(call="look", by="a"),
        Denied(call="look", by="a"),
        Edited(call="look", args="{}", args_sha256="x", by="a"),
        Answered(call="look", answer="x", by="a"),
        Resolved(call="look", action="done", by="a"),
        Granted(call="nope", by="a"),
        Denied(call="nope", by="a"),
        Edited(call="nope", args="{}", args_sha256="x", by="a"),
    ],
)
def test_a_decision_about_a_call_that_waits_for_no_person_is_ignored(
    decision: Granted | Denied | Edited | Answered | Resolved,
) -> None:
    """The rule applies whichever process wrote the event."""
    assert at_work(call("look"), call("pay")).append("approver", decision).ignored


def test_a_question_is_answered_neither_by_approval_nor_by_edit() -> None:
    """An answer does not settle an approval either."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q"), call("pay"))
    assert "is a question" in story.append("approver", Granted(call="q", by="a")).ignored
    assert story.append("approver", Edited(call="q", args="{}", args_sha256="x", by="a")).ignored
    assert "not a question" in story.append("approver", Answered(call="pay", answer="x", by="a")).ignored


def test_a_long_answer_is_named_and_not_shown() -> None:
    """The model reads its length and its digest."""
    story = at_work(call("ask.person", '{"question":"?"}', id="q"))
    story.given(Answered(call="q", answer=BlobRef(sha256="a" * 64, bytes=70_000, type="text/plain"), by="a"))
    assert story.run.calls["q"].outcome_text == f"[70000 bytes of text/plain, SHA-256 {'a' * 64}]"


@pytest.mark.parametrize(("call_id", "attempt"), [("nope", 1), ("look", 2), ("look", 0)])
def test_a_result_of_a_call_without_its_start_is_ignored(call_id: str, attempt: int) -> None:
    """A wait ends only if a call waits."""
    story = at_work(call("look"))
    assert story.append("executor", Finished(call=call_id, attempt=attempt, outcome="succeeded")).ignored


def test_a_wait_does_not_end_before_its_date() -> None:
    """An early end is ignored."""
    story = at_work(call("wait.until", '{"until":60}', id="w"))
    early = Finished(call="w", attempt=0, outcome="succeeded")
    assert "time has not come" in story.append("executor", early).ignored


def test_a_known_outcome_is_not_recorded_again() -> None:
    """An unknown outcome may become known once."""
    story = at_work(call("look")).finish_tools(look=OK)
    assert "has its result" in story.append("executor", Finished(call="look", attempt=1, outcome="failed")).ignored
    unsettled = paid().finish_tools(pay=UNKNOWN)
    assert "has its result" in unsettled.append("executor", Finished(call="pay", attempt=1, outcome="unknown")).ignored
    unsettled.given(Finished(call="pay", attempt=1, outcome="failed"))
    assert (
        "has its result" in unsettled.append("executor", Finished(call="pay", attempt=1, outcome="succeeded")).ignored
    )


def fates(*results: ToolResult, tool: str = "pay") -> str:
    """Return the outcome of a call after these results of its attempts."""
    story: Story = at_work(call(tool))
    if story.stage(tool) == "asked":
        story.send_control("approve", call=tool).append_decided().run_until_idle()
    for result in results:
        story.finish_tools(**{tool: result})
        if story.stage(tool) == "doubt":
            story.advance_s(20).run_until_idle()
    return story.run.calls[tool].fate


def test_a_receipt_lists_the_outcome_of_a_call() -> None:
    """An open call and an unknown outcome count as unknown; a denied call was not started."""
    assert fates() == "unknown"
    assert fates(OK) == "done"
    assert fates(UNKNOWN) == "unknown"
    assert fates(ToolResult(outcome="failed")) == "failed"
    assert fates(UNKNOWN, tool="wire") == "in doubt"
    assert fates(UNKNOWN, OK, tool="wire") == "done"
    never = ToolResult(outcome="never_started")
    assert fates(never, never, never) == "never_started"
    story = at_work(call("pay")).send_control("deny", call="pay").append_decided()
    assert story.run.calls["pay"].fate == "not_started"


@pytest.mark.parametrize("attempt", [-5, -1, 2, 10**9])
def test_a_result_of_an_impossible_attempt_is_ignored(attempt: int) -> None:
    """No number makes a reader read past the existing attempts."""
    story = at_work(call("look"))
    entry = story.append("executor", Finished(call="look", attempt=attempt, outcome="succeeded"))
    assert "was not started" in entry.ignored
