"""Which calls start on their judgement alone."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.builders import NOW, Story, agent, at_gate, at_work, call, reply

from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import Judged, Opened, Policy
from linestop.schemas.messages import Task
from linestop.schemas.run.approval_policy import needs_approver

SOON = f'{{"until":"{(NOW + timedelta(hours=1)).isoformat()}"}}'


def judged_with(story: Story, *, tier: str = "read", flags: tuple[str, ...] = ()) -> Story:
    """The run with the judgement that the validator would append, with this tier and these flags."""
    judged = story.when("validator").decided
    assert isinstance(judged, Judged)
    line = msgspec.structs.replace(judged.calls[0], tier=tier, flags=flags)
    return story.given(msgspec.structs.replace(judged, calls=(line,)))


def proposed(version: AgentVersion | None = None, *, task: Task | None = None) -> Story:
    """A run whose model has proposed a read."""
    story = Story(version, task=task).open_run().run_until_idle()
    return story.given(*story.planner_events(reply(call("look"))))


@pytest.mark.parametrize(
    ("tool", "args", "stage"),
    [
        ("look", "{}", "ready"),
        ("rent", "{}", "ready"),
        ("weigh", "{}", "ready"),
        ("wait.until", SOON, "waiting"),
        ("note", "{}", "gate"),
        ("pay", "{}", "gate"),
        ("wire", "{}", "gate"),
        ("drop", "{}", "gate"),
        ("ask.person", '{"question":"which?"}', "gate"),
    ],
)
def test_a_read_passes_by_its_judgement_and_every_other_call_waits_for_the_approver(
    tool: str, args: str, stage: str
) -> None:
    """A question is of tier ``read`` too, but only an answer ends it."""
    story = at_gate(call(tool, args))
    state = story.run.calls[tool]
    assert (state.stage, state.gate_n) == (stage, story.run.n if stage != "gate" else 0)
    assert story.run.opened is not None
    assert needs_approver(story.run.opened, state) == (stage == "gate")


def test_a_read_passes_by_its_judgement_in_a_dry_run_too() -> None:
    """Reads are made in it."""
    story = proposed(task=Task(text="Look.", dry_run=True)).when("validator").append_decided()
    assert story.stage("look") == "ready"


@pytest.mark.parametrize("pattern", ["look", "lo*", "*"])
def test_a_read_that_the_policy_asks_about_waits_for_the_approver(pattern: str) -> None:
    """``policy.ask`` applies to every tier."""
    assert at_gate(call("look"), version=agent(policy=Policy(ask=(pattern,)))).stage("look") == "gate"


@pytest.mark.parametrize(("provenance", "stage"), [(True, "gate"), (False, "ready")])
def test_a_read_with_an_untrusted_value_waits_for_the_approver(stage: str, *, provenance: bool) -> None:
    """Unless the policy does not look at origins; another flag holds nothing back."""
    version = agent(policy=Policy(provenance=provenance))
    assert judged_with(proposed(version), flags=("untrusted-value",)).stage("look") == stage
    assert judged_with(proposed(version), flags=("odd",)).stage("look") == "ready"


@pytest.mark.parametrize("tier", ["reversible", "irreversible", "destructive"])
def test_a_read_that_was_judged_to_be_more_waits_for_the_approver(tier: str) -> None:
    """The judgement may raise a tier."""
    assert judged_with(proposed(), tier=tier).stage("look") == "gate"


def test_a_read_that_a_person_edited_waits_for_the_approver() -> None:
    """Also if the edit approves it: the approver compares what was judged with what the person wrote."""
    story = at_work(call("look"), version=agent(policy=Policy(ask=("look",))))
    story.send_control("edit", call="look", args={"q": "b"}).append_decided().when("validator").append_decided()
    assert story.stage("look") == "gate"


def test_in_a_run_that_an_older_version_opened_every_call_waits_for_the_approver() -> None:
    """Its log is folded as it was written."""
    opened = msgspec.structs.replace(Story().open_run().last(Opened), gate_form=0)
    story = Story().given(opened).run_until_idle()
    story.given(*story.planner_events(reply(call("look")))).when("validator").append_decided()
    assert (story.stage("look"), story.run.phase) == ("gate", "clearing")
