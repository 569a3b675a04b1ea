"""Validator: is it well formed, allowed and sane?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from linestop.actors.facts import (
    CurrentAgent,
    Doors,
    Facts,
    Findings,
    Incoming,
    PinnedAgent,
    Secrets,
    Space,
    Texts,
)
from linestop.actors.opening import task_sha256
from linestop.actors.provenance import provenance, says, untrusted
from linestop.schemas.events import (
    Accepted,
    BlobRef,
    Checked,
    Cue,
    Denied,
    Edited,
    EffectStarted,
    Finished,
    Judged,
    JudgedCall,
    ModelStarted,
    Opened,
    Policy,
    Proposed,
    ProposedCall,
    Refused,
    Returned,
    Sealed,
    Stopped,
)
from linestop.schemas.limits import Limits
from linestop.schemas.messages import Task
from linestop.schemas.model import ToolCall
from linestop.schemas.tools import ToolError, ToolResult
from tests.builders import NOW, OK, TASK, Story, agent, at_gate, at_work, call, contract, reply

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ROOMY = {"calls_max": 1_000, "calls_per_tool_max": 1_000, "turns_max": 1_000, "tokens_max": 10**7,
         "cost_max_micros": 10**9, "wall_s": 10**6}  # fmt: skip


def door(task: Task | None = None, *facts: Any, version: Any = ..., **incoming: Any) -> Opened | Refused:  # noqa: ANN401
    """What the validator says to this task."""
    asked = task or Task(text=TASK)
    current = CurrentAgent(version=agent() if version is ... else version)
    story = Story()
    handed = {"agent": "desk", "sha256": task_sha256(asked), "task": asked, **incoming}
    said = story.when("validator", Incoming(**handed), current, *facts).decided
    assert isinstance(said, Opened | Refused)
    return said


def refused(task: Task | None = None, *facts: Any, **more: Any) -> tuple[str, str]:  # noqa: ANN401
    """Code and sentence of the refusal."""
    said = door(task, *facts, **more)
    assert isinstance(said, Refused)
    return said.code, said.sentence


def verdicts(*calls: ToolCall, **limits: Any) -> list[JudgedCall]:  # noqa: ANN401
    """How these calls of a first proposal are judged."""
    return list(at_gate(*calls, version=agent(limits=limits)).last(Judged).calls)


def stop(story: Story) -> tuple[str, str, int, int]:
    """Code, limit, value and maximum of the run's stop."""
    event = story.last(Stopped)
    hit = event.limit
    return (event.code, hit.name, hit.value, hit.max_value) if hit else (event.code, "", 0, 0)


# --- the door --------------------------------------------------------------------------------------------


def test_a_task_opens_a_run_with_everything_fixed() -> None:
    """Tools, limits, model, policy and deadline are pinned before any untrusted data is read."""
    said = door(Task(text=TASK, user="ann", key="k", limits={"turns_max": 3}))
    assert isinstance(said, Opened)
    assert {tool.name for tool in said.tools} >= {"look", "pay"}
    assert said.limits == Limits(turns_max=3)
    assert said.agent.digest == agent().digest()
    assert said.deadline_at == NOW + timedelta(days=30)
    assert said.task.text_bytes == len(TASK)
    assert all(len(tool.contract_digest) == 64 for tool in said.tools)


def test_a_tasks_scope_narrows_the_tools() -> None:
    """A run may use what agent and task both allow."""
    said = door(Task(text=TASK, scope=("look",)))
    assert isinstance(said, Opened)
    assert [tool.name for tool in said.tools] == ["look"]
    empty = door(Task(text=TASK, scope=()))
    assert isinstance(empty, Opened)
    assert empty.tools == ()


def test_a_tool_whose_door_is_closed_is_not_granted() -> None:
    """And the run remembers which revision of the doors it saw."""
    said = door(None, Doors(revision=4, closed=frozenset({"tool:pay"})))
    assert isinstance(said, Opened)
    assert "pay" not in {tool.name for tool in said.tools}
    assert said.doors_revision == 4


