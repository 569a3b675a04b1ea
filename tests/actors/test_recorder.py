"""Recorder: what is the permanent record?"""

from __future__ import annotations

import json

import msgspec
import pytest
from tests.builders import OK, Story, agent, at_work, call, paid, reply

from linestop.bus.run_outcomes_and_alerts import encode_outcome
from linestop.schemas.defaults import INLINE_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.events import (
    Amended,
    Edited,
    EffectStarted,
    Finished,
    Opened,
    OpenStart,
    Refused,
    Sealed,
    StartedCall,
    StopCode,
    Stopped,
    encode,
)
from linestop.schemas.messages import FIELD_CHARS_MAX
from linestop.schemas.run.make_stop import CAUSE, STATUS, stop_event
from linestop.schemas.tool_contracts import ToolResult
from linestop.schemas.verify.check_log import verify

ROUNDS, CALLS = 8, 50
"""More calls than a receipt has room for."""

ENVELOPE_BYTES = 1_024


def test_a_completed_run_is_sealed_with_answer_receipt_and_totals() -> None:
    """Everything a reader of the outcome needs."""
    story = (
        at_work(call("look"), call("pay"))
        .finish_tools(look=OK)
        .advance_s(30)
        .send_control("approve", call="pay")
        .append_decided()
        .run_until_idle()
    )
    story.finish_tools(pay=OK)
    story.given(*story.planner_events(reply(text="paid"))).when("validator").append_decided().when(
        "budget"
    ).append_decided()
    head = story.run.head
    sealed = story.when("recorder").then(Sealed, status="completed", answer="paid", head_sha256=head, partial="")
    assert [(fate.call, fate.fate, fate.attempts) for fate in sealed.receipt] == [
        ("look", "done", 1),
        ("pay", "done", 1),
    ]
    totals = sealed.totals
    assert (totals.turns, totals.calls, totals.tokens, totals.cost_micros) == (2, 2, 240, 400)
    assert totals.wait_s == 30
    assert totals.events == story.run.n - 1
    story.when("recorder").expect_nothing()


@pytest.mark.parametrize("code", list(STATUS))
def test_every_stop_has_its_status_and_cause(code: StopCode) -> None:
    """The seal shows what ended the run."""
    story = Story().given(Stopped(by="x", why="because", code=code), by="operator")
    story.when("recorder").then(Sealed, status=STATUS[code], cause=CAUSE[code], why="because")


def test_every_stop_code_has_a_status_and_a_cause() -> None:
    """A new code must be entered in both tables."""
    codes = set(msgspec.json.schema(Stopped)["$defs"]["Stopped"]["properties"]["code"]["enum"])
    assert set(STATUS) == set(CAUSE) == codes


def test_nothing_is_sealed_while_a_start_or_a_hold_is_open() -> None:
    """The receipt is final, so it waits for the last outcome."""
    story = at_work(call("look")).given(Stopped(by="bob", why="x"), by="operator")
    story.when("recorder").expect_nothing()
    assert story.append("recorder", Sealed(status="stopped")).ignored == "a start is still open"
    story.given(Finished(call="look", attempt=1, outcome="succeeded"))
    story.when("recorder").expect_nothing()
    assert story.append("recorder", Sealed(status="stopped")).ignored == "a hold is still open"
    story.when("budget").append_decided().when("recorder").then(Sealed, status="stopped")


def test_a_run_that_is_still_open_is_not_sealed() -> None:
    """Nor can any process seal it."""
    story = at_work(call("pay"))
    story.when("recorder").expect_nothing()
    assert "not legal" in story.append("recorder", Sealed(status="completed")).ignored


def test_the_seal_of_a_stopped_run_has_the_models_last_text() -> None:
    """``partial``, shortened, and the results by name."""
    story = (
        Story().open_run().run_until_idle().finish_model(reply(call("look"), text="x" * 3_000)).finish_tools(look=OK)
    )
    story.given(Stopped(by="bob", why="x"), by="operator").finish_model(reply())
    sealed = story.last(Sealed)
    listed = f"Results so far: look (event {story.run.calls['look'].finished_n})."
    assert sealed.partial == "x" * (2_000 - len(listed) - 1) + "\n" + listed
    assert sealed.partial_is == "results"
    assert sealed.answer is None


def test_a_stopped_run_lists_the_fate_of_every_call() -> None:
    """Done, failed, unknown, and passed but never started."""
    story = at_work(call("look"), call("pay"), call("drop"), call("note"))
    story.send_control("approve", call="pay").append_decided().run_until_idle()
    story.finish_tools(look=OK, note=ToolResult(outcome="failed"), pay=ToolResult(outcome="unknown"))
    story.given(Stopped(by="bob", why="x"), by="operator").run_until_idle()
    assert story.run.phase == "sealed"
    fates = {fate.call: fate.fate for fate in story.last(Sealed).receipt}
    assert fates == {"look": "done", "note": "failed", "pay": "unknown", "drop": "not_started"}


