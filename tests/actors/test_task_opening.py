"""Whether a task becomes a run, and what the run may use."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.builders import NOW, TASK, Story, agent, contract

from linestop.actors.facts import (
    CurrentAgent,
    IncomingTask,
    KillSwitches,
    Space,
)
from linestop.actors.judging.task_acceptance import task_sha256
from linestop.schemas.defaults import Limits
from linestop.schemas.events import (
    AskedFor,
    Opened,
    Refused,
    Sealed,
    Stopped,
)
from linestop.schemas.messages import Task


def open_task(task: Task | None = None, *facts: Any, version: Any = ..., **incoming: Any) -> Opened | Refused:
    """The validator's decision about this task."""
    submitted = task or Task(text=TASK)
    current = CurrentAgent(version=agent() if version is ... else version)
    story = Story()
    handed: dict[str, Any] = {"agent": "desk", "sha256": task_sha256(submitted), "task": submitted, **incoming}
    decided = story.when("validator", IncomingTask(**handed), current, *facts).decided
    assert isinstance(decided, Opened | Refused)
    return decided


def refused(task: Task | None = None, *facts: Any, **more: Any) -> tuple[str, str]:
    """Code and sentence of the refusal."""
    refusal = open_task(task, *facts, **more)
    assert isinstance(refusal, Refused)
    return refusal.code, refusal.sentence


def test_a_refusal_names_the_sender_of_the_task() -> None:
    """As far as the task could be read, whatever the refusal; fields that a run would not accept are left out."""
    task = Task(text=TASK, user="ann", submitter="crm", labels={"a": "b"}, key="k")
    whose = AskedFor(user="ann", submitter="crm", labels={"a": "b"}, key="k", asked_at=NOW)
    later: dict[str, Any] = {"asked_at": NOW + timedelta(seconds=9)}
    for decided in (open_task(task, version=None, **later), open_task(task, existing_run="r", **later)):
        assert isinstance(decided, Refused)
        assert decided.asked == whose
    unread = IncomingTask(agent="desk", sha256="", problem="No.", readable=task, **later)
    assert Story().when("validator", unread).then(Refused).asked == whose
    story = Story(task=task).given(Stopped(by="bob", why="No."), by="operator")
    incoming = IncomingTask(agent="desk", sha256="", task=task, asked_at=NOW)
    assert story.when("validator", incoming, CurrentAgent(version=agent())).then(Refused).asked == whose
    long = Task(text=TASK, user="u" * 257, key="k" * 257, labels={str(n): "v" * 200 for n in range(32)})
    decided = open_task(long, version=None)
    assert isinstance(decided, Refused)
    assert decided.asked == AskedFor()
    assert Story().when("validator", IncomingTask(agent="desk", sha256="")).then(Refused).asked == AskedFor()


def test_a_task_opens_a_run_with_everything_fixed() -> None:
    """Tools, limits, model, policy and deadline are pinned before any untrusted data is read."""
    opened = open_task(Task(text=TASK, user="ann", key="k", limits={"turns_max": 3}))
    assert isinstance(opened, Opened)
    assert {tool.name for tool in opened.tools} >= {"look", "pay"}
    assert opened.limits == Limits(turns_max=3)
    assert opened.agent.digest == agent().digest()
    assert opened.deadline_at == NOW + timedelta(days=30)
    assert opened.task.text_bytes == len(TASK)
    assert all(len(tool.contract_digest) == 64 for tool in opened.tools)


def test_a_tasks_scope_narrows_the_tools() -> None:
    """A run may use what agent and task both allow."""
    opened = open_task(Task(text=TASK, scope=("look",)))
    assert isinstance(opened, Opened)
    assert [tool.name for tool in opened.tools] == ["look"]
    empty = open_task(Task(text=TASK, scope=()))
    assert isinstance(empty, Opened)
    assert empty.tools == ()


@pytest.mark.parametrize(
    ("scopes", "tools"),
    [(None, ["look", "pay"]), ((), ["look"]), (("bank:read",), ["look"]), (("bank:*",), ["look", "pay"])],
)
def test_a_tool_that_needs_a_scope_which_the_agent_lacks_is_not_granted(
    scopes: tuple[str, ...] | None, tools: list[str]
) -> None:
    """However the version was written, what it grants is decided when the run opens."""
    known = (contract("look"), contract("pay", scopes=("bank:pay",)))
    opened = open_task(version=agent(tools=known, scopes=scopes))
    assert isinstance(opened, Opened)
    assert [tool.name for tool in opened.tools] == tools


