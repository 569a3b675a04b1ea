"""The limits that were fixed when the run opened: no start exceeds them, whichever process wrote it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.builders import NOW, OK, Story, agent, at_work, call, contract, refusal, reply

from linestop.bus.stores.agent_versions import AgentStore
from linestop.errors import InputError
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import CLOSING_EVENTS, LIMITS_MAX, Limits, clamp, excessive_limit
from linestop.schemas.events import (
    Asked,
    Compacted,
    EffectStarted,
    Held,
    ModelStarted,
    Opened,
    Paused,
    Policy,
    Proposed,
    Resumed,
    Sealed,
    Stopped,
    Warned,
)
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.verify.check_log import verify
from linestop.testing.memory.broker import MemoryBroker

CLEAR = Policy(clear=("pay",))


def start(story: Story) -> ModelStarted:
    """Return the start that an honest planner would append now."""
    event = story.when("planner").decided
    assert isinstance(event, ModelStarted)
    return event


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        ({"model": "dear/one"}, "not opened with the model 'dear/one'"),
        ({"cost_max_micros": 24_000}, "less than a request of this size may cost"),
        ({"cost_max_micros": 0, "input_tokens_max": -10, "output_tokens_max": 2}, "less than a request"),
        ({"done_by": NOW + timedelta(seconds=400)}, "'model_deadline_s'"),
        ({"done_by": NOW.replace(year=8999)}, "'model_deadline_s'"),
    ],
)
def test_a_model_request_beyond_its_limits_is_ignored(forgery: dict[str, Any], reason: str) -> None:
    """Another model, another price or another end than the run was opened with."""
    story = Story().open_run().when("budget").append_decided()
    honest = start(story)
    assert reason in story.append("planner", msgspec.structs.replace(honest, **forgery)).ignored
    assert story.run.model_attempt is None
    assert not story.append("planner", honest).ignored


def test_no_turn_comes_after_the_last() -> None:
    """``turns_max`` binds the planner's credential, not only its code."""
    story = Story(agent(limits={"turns_max": 1})).open_run().run_until_idle()
    first = story.last(ModelStarted)
    story.given(Proposed(turn=1, attempt=1))
    again = msgspec.structs.replace(first, turn=2, attempt=1, start_by=story.now, done_by=story.now)
    assert story.append("planner", again).ignored == "the run has had its 1 turns"


def test_a_run_is_compacted_as_often_as_allowed_and_only_over_existing_events() -> None:
    """A summary of later events would hide them from every later prompt."""
    story = Story(agent(limits={"compactions_max": 1})).open_run().when("budget").append_decided()
    compact = msgspec.structs.replace(start(story), purpose="compact")
    assert not story.append("planner", compact).ignored
    premature = Compacted(turn=1, attempt=1, covers_from=1, covers_to=story.run.n + 1, summary="s")
    assert "do not exist yet" in story.append("planner", premature).ignored
    story.given(msgspec.structs.replace(premature, covers_to=1))
    twice = msgspec.structs.replace(compact, attempt=2)
    assert "as often as its limits allow" in story.append("planner", twice).ignored


@pytest.mark.parametrize(
    ("tool", "forgery", "reason"),
    [
        ("rent", {"cost_max_micros": 0}, "reserves less for call 'rent'"),
        ("rent", {"done_by": NOW + timedelta(hours=1)}, "longer than its tool's timeout"),
    ],
)
def test_an_effect_beyond_its_limits_is_ignored(tool: str, forgery: dict[str, Any], reason: str) -> None:
    """A price below the contract's, an end beyond its timeout."""
    story = Story().open_run().run_until_idle()
    story.given(*story.planner_events(reply(call(tool)))).when("validator").append_decided()
    story.when("budget")
    if story.decided is not None:
        story.append_decided()
    honest = story.when("executor").decided
    assert isinstance(honest, EffectStarted)
    lines = tuple(msgspec.structs.replace(line, **forgery) for line in honest.calls)
    assert reason in story.append("executor", msgspec.structs.replace(honest, calls=lines)).ignored
    assert not story.append("executor", honest).ignored