def test_a_call_that_was_edited_and_not_judged_since_is_not_in_the_receipt() -> None:
    """It passed with other arguments; ``verify`` counts it so too."""
    story = at_work(call("pay"))
    story.send_control("edit", call="pay", args={"q": "x"}).then(Edited)
    story.given(Stopped(by="bob", why="x"), by="operator").run_until_idle()
    assert story.last(Sealed).receipt == ()


def test_a_receipt_of_any_number_of_calls_fits_into_the_seal_and_the_outcome() -> None:
    """It lists what a person must check, and states how many calls it leaves to the log."""
    limits = {"calls_max": ROUNDS * CALLS, "calls_per_tool_max": ROUNDS * CALLS, "proposal_calls_max": CALLS}
    story = Story(agent(limits={**limits, "tokens_max": 10**9, "cost_max_micros": 10**9})).open_run().run_until_idle()
    started: tuple[StartedCall, ...] = ()
    for turn in range(ROUNDS):
        ids = [f"{turn}-{n}".rjust(64, "c") for n in range(CALLS)]
        story.finish_model(reply(*(call("look", f'{{"q":"{name}"}}', id=name) for name in ids)))
        started = story.last(EffectStarted).calls
        done = started if turn < ROUNDS - 1 else started[:-2]
        story.given(*(Finished(call=c.call, attempt=1, outcome="succeeded", result="1") for c in done)).run_until_idle()
    story.given(stop_event(story.run, by="bob", why="\x01" * 2_000), by="operator")
    story.given(*(Finished(call=line.call, attempt=1, outcome="unknown") for line in started[-2:])).run_until_idle()
    sealed = story.last(Sealed)
    assert sealed.receipt_omits == ROUNDS * CALLS - len(sealed.receipt) > 0
    assert [fate.call for fate in sealed.receipt if fate.fate == "unknown"] == [line.call for line in started[-2:]]
    assert len(encode(sealed)) <= MESSAGE_BYTES_MAX - ENVELOPE_BYTES
    # A run with an answer was not stopped.
    worst = msgspec.structs.replace(sealed, status="completed", why="", answer="\x01" * INLINE_BYTES_MAX)
    story.run.sealed = worst
    assert story.run.opened is not None
    named = msgspec.structs.replace(story.run.opened.task, key="\x01" * FIELD_CHARS_MAX)
    story.run.opened = msgspec.structs.replace(story.run.opened, task=named)
    assert len(encode(worst)) <= MESSAGE_BYTES_MAX - ENVELOPE_BYTES
    assert len(encode_outcome(story.run, worst)) <= MESSAGE_BYTES_MAX
    assert json.loads(encode_outcome(story.run, worst))["receipt_omits"] == sealed.receipt_omits
    messages = [(subject, payload, seq) for subject, payload, seq in story.messages]
    assert verify(story.run.tenant, story.run.run, messages).problems == ()


def test_a_result_after_the_seal_is_amended_once() -> None:
    """The new receipt has what is known now; then nothing more is appended."""
    story = paid().finish_tools(pay=ToolResult(outcome="unknown"))
    story.given(Stopped(by="bob", why="x"), by="operator").run_until_idle()
    assert story.last(Sealed).receipt[0].fate == "unknown"
    story.given(Finished(call="pay", attempt=1, outcome="succeeded", result="1", late=True))
    amended = story.when("recorder").then(Amended, facts=(story.run.n,))
    assert amended.receipt[0].fate == "done"
    story.when("recorder").expect_nothing()


def test_after_the_seal_only_late_results_and_amendments_are_legal() -> None:
    """Not even a stop changes what is sealed."""
    story = at_work()
    assert "not legal while the run is sealed" in story.append("operator", Stopped(by="b", why="x")).ignored
    assert "not legal" in story.append("recorder", story.last(Sealed)).ignored


def test_a_run_that_was_stopped_before_it_opened_has_no_agent_and_no_money() -> None:
    """Every reader handles a run without ``opened``."""
    story = Story().given(Stopped(by="bob", why="no"), by="operator").run_until_idle()
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.totals.turns, sealed.receipt) == ("stopped", 0, ())
    opened = at_work().last(Opened)
    assert "not legal" in story.append("validator", opened).ignored
    assert "not legal" in story.append("validator", Refused(code="stopped", sentence="x")).ignored


def test_a_stop_after_the_answer_was_accepted_still_counts() -> None:
    """Until the seal, any role may stop the run; the seal shows it."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply())).when("validator").append_decided()
    story.given(Stopped(by="bob", why="wait"), by="operator").run_until_idle()
    assert (story.last(Sealed).status, story.last(Sealed).answer) == ("stopped", None)


def test_the_receipt_of_a_stop_lists_calls_that_may_have_been_sent() -> None:
    """Model and tool calls alike."""
    story = Story().open_run().run_until_idle()
    event = story.send_control("stop", why="x").then(Stopped)
    assert event.open == (OpenStart(n=3, what="model:playbook/large", attempt=1),)