def test_a_tool_with_a_closed_kill_switch_is_not_granted() -> None:
    """And the run stores the revision of the kill switches that it saw."""
    opened = open_task(None, KillSwitches(revision=4, closed=frozenset({"tool:pay"})))
    assert isinstance(opened, Opened)
    assert "pay" not in {tool.name for tool in opened.tools}
    assert opened.doors_revision == 4


@pytest.mark.parametrize("closed", ["all", "tenant:acme", "agent:desk"])
def test_a_closed_kill_switch_refuses_new_runs(closed: str) -> None:
    """New runs are refused with the name of the kill switch."""
    code, sentence = refused(None, KillSwitches(closed=frozenset({closed})))
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
def test_an_invalid_task_is_refused_with_the_change_to_make(task: Task, code: str, part: str) -> None:
    """One sentence that names the thing and its bound."""
    got, sentence = refused(task)
    assert got == code
    assert part in sentence


def test_an_agent_with_an_endless_limit_gets_no_runs() -> None:
    """Limits that lead beyond the calendar are refused with the limit's name and bound."""
    version = agent(limits={"run_max_s": 10**18})
    story = Story(version)
    story.when("validator", IncomingTask(agent="desk", sha256="s", task=story.task), CurrentAgent(version=version))
    event = story.then(Refused, code="bad_limits")
    assert "limits.run_max_s: 1e+18 is not between 0 and 2,592,000" in event.sentence


def test_a_task_with_exactly_the_longest_text_is_accepted() -> None:
    """``input_chars_max`` counts characters."""
    assert isinstance(open_task(Task(text="é" * 20_000)), Opened)


def test_a_task_cannot_raise_a_limit() -> None:
    """``limits`` of a task only lower."""
    opened = open_task(Task(text="x", limits={"turns_max": 99, "wall_s": 5}))
    assert isinstance(opened, Opened)
    assert (opened.limits.turns_max, opened.limits.wall_s) == (15, 5)


def test_a_task_for_an_unknown_agent_is_refused() -> None:
    """The agent does not exist."""
    assert refused(version=None)[0] == "no_agent"


def test_a_task_that_cannot_be_read_is_refused_with_the_reason() -> None:
    """The reader's own sentence is passed on."""
    unread = IncomingTask(agent="desk", sha256="s", problem="It is not JSON.")
    story = Story().when("validator", unread, CurrentAgent(version=agent()))
    story.then(Refused, code="malformed", sentence="It is not JSON.")


def test_a_key_that_is_taken_names_the_run_that_has_it() -> None:
    """The client learns which run its other task has."""
    refusal = open_task(None, existing_run="r0")
    assert isinstance(refusal, Refused)
    assert (refusal.code, refusal.existing_run) == ("key_taken", "r0")


@pytest.mark.parametrize(("used", "let_in"), [(0.899, True), (0.9, False)])
def test_new_work_is_refused_when_the_log_is_nearly_full(used: float, *, let_in: bool) -> None:
    """The last tenth is reserved for stops, results and seals."""
    assert isinstance(open_task(None, Space(used=used)), Opened) is let_in


def test_a_task_whose_run_was_stopped_before_it_began_is_refused() -> None:
    """A stop as event 1 takes precedence; the refusal gives the reason."""
    story = Story().given(Stopped(by="bob", why="not today"), by="operator")
    incoming = IncomingTask(agent="desk", sha256="s", task=story.task)
    story.when("validator", incoming, CurrentAgent(version=story.version)).then(Refused, code="stopped")
    story.run_until_idle(incoming)
    assert story.last(Sealed).status == "stopped"


def test_a_refused_task_is_sealed_as_refused() -> None:
    """Its outcome carries the sentence."""
    story = Story()
    incoming = IncomingTask(agent="desk", sha256="s", task=Task(text=" "))
    story.when("validator", incoming, CurrentAgent(version=story.version)).append_decided().run_until_idle(incoming)
    sealed = story.last(Sealed)
    assert (sealed.status, sealed.cause) == ("refused", "validation")
    assert "no text" in sealed.why


def test_without_a_task_nothing_is_opened() -> None:
    """A wake of an empty run appends nothing."""
    Story().when("validator").expect_nothing()


def test_an_opened_run_is_not_opened_again() -> None:
    """The fold ignores a second opening, whichever process wrote it."""
    story = Story().open_run()
    assert "not legal" in story.append("validator", story.last(Opened)).ignored


def test_equal_tasks_have_equal_digests_whatever_their_key() -> None:
    """Key and run id name the run of a task; they do not change the task."""
    assert task_sha256(Task(text="x", key="a", run="b")) == task_sha256(Task(text="x"))
    assert task_sha256(Task(text="x", user="a")) != task_sha256(Task(text="x"))