def test_an_ordered_call_waits_for_the_calls_before_it() -> None:
    """The fold ignores an early start of the executor."""
    story = at_work(call("look"), call("after"))
    line = story.last(EffectStarted).calls[0]
    after = story.run.calls["after"]
    assert after.judged is not None
    early = msgspec.structs.replace(
        line, call="after", args_sha256=after.args_sha256, effect_key=after.judged.effect_key, gate_n=after.gate_n
    )
    event = msgspec.structs.replace(story.last(EffectStarted), calls=(early,))
    assert "is ordered" in story.append("executor", event).ignored


def test_a_takeover_beyond_the_tools_retries_is_ignored() -> None:
    """Three attempts of a read, and no fourth."""
    version = agent(tools=(contract("look", retries_max=0),))
    story = at_work(call("look"), version=version).advance_s(12)
    event = story.last(EffectStarted)
    line = msgspec.structs.replace(event.calls[0], attempt=2)
    assert (
        "all the tries that its tool allows"
        in story.append("executor", msgspec.structs.replace(event, calls=(line,))).ignored
    )


def test_a_completed_effect_is_not_repeated_under_another_call_whatever_was_judged() -> None:
    """At most once does not depend on the validator: the fold itself compares the effect keys."""
    story = at_work(call("pay"), version=agent(policy=CLEAR)).finish_tools(pay=OK)
    story.given(*story.planner_events(reply(call("pay", id="again"))))
    judged = story.when("validator").decided
    assert judged is not None
    first = story.run.calls["pay"].judged
    assert first is not None
    passed = msgspec.structs.replace(first, call="again")
    story.given(msgspec.structs.replace(judged, calls=(passed,))).when("approver").append_decided()
    start_again = story.when("executor").decided
    assert isinstance(start_again, EffectStarted)
    assert "may have been made by call 'pay'" in story.append("executor", start_again).ignored


# --- the event limit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 200])
def test_a_run_that_is_full_of_events_is_still_sealed(more: int) -> None:
    """From event 1,950 on no new work counts; stop, results and seal do, beyond 2,000 too."""
    story = at_work(call("look"))
    for value in range(story.run.n, 1_949):
        story.append("budget", Warned(limit=f"x{value}", value=value, max_value=1))
    assert story.run.events_left == 1
    for value in range(more):
        story.append("approver", Paused(by="eve") if value % 2 == 0 else Resumed(by="eve"))
    story.finish_tools(look=OK)
    if not more:
        assert story.last(ModelStarted).purpose == "close"
        story.finish_model(reply(text="I looked."))
    assert story.last(Stopped).limit is not None
    sealed = story.run_until_idle().last(Sealed)
    assert sealed.status == "failed"
    assert story.run.n <= 2_000 + more
    assert not story.run.open_attempts
    assert not story.run.holds
    verdict = verify(story.run.tenant, story.run.run, story.messages)
    # After the last event an honest role appends only results and the end.
    assert verdict.sentence == ("broken at 2001" if more else "consistent"), verdict.problems


def test_beyond_the_last_event_only_results_and_the_end_are_appended() -> None:
    """A person's message is refused, no role asks or warns any more, and the run is stopped."""
    story = Story(agent(limits={"tokens_max": 5_000})).open_run().run_until_idle()
    story.given(*story.planner_events(reply(call("pay"), out=3_900))).when("validator").append_decided()
    assert isinstance(story.when("approver").decided, Asked)
    assert isinstance(story.when("budget").decided, Warned)
    while not story.run.is_full:
        story.append("approver", Resumed(by="eve"))
    assert story.run.n == 2_000
    assert story.when("approver").decided is None
    assert story.when("budget").decided is None
    assert refusal(story, "resume") == "Run 'r1' has all of its 2000 events, so it can only be stopped."
    assert isinstance(story.when("planner").decided, Stopped)


