"""The timeline: every event of a run has its words."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from tests.builders import CONTRACTS, at_work, call

from linestop.actors.judging.task_acceptance import tool_grant
from linestop.cli.output import timeline
from linestop.schemas.events import (
    EVENTS,
    Accepted,
    AgentRef,
    Amended,
    Answered,
    AnyEvent,
    Asked,
    AskedCall,
    BlobRef,
    Checked,
    Cleared,
    ClearedCall,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Granted,
    Held,
    Judged,
    JudgedCall,
    ModelChoice,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Policy,
    Proposed,
    ProposedCall,
    Question,
    Queued,
    Refused,
    Resolved,
    Resumed,
    Returned,
    Sealed,
    Settled,
    SettledHold,
    SpendQuestion,
    StartedCall,
    Stopped,
    TaskFacts,
    Warned,
    Widened,
    WidenedCall,
)
from linestop.schemas.model_messages import Price
from linestop.schemas.run.state import Entry
from linestop.schemas.tool_contracts import ToolError

AT = datetime(2026, 1, 31, 12, 30, 15, 250_000, tzinfo=UTC)
MODEL = ModelChoice(model="playbook/desk", price=Price(input=1, output=1))
ASKED = AskedCall(
    call="c1",
    tool="pay",
    args_sha256="",
    contract_digest="",
    rule="tier:irreversible",
    tier="irreversible",
    expires_at=AT,
)
STARTED = StartedCall(call="c1", attempt=2, effect_key="", args_sha256="", gate_n=5, start_by=AT, done_by=AT)

WORDS: list[tuple[AnyEvent, str]] = [
    (
        Opened(
            task=TaskFacts(text="say hello", sha256=""),
            agent=AgentRef(name="desk"),
            model=MODEL,
            policy=Policy(),
            deadline_at=AT,
        ),
        "desk on playbook/desk: say hello",
    ),
    (Refused(code="no_agent", sentence="There is none."), "no_agent: There is none."),
    (
        Judged(
            proposal_n=4,
            calls=(
                JudgedCall(call="c1", tool="pay", verdict="pass"),
                JudgedCall(call="c2", tool="look", verdict="reject", errors=("$: wrong",)),
            ),
        ),
        "pay pass, look reject ($: wrong)",
    ),
    (Checked(finished_n=9, verdict="reject", findings=("too old",)), "event 9 reject; too old"),
    (Accepted(proposal_n=4, answer="x" * 300), "x" * 199 + "…"),
    (Returned(proposal_n=4, errors=("$: empty",), returned_in_a_row=1), "$: empty"),
    (Cleared(calls=(ClearedCall(call="c1", rule="tier:read", args_sha256=""),)), "c1 (tier:read)"),
    (Asked(calls=(ASKED,)), "may pay be done? (tier:irreversible)"),
    (Asked(calls=(msgspec.structs.replace(ASKED, rule="unknown"),)), "what is the outcome of pay? (unknown)"),
    (Asked(question=Question(call="c2", text="Which?", expires_at=AT)), "Which? (c2)"),
    (
        Asked(spend=SpendQuestion(so_far_micros=1, limit_micros=250_000, expires_at=AT)),
        "may it spend more than $0.2500?",
    ),
    (Granted(call="c1", by="ann", why="small"), "c1 by ann: small"),
    (Denied(call="", by="timer"), "spending by timer"),
    (Edited(call="c1", args='{"a":1}', args_sha256="", by="ann"), 'c1 by ann: {"a":1}'),
    (Answered(call="c2", answer=BlobRef(sha256="", bytes=40_000), by="ann"), "c2 by ann: [40000 bytes]"),
    (Resolved(call="c1", action="done", by="ann", why="seen"), "c1 by ann: done, seen"),
    (Paused(by="ann", why="lunch"), "by ann: lunch"),
    (Resumed(by="ann"), "by ann"),
    (Held(hold="r.1", amount_micros=95_000, release_after=AT), "may spend $0.0950 (r.1)"),
    (Queued(need_micros=5, why="user ann may spend $0.02 a day."), "waits for money: user ann may spend $0.02 a day."),
    (Settled(holds=(SettledHold(hold="r.1", spent_micros=500, released_micros=0),)), "spent $0.0005"),
    (Warned(limit="cost_max_micros", value=3, max_value=4), "cost_max_micros: 3 of 4"),
    (
        ModelStarted(turn=2, attempt=3, model="playbook/desk", worker="w#1", start_by=AT, done_by=AT),
        "asks playbook/desk (turn 2, attempt 3)",
    ),
    (
        Proposed(turn=1, attempt=1, text="Let me look.", calls=(ProposedCall(call="c1", tool="look", args="{}"),)),
        "Let me look.; look({})",
    ),
    (ModelFailedEvent(turn=1, attempt=1, kind="availability", message="no answer"), "availability: no answer"),
    (Compacted(turn=1, attempt=1, covers_from=2, covers_to=9, summary="short"), "events 2 to 9 in 5 characters"),
    (EffectStarted(calls=(STARTED,), worker="w#1"), "c1 #2 by w#1"),
    (
        Widened(calls=(WidenedCall(call="c1", grant=tool_grant(CONTRACTS[2])),), worker="w#1"),
        "pay may do more now than was approved; a person must approve",
    ),
    (Finished(call="c1", attempt=1, outcome="succeeded", result='{"ok":1}'), 'c1 #1 succeeded: {"ok":1}'),
    (
        Finished(
            call="c1",
            attempt=1,
            outcome="succeeded",
            result="much",
            result_bytes=20_000,
            result_ref=BlobRef(sha256="f00d", bytes=20_000),
        ),
        "c1 #1 succeeded: much (whole: 20000 bytes, blob f00d)",
    ),
    (
        Finished(call="c1", attempt=1, outcome="failed", error=ToolError(type="permanent", message="no such order")),
        "c1 #1 failed: no such order",
    ),
    (Stopped(by="ann", why="enough"), "by ann (person): enough; 0 open"),
    (Sealed(status="stopped", why="enough"), "stopped: enough"),
    (Amended(facts=(12, 13)), "late results: 12, 13"),
]


@pytest.mark.parametrize(("event", "words"), WORDS, ids=lambda value: type(value).__name__)
def test_an_event_is_described_in_words(event: AnyEvent, words: str) -> None:
    """The effect of the event and its reason, in one line."""
    assert timeline.describe(event, timeline.CallNames()) == words


def test_every_event_has_a_description() -> None:
    """A new event fails here until it has its words above."""
    assert {type(event) for event, _ in WORDS} == {*EVENTS.values(), Stopped}


def test_a_line_has_time_number_role_and_description() -> None:
    """Valid entries, ignored ones, and those outside the chain look different."""
    paused = Paused(by="ann", at=AT)
    assert (
        timeline.entry_line(Entry(7, "", "approver", "paused", 3, paused))
        == "12:30:15.250    #3 approver.paused      by ann"
    )
    ignored = timeline.entry_line(Entry(7, "", "approver", "paused", 3, paused, "it is not legal"))
    assert ignored.endswith("approver.paused      IGNORED: it is not legal")
    void = timeline.entry_line(Entry(7, "", "operator", "stopped", 0, None, "its number is 99"))
    assert void.split() == ["void", "operator.stopped", "IGNORED:", "its", "number", "is", "99"]


def test_calls_are_named_by_their_tool_and_the_second_of_a_tool_by_its_number() -> None:
    """A provider's id means nothing to people."""
    run = at_work(call("look", id="toolu_01"), call("look", '{"q":"b"}', id="toolu_02"), call("pay", id="toolu_03")).run
    names = timeline.CallNames(run)
    assert [names(f"toolu_0{i}") for i in (1, 2, 3)] == ["look", "look/2", "pay"]
    started = next(entry for entry in run.entries if entry.name == "started" and entry.role == "executor")
    assert timeline.entry_line(started, run).endswith("look #1, look/2 #1 by w#1")
    asked = next(entry for entry in run.entries if entry.name == "asked")
    assert timeline.entry_line(asked, run).endswith("may pay be done? (tier:irreversible)")
    assert not any("toolu_" in timeline.entry_line(entry, run) for entry in run.entries)
