"""Validator: is it well formed, allowed and sane?"""

from __future__ import annotations

import pytest
from tests.builders import OK, Story, agent, at_work, call, reply

from linestop.actors.facts import (
    CheckFindings,
    Performing,
    PinnedAgent,
    Secrets,
)
from linestop.schemas.events import (
    Accepted,
    BlobRef,
    Checked,
    Denied,
    Judged,
    LimitHit,
    ModelStarted,
    Proposed,
    Returned,
    Sealed,
    Stopped,
)
from linestop.schemas.tool_contracts import ToolError, ToolResult

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ROOMY = {
    "calls_max": 1_000,
    "calls_per_tool_max": 1_000,
    "turns_max": 1_000,
    "tokens_max": 10**7,
    "cost_max_micros": 10**9,
    "wall_s": 10**6,
}


def stop(story: Story) -> tuple[str, str, int, int]:
    """Code, limit, value and maximum of the run's stop."""
    event = story.last(Stopped)
    hit = event.limit
    return (event.code, hit.name, hit.value, hit.max_value) if hit else (event.code, "", 0, 0)


def test_a_missing_agent_version_stops_the_run() -> None:
    """Neither a call nor an answer can be judged without its version."""
    for answer in (reply(call("look")), reply()):
        story = Story().open_run().run_until_idle()
        story.given(*story.planner_events(answer))
        story.when("validator", PinnedAgent(version=None)).then(Stopped, code="defect")


@pytest.mark.parametrize(
    ("findings", "answer"), [((), '{"ok":true}'), (("too heavy",), "The result failed its checks: too heavy")]
)
def test_a_result_is_checked_before_anything_builds_on_it(findings: tuple[str, ...], answer: str) -> None:
    """A tool that declares checks has them run first."""
    story = at_work(call("weigh")).finish_tools(weigh=OK)
    assert story.stage("weigh") == "check"
    story.when("planner").expect_nothing()
    story.when("validator").expect_nothing()
    known = CheckFindings(by_event={story.run.calls["weigh"].finished_n: findings})
    story.when("validator", known).then(Checked, verdict="reject" if findings else "pass")
    assert story.run.calls["weigh"].outcome_text == answer


def test_a_check_of_a_result_that_does_not_wait_for_one_is_ignored() -> None:
    """A result is checked once."""
    story = at_work(call("look")).finish_tools(look=OK)
    checked = Checked(finished_n=story.run.calls["look"].finished_n, verdict="pass")
    assert story.run.phase == "thinking"
    assert story.append("validator", checked).ignored


def test_a_final_answer_ends_the_run() -> None:
    """Accepted, settled, sealed, with the answer."""
    story = at_work()
    assert story.event_names()[-3:] == ["validator.accepted", "budget.settled", "recorder.sealed"]
    assert (story.last(Sealed).status, story.last(Sealed).answer) == ("completed", "done")


def test_an_answer_that_relies_on_untrusted_results_is_marked() -> None:
    """``derived_from_untrusted``."""
    assert at_work().last(Accepted).derived_from_untrusted is False
    assert (
        at_work(call("look")).finish_tools(look=OK).finish_model(reply()).last(Accepted).derived_from_untrusted is True
    )


def test_secrets_are_removed_from_the_answer() -> None:
    """Whatever the model answers."""
    story = (
        Story(facts=(Secrets(values=("hunter2hunter2",)),))
        .open_run()
        .run_until_idle()
        .finish_model(reply(text="it is hunter2hunter2"))
    )
    assert story.last(Accepted).answer == "it is [redacted:secret]"


@pytest.mark.parametrize("text", ["no json", '{"n":"x"}', "[1]"])
def test_an_answer_that_does_not_fit_its_schema_is_returned(text: str) -> None:
    """The model gets the reason and is asked again."""
    story = Story(agent(output_schema=SCHEMA)).open_run().run_until_idle().finish_model(reply(text=text))
    assert story.last(Returned).returned_in_a_row == 1
    assert story.last(ModelStarted).turn == 2
    assert story.finish_model(reply(text='{"n":1}')).last(Sealed).status == "completed"


def test_an_answer_is_returned_at_most_three_times() -> None:
    """``returned_max``."""
    story = Story(agent(output_schema=SCHEMA)).open_run().run_until_idle()
    for _ in range(4):
        assert story.run.stopped is None
        story.finish_model(reply(text="no"))
    assert stop(story) == ("limit", "returned_max", 4, 3)


