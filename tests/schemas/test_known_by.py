"""P3 in the log: an effect that may have been made is not made again, and a log in which it was is found broken."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import CONTRACTS, RUN, TENANT, Story, agent, at_work, call, contract, reply

from linestop.actors.model_turn.prompt import assemble
from linestop.schemas.events import EffectStarted, Finished, Judged, JudgedCall, StartedCall
from linestop.schemas.tool_contracts import ToolError, ToolResult
from linestop.schemas.verify.check_log import verify

TOOLS = (
    *CONTRACTS,
    contract("move", tier="reversible"),
    contract("draw", tier="reversible", raises_before_effect=True),
)
AGENT = agent(tools=TOOLS)
FINDING = "tool move: its result does not fit the declared return type: Expected `int`, got `str` - at `$.paid`"
ODD = ToolResult(outcome="succeeded", value={"paid": "4250"}, findings=(FINDING,))


def failed(message: str, known_by: str = "", *, retry_safe: bool = False) -> ToolResult:
    """Return a failure with that message, known by ``known_by``."""
    error = msgspec.convert(
        {"type": "permanent", "message": message, "known_by": known_by, "retry_safe": retry_safe}, ToolError
    )
    return ToolResult(outcome="failed", error=error)


def problems(story: Story) -> list[str]:
    """Return the problems that break the log."""
    return [p.sentence for p in verify(TENANT, RUN, story.messages).problems if p.level == "broken"]


def test_the_model_sees_a_result_with_its_defects() -> None:
    """The notes keep it from trusting the result and from repeating the call; the event stores both separately."""
    story = at_work(call("move"), version=AGENT).finish_tools(move=ODD)
    assert msgspec.json.decode(assemble(story.run, story.version).messages[-1].result_text) == {
        "status": "succeeded",
        "note": "The call took effect; do not make it again.",
        "findings": [FINDING],
        "untrusted": True,
        "result": {"paid": "4250"},
    }
    assert story.run.calls["move"].fate == "done"
    assert story.last(Finished).result == '{"paid":"4250"}'
    assert story.last(Finished).findings == (FINDING,)


def test_a_call_that_is_repeated_after_a_result_that_does_not_fit_is_answered_from_the_record() -> None:
    """This happened: recorded as failed, made again, paid twice."""
    story = at_work(call("move"), version=AGENT).finish_tools(move=ODD).finish_model(reply(call("move", id="again")))
    verdict = story.last(Judged).calls[0]
    assert (verdict.verdict, verdict.recorded_n) == ("recorded", story.run.calls["move"].finished_n)
    assert story.run.calls["again"].outcome_text == story.run.calls["move"].outcome_text
    assert story.event_names().count("executor.started") == 1
    assert problems(story) == []


@pytest.mark.parametrize("known_by", ["tool", "not_begun"])
def test_a_call_may_be_made_again_after_a_known_failure(known_by: str) -> None:
    """The tool reported it, or was never called."""
    story = at_work(call("move"), version=AGENT).finish_tools(move=failed("no such order", known_by))
    story.finish_model(reply(call("move", id="again"))).finish_tools(again=ToolResult(outcome="succeeded", value=1))
    assert story.run.calls["again"].fate == "done"
    assert problems(story) == []


def test_a_contract_that_says_so_makes_an_exception_a_failure() -> None:
    """``raises_before_effect`` is pinned with the rest of the contract when the run opens."""
    raised = failed("tool draw raised ValueError: no", "contract", retry_safe=True)
    story = at_work(call("draw"), version=AGENT).finish_tools(draw=raised)
    story.finish_model(reply(call("draw", id="again"))).finish_tools(again=ToolResult(outcome="succeeded", value=1))
    assert story.run.calls["again"].fate == "done"
    assert problems(story) == []


def test_a_failure_that_the_contract_does_not_vouch_for_is_ignored() -> None:
    """The attempt stays open until a valid outcome comes."""
    story = at_work(call("move"), version=AGENT)
    result = failed("tool move raised ValueError: no", "contract")
    entry = story.append("executor", Finished(call="move", attempt=1, outcome="failed", error=result.error))
    assert entry.ignored == "the contract of call 'move' does not say that its tool raises before it acts"
    assert story.stage("move") == "open"


@pytest.mark.parametrize(
    "message",
    [
        FINDING,
        "tool move raised ValueError: half done",
        "tool move: its result cannot be written as JSON (half a character)",
        "tool move: its result is nested deeper than 200 levels: return a flatter one",
        "tool move: it returned something to be awaited; declare it with async def",
    ],
)
def test_a_failure_recorded_by_an_older_version_does_not_allow_a_repetition(message: str) -> None:
    """A run that began under an older version may continue under this one."""
    story = at_work(call("move"), version=AGENT).finish_tools(move=failed(message))
    story.finish_model(reply(call("move", id="again")))
    assert story.last(Judged).calls[0].verdict == "reject"
    assert story.event_names().count("executor.started") == 1
    assert problems(story) == []


@pytest.mark.parametrize("message", [FINDING, "tool move raised ValueError: half done"])
def test_a_log_that_repeats_such_an_effect_is_found(message: str) -> None:
    """It is the log of an older version: judged, cleared and started once more under the same key."""
    story = at_work(call("move"), version=AGENT).finish_tools(move=failed(message))
    first = story.run.calls["move"].judged
    assert first is not None
    story.given(*story.planner_events(reply(call("move", id="again"))))
    assert story.run.proposal is not None
    verdict: JudgedCall = msgspec.structs.replace(first, call="again")
    story.given(Judged(proposal_n=story.run.proposal.n, calls=(verdict,))).when("approver").append_decided()
    line: StartedCall = msgspec.structs.replace(
        story.last(EffectStarted).calls[0], call="again", gate_n=story.run.n, attempt=1
    )
    story.given(EffectStarted(calls=(line,), worker="w#1"))
    first_n = story.run.calls["move"].attempts[0].n
    sentence = f"It repeats the effect of attempt 1 of call 'move' (event {first_n}) under another call."
    assert problems(story) == [sentence]