@pytest.mark.parametrize("closed", ["all", "tenant:acme", "agent:desk"])
def test_a_closed_door_lets_no_run_in(closed: str) -> None:
    """New runs are refused with the door's name."""
    code, sentence = refused(None, Doors(closed=frozenset({closed})))
    assert code == "door_closed"
    assert f"'{closed}'" in sentence


@pytest.mark.parametrize(
    ("task", "code", "part"),
    [
        (Task(text="  "), "bad_task", "no text"),
        (Task(text="x" * 20_001), "bad_task", "at most 20000"),
        (Task(text="x", labels={str(i): "" for i in range(33)}), "bad_task", "at most 32 labels"),
        (Task(text="x", labels={"a": "b" * 256}), "bad_task", "256 characters"),
        (Task(text="x", scope=("fly",)), "bad_task", "the tool 'fly'"),
        (Task(text="x", limits={"turnz": 1}), "bad_limits", "no limit named 'turnz'"),
        (Task(text="x", limits={"turns_max": -1}), "bad_limits", "negative"),
    ],
)
def test_a_task_that_is_not_sane_is_refused_with_what_to_change(task: Task, code: str, part: str) -> None:
    """One sentence that names the thing and its bound."""
    got, sentence = refused(task)
    assert got == code
    assert part in sentence


def test_a_task_of_exactly_the_longest_text_is_let_in() -> None:
    """``input_chars_max`` counts characters."""
    assert isinstance(door(Task(text="é" * 20_000)), Opened)


def test_a_task_cannot_raise_a_limit() -> None:
    """``limits`` of a task only lower."""
    said = door(Task(text="x", limits={"turns_max": 99, "wall_s": 5}))
    assert isinstance(said, Opened)
    assert (said.limits.turns_max, said.limits.wall_s) == (15, 5)


def test_a_task_for_nobody_is_refused() -> None:
    """There is no such agent."""
    assert refused(version=None)[0] == "no_agent"


def test_a_task_that_cannot_be_read_is_refused_with_the_reason() -> None:
    """The reader's own sentence is handed on."""
    unread = Incoming(agent="desk", sha256="s", problem="It is no JSON.")
    story = Story().when("validator", unread, CurrentAgent(version=agent()))
    story.then(Refused, code="malformed", sentence="It is no JSON.")


def test_a_key_that_is_taken_names_the_run_that_has_it() -> None:
    """The client learns where its other task went."""
    said = door(None, existing_run="r0")
    assert isinstance(said, Refused)
    assert (said.code, said.existing_run) == ("key_taken", "r0")


@pytest.mark.parametrize(("used", "let_in"), [(0.899, True), (0.9, False)])
def test_new_work_is_refused_when_the_log_is_nearly_full(used: float, *, let_in: bool) -> None:
    """The last tenth belongs to stops, facts and seals."""
    assert isinstance(door(None, Space(used=used)), Opened) is let_in


def test_a_task_whose_run_was_stopped_before_it_began_is_refused() -> None:
    """A stop as event 1 wins; the refusal says why."""
    story = Story().given(Stopped(by="bob", why="not today"), by="operator")
    incoming = Incoming(agent="desk", sha256="s", task=story.task)
    story.when("validator", incoming, CurrentAgent(version=story.version)).then(Refused, code="stopped")
    story.quiet(incoming)
    assert story.last(Sealed).status == "stopped"


def test_a_refused_task_is_sealed_as_refused() -> None:
    """Its outcome carries the sentence."""
    story = Story()
    incoming = Incoming(agent="desk", sha256="s", task=Task(text=" "))
    story.when("validator", incoming, CurrentAgent(version=story.version)).said().quiet(incoming)
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.cause) == ("refused", "validation")
    assert "no text" in sealed.why


def test_without_a_task_nothing_is_opened() -> None:
    """A wake of an empty run says nothing."""
    Story().when("validator").silent()


def test_an_opened_run_is_not_opened_again() -> None:
    """The fold ignores a second opening, whoever wrote it."""
    story = Story().opened()
    assert "not legal" in story.tell("validator", story.last(Opened)).ignored