def test_calls_between_two_answers_reset_the_count_of_returns() -> None:
    """``returned_max`` counts answers in a row: a tool call in between starts the count again."""
    story = Story(agent(output_schema=SCHEMA, limits={"turns_max": 20})).open_run().run_until_idle()
    for index in range(4):
        story.finish_model(reply(text="no")).finish_model(reply(call("look", f'{{"amount":{index}}}', id=f"c{index}")))
        story.finish_tools(**{f"c{index}": OK})
        assert story.last(Returned).returned_in_a_row == 1
    assert story.run.stopped is None
    story.finish_model(reply(text="no")).finish_model(reply(text="no"))
    assert story.last(Returned).returned_in_a_row == 2


def test_an_empty_or_endless_answer_is_returned() -> None:
    """An answer is a text that fits into an event."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply(text=" ")))
    assert "empty" in story.when("validator").then(Returned).errors[0]
    story.run_until_idle().given(Proposed(turn=2, attempt=1, text=BlobRef(sha256="a" * 64, bytes=99_999), final=True))
    assert "99999 bytes" in story.when("validator").then(Returned).errors[0]


def test_an_answer_to_another_proposal_is_ignored() -> None:
    """Only the final answer under judgement can be accepted."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply()))
    assert "not the final answer" in story.append("validator", Accepted(proposal_n=1, answer="x")).ignored


def test_a_run_is_active_for_its_wall_time_at_most() -> None:
    """``wall_s``."""
    story = at_work(call("look"), version=agent(limits={"wall_s": 10})).advance_s(9)
    story.when("validator", Performing(frozenset(story.performing))).expect_nothing()
    story.advance_s(1).when("validator", Performing(frozenset(story.performing))).then(Stopped, code="deadline")
    assert story.last(Stopped).open[0].what == "look"


def test_waiting_for_a_person_is_not_active_time() -> None:
    """``wall_s`` counts only when the run could do something."""
    story = at_work(call("pay"), version=agent(limits={"wall_s": 5})).advance_s(3_000)
    story.when("validator").expect_nothing()
    story.send_control("approve", call="pay").append_decided().run_until_idle().advance_s(4)
    story.when("validator", Performing(frozenset(story.performing))).expect_nothing()
    story.advance_s(1).when("validator", Performing(frozenset(story.performing))).then(Stopped, code="deadline")


def test_a_run_ends_after_thirty_days_even_if_it_only_waits() -> None:
    """``run_max_s``."""
    version = agent(limits={"approval_expires_s": 40 * 86_400})
    story = at_work(call("pay"), version=version).advance_s(30 * 86_400 - 1)
    story.when("validator").expect_nothing()
    story.advance_s(1).when("validator").then(Stopped, code="deadline")


def test_a_run_keeps_its_last_fifty_events_for_its_end() -> None:
    """``events_max``: new work ends 50 events before, stop and seal fit in."""
    story = Story(agent(limits={"events_max": 80, "rejections_max": 100, **ROOMY})).open_run().run_until_idle()
    for i in range(40):
        if story.run.stopped:
            break
        story.finish_model(reply(call("fly", id=f"c{i}")))
    assert stop(story)[:2] == ("limit", "events_max")
    assert 30 <= story.run.n <= 35
    late = story.finish_model(reply()) if story.run.open_attempts else story
    assert late.run.phase == "sealed"


def test_no_start_uses_the_events_reserved_for_the_end() -> None:
    """Also if the validator has not decided yet."""
    story = Story(agent(limits={"events_max": 54})).open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("look")))).when("validator")
    (verdict,) = story.then(Judged).calls
    assert (verdict.verdict, verdict.limit) == ("reject", LimitHit(name="events_max", value=4, max_value=54))
    assert stop(story.run_until_idle())[:2] == ("limit", "events_max")
    early = Story(agent(limits={"events_max": 52})).open_run().when("budget").append_decided()
    assert early.run.events_left == 0
    early.when("planner").then(Stopped, code="limit")


def test_no_verdict_follows_a_stop() -> None:
    """After a stop the validator decides nothing."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("look")))).given(Stopped(by="bob", why="x"), by="operator")
    story.when("validator").expect_nothing()


def test_denied_and_failed_calls_still_let_the_run_complete() -> None:
    """The model has to report what the run could not do."""
    error = ToolError(type="permanent", message="no")
    story = at_work(call("look"), call("pay")).finish_tools(look=ToolResult(outcome="failed", error=error))
    story.send_control("deny", call="pay").then(Denied)
    assert story.run_until_idle().finish_model(reply(text="I could not")).last(Sealed).status == "completed"


def test_an_empty_run_needs_no_facts() -> None:
    """A wake without facts is harmless."""
    story = Story()
    assert story.ask("validator", ()) is None