def test_the_reserved_events_of_a_full_run_allow_no_start_and_no_hold() -> None:
    """The last fifty events are reserved for its end."""
    story = Story(agent(limits={"events_max": 55})).open_run().when("budget").append_decided()
    honest = start(story)
    for value in range(3):
        story.given(Warned(limit=f"x{value}", value=1, max_value=1))
    assert story.run.events_left == 0
    assert "reserved for stop, results and seal" in story.append("planner", honest).ignored
    for value in range(CLOSING_EVENTS + 1):
        # A closing turn may still need money.
        story.given(Warned(limit=f"y{value}", value=1, max_value=1))
    held = Held(hold="acme.r1.2", amount_micros=1, release_after=NOW)
    assert "reserved for stop, results and seal" in story.append("budget", held).ignored
    assert story.run_until_idle().last(Sealed).status == "failed"


# --- the size of limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LIMITS_MAX))
def test_every_limit_has_a_maximum(name: str) -> None:
    """The maximum itself is allowed; larger values and NaN are not."""
    assert set(LIMITS_MAX) == set(Limits.__struct_fields__)
    maximum = msgspec.structs.replace(Limits(), **{name: LIMITS_MAX[name]})
    assert not excessive_limit(maximum)
    for beyond in (LIMITS_MAX[name] + 1, float("nan"), float("inf"), -1):
        assert f"limits.{name}: " in excessive_limit(msgspec.structs.replace(Limits(), **{name: beyond}))
    assert clamp(msgspec.structs.replace(Limits(), **{name: 10**30})) == maximum
    assert clamp(Limits()) == Limits()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (agent(limits={"wall_s": 10**18}), "The agent 'desk' is not deployed: limits.wall_s: 1e+18 is not between 0"),
        (agent(tools=(contract("look", timeout_s=1e300),)), "timeout_s of the tool 'look': 1e+300 is not between 0"),
    ],
)
async def test_an_agent_whose_limits_leave_the_calendar_is_not_deployed(version: AgentVersion, sentence: str) -> None:
    """It is refused with limit, bound and remedy, before any run uses it."""
    store = AgentStore(MemoryBroker(lambda: NOW).bucket("agents"))
    with pytest.raises(InputError, match="is not deployed") as refused:
        await store.deploy(version)
    assert sentence in str(refused.value)
    assert await store.names() == []


def test_a_log_that_holds_endless_limits_is_folded_decided_and_ended() -> None:
    """Older versions accepted them: their runs still have valid dates, and come to their end."""
    names = ("wall_s", "run_max_s", "model_deadline_s", "approval_expires_s")
    endless: dict[str, Any] = dict.fromkeys(names, 10**18)
    pinned = Story(agent(tools=(contract("pay", tier="irreversible", timeout_s=1e300),))).open_run().last(Opened)
    story = Story()
    story.given(msgspec.structs.replace(pinned, limits=Limits(**endless)))
    story.run_until_idle().given(*story.planner_events(reply(call("pay")))).run_until_idle()
    assert all(deadline.at.year < 2027 for deadline in deadlines(story.run, story.now))
    story.send_control("approve", call="pay").append_decided().run_until_idle()
    assert story.run.open_attempts[0].done_by < NOW + timedelta(days=2)
    story.given(Stopped(by="a", why="x"), by="operator").advance_s(2 * 86_400).run_until_idle()
    assert story.last(Sealed).status == "stopped"


def test_a_proposal_with_calls_ends_a_row_of_returned_answers() -> None:
    """A final answer does not end it."""
    story = Story().open_run().run_until_idle()
    story.run.returned_in_a_row = 2
    story.given(Proposed(turn=1, attempt=1, final=True, text="x"))
    assert story.run.returned_in_a_row == 2
