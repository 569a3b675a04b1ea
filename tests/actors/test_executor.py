"""Executor: do it, once."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.builders import (
    CONTRACTS,
    OK,
    RUN,
    TASK,
    TENANT,
    WORKER,
    Story,
    agent,
    all_at_once,
    at_gate,
    at_work,
    call,
    contract,
    paid,
)

from linestop.actors.executor import truncate
from linestop.actors.facts import KillSwitches, Texts
from linestop.schemas.defaults import START_WITHIN_S, Limits
from linestop.schemas.effect_key import effect_key
from linestop.schemas.events import (
    BlobRef,
    EffectStarted,
    Finished,
    Held,
    Judged,
    JudgedCall,
    ModelStarted,
    Proposed,
    ProposedCall,
    Sealed,
    StartedCall,
    Stopped,
)
from linestop.schemas.messages import Task
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.tool_contracts import ToolError, ToolResult

TRANSIENT = ToolResult(outcome="failed", error=ToolError(type="transient", message="try later", retry_safe=True))
UNSAFE = ToolResult(outcome="failed", error=ToolError(type="transient", message="broke off"))


def started(story: Story) -> EffectStarted:
    """The last start of effects."""
    return story.last(EffectStarted)


def started_n(story: Story) -> int:
    """The number of the last start of effects."""
    return max(n for n, attempts in story.run.attempts.items() if attempts[0].call)


def test_a_read_starts_on_its_judgement_and_names_it() -> None:
    """No role decides between the judgement and the start."""
    story = at_gate(call("look"))
    judged_n = story.run.n
    story.when("executor").then(EffectStarted)
    assert [line.gate_n for line in started(story).calls] == [judged_n]


def test_a_read_starts_while_another_call_waits_for_the_approver() -> None:
    """As a cleared call starts while another waits for a person."""
    story = at_gate(call("look"), call("note"), call("pay")).when("executor").append_decided()
    assert [line.call for line in started(story).calls] == ["look"]
    story.run_until_idle()
    assert (story.stage("look"), story.stage("note"), story.stage("pay")) == ("open", "open", "asked")


def test_all_calls_that_passed_start_together_with_their_keys_and_deadlines() -> None:
    """One start names every call that may start, what it may cost, and until when."""
    story = at_work(call("look"), call("rent"))
    event = started(story)
    assert [(line.call, line.attempt, line.cost_max_micros) for line in event.calls] == [
        ("look", 1, 0),
        ("rent", 1, 40_000),
    ]
    assert event.worker == WORKER
    line = event.calls[0]
    assert line.effect_key == effect_key(f"{TENANT}/{RUN}", "look", b'{"q":"order 4711"}')
    assert line.start_by == story.now + timedelta(seconds=START_WITHIN_S)
    assert line.done_by == line.start_by + timedelta(seconds=5 + 2)


def test_calls_that_passed_start_while_asked_calls_wait() -> None:
    """The approval of one call is not needed by another, and each result keeps its own id."""
    story = at_work(call("look"), call("pay"))
    assert [line.call for line in started(story).calls] == ["look"]
    story.finish_tools(look=OK)
    assert (story.stage("look"), story.stage("pay")) == ("answered", "asked")


def test_an_uncovered_call_waits_for_its_hold() -> None:
    """The executor starts nothing that the run's holds do not cover."""
    story = Story().open_run().when("budget").append_decided()
    held = story.last(Held)
    short = Story().open_run().given(msgspec.structs.replace(held, amount_micros=held.amount_micros // 4))
    start = short.when("planner").then(ModelStarted)
    calls = (ProposedCall(call="rent", tool="rent", args="{}"),)
    short.given(Proposed(turn=1, attempt=1, calls=calls, cost_micros=start.cost_max_micros))
    short.when("validator").append_decided().when("executor").expect_nothing()
    short.when("budget").then(Held)
    short.when("executor").then(EffectStarted)


def test_a_closed_kill_switch_of_a_tool_stops_the_run_before_the_start() -> None:
    """An operator who closes a tool stops every run that is about to use it."""
    story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
    story.when("executor", KillSwitches(revision=3, closed=frozenset({"tool:pay"}))).then(Stopped, code="policy")


def test_a_start_names_the_revision_of_the_kill_switches() -> None:
    """A reader can tell which kill switches were open when the effect began."""
    story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
    story.when("executor", KillSwitches(revision=7)).then(EffectStarted, doors_revision=7)


def test_a_safe_failure_is_tried_again_after_its_pause_and_then_given_up() -> None:
    """A transient failure is repeated ``retries_max`` times, a second and two apart, and then reported to the model."""
    story = at_work(call("look")).finish_tools(look=TRANSIENT)
    for attempt, wait_min_s in ((2, 0.75), (3, 1.5)):
        story.when("executor").expect_nothing()
        story.advance_s(wait_min_s * 5 / 3)
        story.run_until_idle()
        assert started(story).calls[0].attempt == attempt
        story.finish_tools(look=TRANSIENT)
    assert story.run.calls["look"].outcome_text == "try later"
    assert story.run.calls["look"].is_error


def test_a_retry_waits_as_long_as_the_tool_asked() -> None:
    """``retry_after_s`` of the tool takes precedence over our own pauses."""
    error = ToolError(type="rate_limit", message="slow down", retry_safe=True, retry_after_s=30)
    story = at_work(call("look")).finish_tools(look=ToolResult(outcome="failed", error=error))
    story.advance_s(29).when("executor").expect_nothing()
    story.advance_s(1).when("executor").then(EffectStarted)


@pytest.mark.parametrize("kind", ["permanent", "invalid"])
def test_a_permanent_failure_is_not_tried_again(kind: str) -> None:
    """What cannot get better goes to the model at once."""
    error = ToolError(type=kind, message="no such order", retry_safe=True)  # type: ignore[arg-type]
    story = at_work(call("look")).finish_tools(look=ToolResult(outcome="failed", error=error))
    assert story.run.calls["look"].outcome_text == "no such order"


def test_a_failure_of_an_unsafe_effect_that_may_have_happened_is_not_retried() -> None:
    """Without ``retry_safe`` an irreversible call is never repeated by itself."""
    story = paid().finish_tools(pay=UNSAFE)
    assert story.run.calls["pay"].is_error
    assert len(story.run.calls["pay"].attempts) == 1


def test_a_run_that_allows_no_retries_makes_none() -> None:
    """``tool_retries_max`` below its default bounds every tool."""
    story = at_work(call("look"), version=agent(limits={"tool_retries_max": 0})).finish_tools(look=TRANSIENT)
    assert story.run.calls["look"].outcome_text == "try later"


def test_a_run_that_allows_less_time_bounds_every_tool() -> None:
    """``tool_timeout_s`` below its default shortens ``done_by`` and what the tool is given."""
    slow = contract("slow", timeout_s=30)
    story = at_work(call("slow"), version=agent(tools=(slow,), limits={"tool_timeout_s": 1.0}))
    line = started(story).calls[0]
    assert line.done_by - line.start_by == timedelta(seconds=3)
    assert story.executor.prepare(story.run, started(story), story.executor_facts)[0].timeout_s == 1.0


def test_the_default_tool_timeout_leaves_a_longer_contract_alone() -> None:
    """A tool that declares 30 s has them."""
    story = at_work(call("slow"), version=agent(tools=(contract("slow", timeout_s=30),)))
    assert Limits().tool_timeout_s == 5
    assert story.executor.prepare(story.run, started(story), story.executor_facts)[0].timeout_s == 30


def test_an_ordered_call_starts_only_after_those_before_it() -> None:
    """A tool that declares an order sees the results before it."""
    story = at_work(call("look"), call("after"))
    assert [line.call for line in started(story).calls] == ["look"]
    story.finish_tools(look=OK)
    assert [line.call for line in started(story).calls] == ["after"]


def test_a_wait_ends_by_itself_at_its_moment() -> None:
    """``wait.until`` is carried out by the log: no tool, no attempt."""
    story = at_work(call("wait.until", '{"until":60}', id="w"))
    story.advance_s(59).when("executor").expect_nothing()
    story.advance_s(1).when("executor").then(Finished, call="w", attempt=0, outcome="succeeded")
    assert story.stage("w") == "answered"


def test_a_wait_ends_also_while_the_run_is_paused() -> None:
    """Deadlines still count in a pause; only starts are refused."""
    story = at_work(call("wait.until", '{"until":60}', id="w")).send_control("pause").append_decided().advance_s(60)
    story.when("executor").then(Finished)


def test_nothing_starts_while_the_run_is_paused() -> None:
    """A pause forbids starts as a stop does, and a resume allows them again."""
    story = (
        at_work(call("pay")).send_control("pause").append_decided().send_control("approve", call="pay").append_decided()
    )
    story.when("executor").expect_nothing()
    story.send_control("resume").append_decided().when("executor").then(EffectStarted)


def test_a_start_that_meets_a_pause_in_the_log_is_ignored() -> None:
    """The fold ignores a start in a pause, whichever process wrote it."""
    story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
    start = story.when("executor").decided
    assert start is not None
    story.send_control("pause").append_decided()
    assert story.append("executor", start).ignored == "the run is paused"


def test_after_a_stop_only_results_are_appended() -> None:
    """A stopped run's open effect is left to its performer until ``done_by`` and is unknown then."""
    story = paid().given(Stopped(by="bob", why="enough"), by="operator")
    story.when("executor").expect_nothing()
    story.advance_s(12).when("executor").then(Finished, outcome="unknown")
    story.when("executor").expect_nothing()


def test_a_dry_run_describes_every_effect_above_read() -> None:
    """``dry_run`` reaches the tool for all tiers but ``read``."""
    story = at_work(call("look"), call("note"), call("pay"), task=Task(text=TASK, dry_run=True))
    works = story.executor.prepare(story.run, started(story), story.executor_facts)
    assert {work.tool: work.dry_run for work in works} == {"look": False, "note": True, "pay": True}


def test_a_result_over_the_cap_is_cut_with_a_note() -> None:
    """At most 16 KiB of a result reach the model, with a note of the full size."""
    story = at_work(call("look")).finish_tools(look=ToolResult(outcome="succeeded", value="x" * 20_000))
    answer = story.run.calls["look"].outcome_text
    assert len(answer.encode()) == 16 * 1024
    assert answer.endswith("[cut: 20000 bytes in all]")
    assert story.last(Finished).result_bytes == 20_000
    assert len(story.last(Finished).result_sha256) == 64


@pytest.mark.parametrize(
    ("value", "whole", "kind"),
    [("x" * 20_000, "x" * 20_000, "text/plain"), (["y" * 20_000], f'["{"y" * 20_000}"]', "application/json")],
)
def test_a_truncated_result_comes_with_its_full_text(value: object, whole: str, kind: str) -> None:
    """It is stored beside the log: only the model gets the cut text, a later reader gets all of it."""
    story = at_work(call("look"))
    story.runner.results = {"look": ToolResult(outcome="succeeded", value=value)}
    view = story.executor.prepare(story.run, started(story), story.executor_facts)
    (long_result,) = all_at_once(story.executor.perform(view, started(story)))
    assert isinstance(long_result, LongResult)
    assert (long_result.full_text, long_result.type) == (whole, kind)
    assert len(long_result.event.result.encode()) <= 16 * 1024 < long_result.event.result_bytes == len(whole)


@pytest.mark.parametrize(("text", "bytes_max"), [("é" * 100, 64), ("x" * 100, 3), ("😀" * 40, 50)])
def test_a_cut_never_splits_a_character(text: str, bytes_max: int) -> None:
    """A cut text is valid, and no longer than its bound and the note."""
    cut, size = truncate(text, bytes_max)
    assert size == len(text.encode())
    assert len(cut.encode()) <= max(bytes_max, len(f"\n[cut: {size} bytes in all]"))


def test_a_tool_cannot_cost_more_than_its_start_reserved() -> None:
    """What a tool reports above its price is charged at its price."""
    story = at_work(call("rent")).finish_tools(rent=ToolResult(outcome="succeeded", value=1, cost_micros=90_000))
    assert story.last(Finished).cost_micros == 40_000


def test_an_unknown_effect_is_charged_at_its_reservation() -> None:
    """Unknown usage is charged as if it had all been used."""
    story = at_work(call("rent"))
    story.given(Finished(call="rent", attempt=1, outcome="unknown"))
    assert story.run.attempts[started_n(story)][0].charged_micros == 40_000


def test_long_arguments_are_read_from_their_blob() -> None:
    """The performer gets the text behind the reference."""
    story = Story().open_run().run_until_idle()
    ref = BlobRef(sha256="a" * 64, bytes=40_000)
    story.given(Proposed(turn=1, attempt=1, calls=(ProposedCall(call="c", tool="look", args=ref),)))
    verdict = JudgedCall(
        call="c", tool="look", verdict="pass", args=ref, args_sha256=ref.sha256, effect_key="k", tier="read"
    )
    story.given(Judged(proposal_n=story.run.n, calls=(verdict,))).run_until_idle()
    works = story.executor.prepare(
        story.run, started(story), story.executor_facts.with_facts(Texts(by_sha256={"a" * 64: b"{}"}))
    )
    assert works[0].args == b"{}"


def test_cancelled_calls_are_unknown_once_begun_and_never_started_before() -> None:
    """A call that has its result is not reported again."""
    story = at_work(call("look"), call("note"))
    view = story.executor.prepare(story.run, started(story), story.executor_facts)
    begun = story.executor.report_cancelled(view, frozenset({("look", 1)}), begun=True)
    assert [(e.call, e.outcome) for e in begun if isinstance(e, Finished)] == [("note", "unknown")]
    not_begun = story.executor.report_cancelled(view, frozenset(), begun=False)
    assert {e.outcome for e in not_begun if isinstance(e, Finished)} == {"never_started"}


def test_a_read_cancelled_by_a_stop_has_a_known_outcome() -> None:
    """It failed and is charged in full; only effects that may have happened are left for a person."""
    story = at_work(call("rent"), call("note"))
    view = story.executor.prepare(story.run, started(story), story.executor_facts)
    story.given(Stopped(by="bob", why="enough"), by="operator")
    story.given(*story.executor.report_cancelled(view, frozenset(), begun=True)).run_until_idle()
    assert [(fate.call, fate.fate) for fate in story.last(Sealed).receipt] == [("rent", "failed"), ("note", "unknown")]
    assert story.run.attempts[started_n(story)][0].charged_micros == 40_000
    assert len(story.run.calls["rent"].attempts) == 1


def test_a_read_whose_worker_died_is_a_failure_after_a_stop_too() -> None:
    """Its outcome is not reported, and no person needs to decide about it."""
    story = at_work(call("look")).given(Stopped(by="bob", why="enough"), by="operator")
    story.advance_s(12).run_until_idle()
    assert [fate.fate for fate in story.last(Sealed).receipt] == ["failed"]


def test_a_cancelled_read_is_repeated_at_once_while_the_run_is_open() -> None:
    """After a worker ended in good order, no role has to wait."""
    story = at_work(call("look"))
    view = story.executor.prepare(story.run, started(story), story.executor_facts)
    story.given(*story.executor.report_cancelled(view, frozenset(), begun=True))
    story.when("executor").then(EffectStarted)


def test_a_cancelled_probe_leaves_the_outcome_unknown() -> None:
    """Whatever its tier: the effect's outcome stays unknown."""
    story = at_work(call("wire")).send_control("approve", call="wire").append_decided().run_until_idle()
    (work,) = story.executor.prepare(story.run, started(story), story.executor_facts)
    probe = msgspec.structs.replace(work, probe=True, tier="read")
    for begun in (True, False):
        (event,) = story.executor.report_cancelled((probe,), frozenset(), begun=begun)
        assert isinstance(event, Finished)
        assert event.outcome == "unknown"


def test_a_call_that_never_started_is_started_again() -> None:
    """A start that was drained before its effect began costs nothing but an attempt."""
    story = paid().finish_tools(pay=ToolResult(outcome="never_started"))
    assert started(story).calls[0].attempt == 2


def test_a_start_that_names_a_call_twice_is_ignored() -> None:
    """Two attempts of one effect in one start would be two effects."""
    story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
    start = story.when("executor").decided
    assert isinstance(start, EffectStarted)
    twice = EffectStarted(calls=(*start.calls, *start.calls), worker=WORKER)
    assert story.append("executor", twice).ignored == "it starts a call twice"


def test_a_start_with_other_arguments_than_judged_is_ignored() -> None:
    """What runs is what was judged and approved."""
    story = at_work(call("pay")).send_control("approve", call="pay").append_decided()
    start = story.when("executor").decided
    assert isinstance(start, EffectStarted)
    line = start.calls[0]
    other = StartedCall(
        call=line.call,
        attempt=1,
        effect_key=line.effect_key,
        args_sha256="0" * 64,
        gate_n=line.gate_n,
        start_by=line.start_by,
        done_by=line.done_by,
    )
    entry = story.append("executor", EffectStarted(calls=(other,), worker=WORKER))
    assert entry.ignored == "call 'pay' was judged with other arguments"


def test_a_second_start_of_an_open_unsafe_effect_is_ignored() -> None:
    """At most one automatic attempt of an effect that is not safe to repeat, even past its end."""
    story = paid()
    line = started(story).calls[0]
    again = StartedCall(
        call="pay",
        attempt=2,
        effect_key=line.effect_key,
        args_sha256=line.args_sha256,
        gate_n=line.gate_n,
        start_by=line.start_by,
        done_by=line.done_by,
    )
    story.advance_s(60)
    assert "so it may not start" in story.append("executor", EffectStarted(calls=(again,), worker="w#2")).ignored


def test_the_contracts_of_these_tests_are_all_reachable() -> None:
    """Every tool named here belongs to the agent."""
    assert {c.name for c in CONTRACTS} >= {"look", "note", "pay", "wire", "rent", "after", "wait.until"}