def test_equal_tasks_have_equal_digests_whatever_their_key() -> None:
    """Key and run id say where a task goes, not what it asks."""
    assert task_sha256(Task(text="x", key="a", run="b")) == task_sha256(Task(text="x"))
    assert task_sha256(Task(text="x", user="a")) != task_sha256(Task(text="x"))


# --- judging ---------------------------------------------------------------------------------------------


def test_arguments_become_canonical_and_are_keyed() -> None:
    """Equal calls have equal digests, however the model wrote them."""
    first, second = verdicts(
        call("look", '{"q":"a","amount":1.0}', id="a"), call("look", '{"amount": 1, "q":"a"}', id="b")
    )
    assert first.args == second.args == '{"amount":1,"q":"a"}'
    assert first.effect_key == second.effect_key != ""
    assert first.raw_args_sha256 != second.raw_args_sha256


def test_a_call_of_an_unknown_tool_names_those_there_are() -> None:
    """The model can mend it in one turn."""
    verdict = verdicts(call("fly"))[0]
    assert verdict.verdict == "reject"
    assert "the tools are: look, note" in verdict.errors[0]


def test_all_errors_of_the_arguments_come_at_once() -> None:
    """So that one turn is enough to mend them."""
    assert len(verdicts(call("look", '{"q":1,"amount":"x"}'))[0].errors) == 2


def test_a_tool_that_is_not_in_scope_does_not_exist() -> None:
    """A grant that was not given when the run opened cannot be used later."""
    story = at_work(call("pay"), task=Task(text=TASK, scope=("look",)))
    assert "There is no tool 'pay'" in story.run.calls["pay"].answer


def test_three_rejected_proposals_in_a_row_end_the_run() -> None:
    """``rejections_max``."""
    story = at_work(call("fly", id="a"))
    for name in ("b", "c"):
        assert story.run.stopped is None
        story.model(reply(call("fly", id=name)))
    assert stop(story) == ("limit", "rejections_max", 3, 3)


def test_one_good_proposal_begins_the_count_anew() -> None:
    """Only rejections in a row count."""
    story = at_work(call("fly", id="a")).model(reply(call("fly", id="b")))
    story.model(reply(call("fly", id="c"), call("look"))).tools(look=OK)
    assert story.run.rejections_in_a_row == 0
    assert story.run.stopped is None


@pytest.mark.parametrize(("calls", "verdict"), [(16, "pass"), (17, "reject")])
def test_an_answer_holds_at_most_sixteen_calls(calls: int, verdict: str) -> None:
    """``proposal_calls_max``."""
    proposed = [call("look", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(calls)]
    assert {v.verdict for v in verdicts(*proposed, calls_per_tool_max=20)} == {verdict}


def test_a_tool_is_called_at_most_ten_times() -> None:
    """``calls_per_tool_max``: the eleventh is rejected, in one answer and over several."""
    proposed = [call("look", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(11)]
    assert [v.verdict for v in verdicts(*proposed)] == ["pass"] * 10 + ["reject"]
    story = at_work(*proposed[:10]).tools(**{f"c{i}": OK for i in range(10)}).model(reply(proposed[10]))
    assert "may be called 10 times" in story.run.calls["c10"].answer


def test_a_contract_may_allow_fewer_calls() -> None:
    """``calls_max`` of the contract."""
    once = agent(tools=(contract("look", calls_max=1),))
    story = at_gate(call("look", id="a"), call("look", '{"q":"b"}', id="b"), version=once)
    assert [v.verdict for v in story.last(Judged).calls] == ["pass", "reject"]


def test_a_run_makes_at_most_twenty_calls() -> None:
    """``calls_max``: a proposal that would go beyond ends the run."""
    tools = tuple(contract(f"t{i}") for i in range(3))
    version = agent(tools=tools)
    story = at_work(*[call(f"t{i % 2}", f'{{"q":"{i}"}}', id=f"c{i}") for i in range(16)], version=version)
    story.tools(**{f"c{i}": OK for i in range(16)})
    more = [call("t2", f'{{"q":"{i}"}}', id=f"d{i}") for i in range(5)]
    assert story.model(reply(*more[:4])).run.stopped is None
    story.tools(**{f"d{i}": OK for i in range(4)}).model(reply(more[4]))
    assert stop(story) == ("limit", "calls_max", 21, 20)


def test_an_edited_call_does_not_count_twice() -> None:
    """The last call a run may make is still its last after a person changed it."""
    story = at_work(call("pay"), version=agent(limits={"calls_max": 1, "calls_per_tool_max": 1}))
    story.word("edit", call="pay", args={"q": "x"}).then(Edited)
    story.quiet()
    assert story.stage("pay") == "asked"
    assert story.run.stopped is None


def test_the_same_call_with_the_same_result_three_times_is_a_loop() -> None:
    """``equal_calls_max``: the fourth ends the run."""
    story = at_work(call("look", id="a")).tools(a=OK)
    for name in ("b", "c"):
        story.model(reply(call("look", id=name))).tools(**{name: OK})
    assert story.run.stopped is None
    story.model(reply(call("look", id="d")))
    assert story.last(Judged).calls[0].verdict == "loop"
    assert stop(story) == ("loop", "equal_calls_max", 4, 3)


def test_the_same_call_with_another_result_is_no_loop() -> None:
    """Polling that makes progress goes on."""
    story = at_work(call("look", id="a")).tools(a=OK)
    for i, name in enumerate(("b", "c", "d")):
        story.model(reply(call("look", id=name))).tools(**{name: ToolResult(outcome="succeeded", value=i)})
    assert story.run.stopped is None


@pytest.mark.parametrize("tool", ["pay", "note"])
def test_an_effect_that_was_done_is_answered_from_the_record(tool: str) -> None:
    """The model is not allowed to repeat it: same answer, nothing started."""
    story = at_work(call(tool))
    if tool == "pay":
        story.word("approve", call=tool).said().quiet()
    story.tools(**{tool: ToolResult(outcome="succeeded", value="first")}).model(reply(call(tool, id="again")))
    assert (story.last(Judged).calls[0].verdict, story.run.calls["again"].answer) == ("recorded", "first")
    assert sum(isinstance(entry.event, EffectStarted) for entry in story.run.entries) == 1


def test_a_repeatable_effect_may_be_repeated() -> None:
    """Where the contract says so."""
    again = agent(tools=(contract("note", tier="reversible", repeatable=True),))
    story = at_work(call("note", id="a"), version=again).tools(a=OK).model(reply(call("note", id="b")))
    assert story.last(Judged).calls[0].verdict == "pass"


def test_the_same_effect_twice_in_one_answer_is_rejected() -> None:
    """One of them is enough."""
    assert [v.verdict for v in verdicts(call("pay", id="a"), call("pay", id="b"))] == ["pass", "reject"]


def test_an_edit_into_an_effect_under_way_is_rejected() -> None:
    """A person's change may not make two of one."""
    story = at_work(call("pay", '{"q":"a"}', id="a"), call("pay", '{"q":"b"}', id="b"))
    story.word("approve", call="a").said().word("edit", call="b", args={"q": "a"}).said().quiet()
    assert "under way already (call 'a')" in story.run.calls["b"].answer


def test_an_effect_of_unknown_fate_is_not_proposed_again() -> None:
    """Neither while a person is asked nor afterwards."""
    story = at_work(call("pay", '{"q":"a"}', id="a"), call("pay", '{"q":"b"}', id="b"))
    story.word("approve", call="a").said().quiet().tools(a=ToolResult(outcome="unknown"))
    story.word("edit", call="b", args={"q": "a"}).said().quiet()
    assert "under way already" in story.run.calls["b"].answer or "not known yet" in story.run.calls["b"].answer


def test_an_effect_that_succeeded_too_late_is_not_made_again() -> None:
    """Its answer was given up, but the log knows that it was done."""
    story = at_work(call("note"))
    for _ in range(3):
        story.wait(12).quiet()
    assert story.run.calls["note"].answer_is_error
    story.given(Finished(call="note", attempt=1, outcome="succeeded", result="1", late=True))
    story.model(reply(call("note", id="again")))
    assert story.last(Judged).calls[0].errors == ("The same effect was done already (call 'note').",)


def test_long_arguments_are_judged_from_their_blob() -> None:
    """What is behind the reference is what counts."""
    story = Story().opened().quiet()
    ref = BlobRef(sha256="a" * 64, bytes=40_000)
    story.given(Proposed(turn=1, attempt=1, calls=(ProposedCall(call="c", tool="look", args=ref),)))
    known = Texts(by_sha256={"a" * 64: b'{"q":"long"}'})
    assert story.when("validator", known).then(Judged).calls[0].args == '{"q":"long"}'


@pytest.mark.parametrize(
    ("until", "seconds"),
    [("60", 60), ('"2026-01-01T13:00:00+00:00"', 3_600), ('"2026-01-01T13:00:00"', 3_600), ("2592000", 2_592_000)],
)
def test_a_wait_is_fixed_when_it_is_judged(until: str, seconds: int) -> None:
    """Seconds from then, or a moment; UTC if it names no zone."""
    assert verdicts(call("wait.until", f'{{"until":{until}}}'))[0].wait_until == NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "until", ["2592001", '"2026-02-01T12:00:00"', '"soon"', "1e300", '"9999-12-31T23:59:59-14:00"']
)
def test_a_wait_beyond_a_month_or_for_nothing_readable_is_rejected(until: str) -> None:
    """At most 30 days, whatever number the model writes."""
    assert verdicts(call("wait.until", f'{{"until":{until}}}'))[0].verdict == "reject"


def test_a_judgement_of_other_calls_than_the_pending_ones_is_ignored() -> None:
    """Every pending call exactly once, and no other."""
    story = Story().opened().quiet()
    story.given(*story.heard(reply(call("look"), call("note"))))
    judged = story.when("validator").decided
    assert isinstance(judged, Judged)
    for calls in (judged.calls[:1], (*judged.calls, judged.calls[0]), ()):
        assert (
            "exactly the pending calls" in story.tell("validator", msgspec.structs.replace(judged, calls=calls)).ignored
        )
    wrong = msgspec.structs.replace(judged, proposal_n=1)
    assert "not the proposal under judgement" in story.tell("validator", wrong).ignored


def test_a_lost_agent_stops_the_run() -> None:
    """Neither a call nor an answer can be judged without its version."""
    for answer in (reply(call("look")), reply()):
        story = Story().opened().quiet()
        story.given(*story.heard(answer))
        story.when("validator", PinnedAgent(version=None)).then(Stopped, code="defect")


# --- provenance ------------------------------------------------------------------------------------------


def flags(args: str, version: Any = None, **results: ToolResult) -> tuple[str, ...]:  # noqa: ANN401
    """The flags of an irreversible call with these arguments, after these reads."""
    story = at_work(call("look"), version=version).tools(look=results.get("look", OK)).model(reply(call("pay", args)))
    return story.last(Judged).calls[0].flags


@pytest.mark.parametrize(
    "args",
    ['{"q":"ann@example.com"}', '{"q":" Order 4711 "}', '{"amount":25}', '{"amount":25.0}', '{"q":"4711"}', "{}"],
)
def test_values_of_the_task_are_trusted(args: str) -> None:
    """As words and numbers of their own, in any case."""
    assert flags(args) == ()


@pytest.mark.parametrize(
    "args", ['{"amount":5}', '{"amount":471}', '{"q":"471"}', '{"q":"example.co"}', '{"amount":2.5}']
)
def test_a_part_of_a_word_or_number_is_not_of_the_task(args: str) -> None:
    """A task about order 4711 says nothing of 471."""
    assert flags(args) == ("untrusted-value",)


def test_a_value_of_an_untrusted_result_needs_a_person_and_is_traced() -> None:
    """The person sees from which event it came."""
    read = ToolResult(outcome="succeeded", value={"to": "eve@evil.org"})
    story = at_work(call("look")).tools(look=read).model(reply(call("pay", '{"q":"eve@evil.org"}')))
    line = story.last(Judged).calls[0].provenance[0]
    assert (line.path, line.n, line.field) == ("$.q", story.run.calls["look"].finished_n, "untrusted")


def test_a_value_of_a_trusted_field_needs_nobody() -> None:
    """``trusted`` names the parts of a result that count."""
    trusting = agent(
        tools=(contract("look", trusted=("order.mail",)), contract("pay", tier="irreversible")),
        policy=Policy(clear=("pay",)),
    )
    read = ToolResult(outcome="succeeded", value={"order": {"mail": "kim@x.org", "note": "eve@x.org"}})
    assert flags('{"q":"kim@x.org"}', trusting, look=read) == ()
    assert flags('{"q":"eve@x.org"}', trusting, look=read) == ("untrusted-value",)


def test_a_persons_answer_is_trusted() -> None:
    """What somebody was asked for and said."""
    story = at_work(call("ask.person", '{"question":"to whom?"}', id="q")).word("answer", call="q", answer="kim@x.org")
    story.said().quiet().model(reply(call("pay", '{"q":"kim@x.org"}')))
    assert story.last(Judged).calls[0].flags == ()


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("pay 1,250,000.50 now", 1_250_000.5, True), ("account 12345678.", 12_345_678, True), ("-5 degrees", -5, True),
        ("12.50€", 12.5, True), ("v12", 12, False), ("12kg", 12, False), ("a+b", "a+b", True), ("aa", "a", False),
        ("cost: 3.14", 14, False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_numbers(text: str, value: float | str, *, found: bool) -> None:
    """However they are written."""
    assert says(text, value) is found


def test_too_many_values_count_as_of_unknown_origin() -> None:
    """Two hundred leaves are looked at."""
    story = Story().opened()
    assert not untrusted(provenance(story.run, [25] * 200))
    assert untrusted(provenance(story.run, [25] * 201))


# --- results and answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("findings", "answer"), [((), '{"ok":true}'), (("too heavy",), "The result failed its checks: too heavy")]
)
def test_a_result_with_checks_is_looked_at_before_anything_builds_on_it(findings: tuple[str, ...], answer: str) -> None:
    """A tool that declares checks has them run first."""
    story = at_work(call("weigh")).tools(weigh=OK)
    assert story.stage("weigh") == "check"
    story.when("planner").silent()
    story.when("validator").silent()
    known = Findings(by_event={story.run.calls["weigh"].finished_n: findings})
    story.when("validator", known).then(Checked, verdict="reject" if findings else "pass")
    assert story.run.calls["weigh"].answer == answer


def test_a_check_of_what_is_not_waiting_for_one_is_ignored() -> None:
    """A result is checked once."""
    story = at_work(call("look")).tools(look=OK)
    checked = Checked(finished_n=story.run.calls["look"].finished_n, verdict="pass")
    assert story.run.phase == "thinking"
    assert story.tell("validator", checked).ignored


def test_a_final_answer_ends_the_run() -> None:
    """Accepted, settled, sealed, with the answer."""
    story = at_work()
    assert story.names()[-3:] == ["validator.accepted", "budget.settled", "recorder.sealed"]
    assert (story.last(Sealed).status, story.last(Sealed).answer) == ("completed", "done")


def test_an_answer_that_leans_on_untrusted_results_says_so() -> None:
    """``derived_from_untrusted``."""
    assert at_work().last(Accepted).derived_from_untrusted is False
    assert at_work(call("look")).tools(look=OK).model(reply()).last(Accepted).derived_from_untrusted is True


def test_secrets_are_taken_out_of_the_answer() -> None:
    """Whatever the model says."""
    story = (
        Story(facts=(Secrets(values=("hunter2hunter2",)),)).opened().quiet().model(reply(text="it is hunter2hunter2"))
    )
    assert story.last(Accepted).answer == "it is [redacted:secret]"


@pytest.mark.parametrize("text", ["no json", '{"n":"x"}', "[1]"])
def test_an_answer_that_does_not_fit_its_schema_is_returned(text: str) -> None:
    """The model is told why and asked again."""
    story = Story(agent(output_schema=SCHEMA)).opened().quiet().model(reply(text=text))
    assert story.last(Returned).returned_in_a_row == 1
    assert story.last(ModelStarted).turn == 2
    assert story.model(reply(text='{"n":1}')).last(Sealed).status == "completed"


def test_an_answer_is_returned_at_most_three_times() -> None:
    """``returned_max``."""
    story = Story(agent(output_schema=SCHEMA)).opened().quiet()
    for _ in range(4):
        assert story.run.stopped is None
        story.model(reply(text="no"))
    assert stop(story) == ("limit", "returned_max", 4, 3)


def test_an_empty_or_endless_answer_is_returned() -> None:
    """An answer is a text that fits into an event."""
    story = Story().opened().quiet()
    story.given(*story.heard(reply(text=" ")))
    assert "empty" in story.when("validator").then(Returned).errors[0]
    story.quiet().given(Proposed(turn=2, attempt=1, text=BlobRef(sha256="a" * 64, bytes=99_999), final=True))
    assert "99999 bytes" in story.when("validator").then(Returned).errors[0]


def test_an_answer_to_another_proposal_is_ignored() -> None:
    """Only the final answer under judgement can be accepted."""
    story = Story().opened().quiet()
    story.given(*story.heard(reply()))
    assert "not the final answer" in story.tell("validator", Accepted(proposal_n=1, answer="x")).ignored


# --- time and size ---------------------------------------------------------------------------------------


def test_a_run_works_at_most_two_minutes() -> None:
    """``wall_s``."""
    story = at_work(call("look")).wait(119)
    story.when("validator").silent()
    story.wait(1).when("validator").then(Stopped, code="deadline")
    assert story.last(Stopped).open[0].what == "look"


def test_waiting_for_a_person_is_not_work() -> None:
    """``wall_s`` counts only when the run could do something."""
    story = at_work(call("pay")).wait(3_000)
    story.when("validator").silent()
    story.word("approve", call="pay").said().quiet().wait(119).when("validator").silent()
    story.wait(1).when("validator").then(Stopped, code="deadline")


def test_a_run_ends_after_thirty_days_even_if_it_only_waits() -> None:
    """``run_max_s``."""
    version = agent(limits={"approval_expires_s": 40 * 86_400})
    story = at_work(call("pay"), version=version).wait(30 * 86_400 - 1)
    story.when("validator").silent()
    story.wait(1).when("validator").then(Stopped, code="deadline")


def test_a_run_keeps_its_last_fifty_events_for_its_end() -> None:
    """``events_max``: new work ends 50 events before, stop and seal fit in."""
    story = Story(agent(limits={"events_max": 80, "rejections_max": 100, **ROOMY})).opened().quiet()
    for i in range(40):
        if story.run.stopped:
            break
        story.model(reply(call("fly", id=f"c{i}")))
    assert stop(story)[:2] == ("limit", "events_max")
    assert 30 <= story.run.n <= 35
    late = story.model(reply()) if story.run.open_attempts else story
    assert late.run.phase == "sealed"


def test_no_start_uses_the_room_that_belongs_to_the_end() -> None:
    """Also where the validator has not looked yet."""
    story = Story(agent(limits={"events_max": 54})).opened().quiet()
    story.given(*story.heard(reply(call("look")))).when("validator")
    story.then(Stopped, code="limit")
    early = Story(agent(limits={"events_max": 52})).opened().when("budget").said()
    assert early.run.room == 0
    early.when("planner").then(Stopped, code="limit")


def test_a_stop_is_not_followed_by_any_judgement() -> None:
    """After a stop the validator has nothing to say."""
    story = Story().opened().quiet()
    story.given(*story.heard(reply(call("look")))).given(Stopped(by="bob", why="x"), by="operator")
    story.when("validator").silent()


def test_denied_and_failed_calls_still_let_the_run_complete() -> None:
    """What a run could not do is for the model to tell."""
    error = ToolError(type="permanent", message="no")
    story = at_work(call("look"), call("pay")).tools(look=ToolResult(outcome="failed", error=error))
    story.word("deny", call="pay").then(Denied)
    assert story.quiet().model(reply(text="I could not")).last(Sealed).status == "completed"


def test_an_empty_run_needs_no_facts() -> None:
    """A wake without anything to go by is harmless."""
    story = Story()
    assert story.roles["validator"].decide(story.run, Cue(kind="sweep"), Facts(), story.now) is None
