"""Planner: what next?"""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.builders import MODEL, NOW, OK, SPARE, WORKER, Story, agent, at_work, call, reply

from linestop.actors.facts import KillSwitches, PinnedAgent, Worker
from linestop.actors.model_turn.prompt import assemble
from linestop.actors.model_turn.reply_events import CALL_ID_CHARS_MAX
from linestop.schemas.defaults import START_WITHIN_S
from linestop.schemas.events import (
    Held,
    ModelFailedEvent,
    ModelStarted,
    Proposed,
    ProposedCall,
    Sealed,
    Stopped,
)
from linestop.schemas.model_messages import FailureClass, ModelFailed, ToolCall, Usage
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.starting.next_start import Exhausted, NextStart, next_start, out_of_time
from linestop.schemas.run.starting.observed_tool_mode import JSON_MODE_ID_PREFIX, NATIVE_ID_PREFIX, observed_mode
from linestop.schemas.tool_contracts import ToolResult

LONG = {"wall_s": 100_000}
DOWN = ModelFailed("availability", "connection refused")


def thinking(**limits: object) -> Story:
    """A run whose first model request is in progress."""
    return Story(agent(limits=limits)).open_run().run_until_idle()


def next_cost(story: Story) -> int:
    """What the run's next start may cost."""
    start = next_start(story.run, story.now)
    assert isinstance(start, NextStart)
    return start.cost_max_micros


def retried(story: Story, seconds: float) -> ModelStarted:
    """The attempt that follows after this many seconds."""
    return story.advance_s(seconds).run_until_idle().last(ModelStarted)


def test_a_start_reserves_its_cost_and_names_its_deadlines() -> None:
    """Its largest cost, the time by which its first byte must have been sent, and when it is given up."""
    story = Story().open_run().when("budget").append_decided()
    start = next_start(story.run, story.now, WORKER)
    assert isinstance(start, NextStart)
    event = story.when("planner").then(ModelStarted, turn=1, attempt=1, worker=WORKER, model="playbook/large")
    assert event.cost_max_micros == start.cost_max_micros > 0
    assert event.start_by == story.now + timedelta(seconds=START_WITHIN_S)
    assert event.done_by == story.now + timedelta(seconds=125)
    assert event.prompt_sha256 == story.planner.prepare(story.run, event, story.planner_facts).prompt_sha256 != ""


@pytest.mark.parametrize(
    ("ids", "mode"),
    [
        (("toolu-1", "anything"), "native"),
        ((f"{NATIVE_ID_PREFIX}0", "x"), "native"),
        ((f"{JSON_MODE_ID_PREFIX}0", f"{JSON_MODE_ID_PREFIX}1"), "json_schema"),
        ((f"{JSON_MODE_ID_PREFIX}0", f"{JSON_MODE_ID_PREFIX}0"), "json_schema"),
        (("call_" + "a" * 24, "call_" + "b" * 24), "auto"),
    ],
)
def test_a_model_keeps_its_tool_mode_in_any_process(ids: tuple[str, str], mode: str) -> None:
    """A new process does not find out again what the log shows; of another server nothing is known."""
    url = "http://127.0.0.1:1/v1"
    version = agent(model=msgspec.structs.replace(MODEL, model="openai/m", base_url=url))
    story = Story(version).open_run().run_until_idle()
    assert _mode(story) == "auto"
    for index, name in enumerate(ids):
        story.finish_model(reply(call("look", f'{{"q":"{index}"}}', id=name))).finish_tools(
            **{story.run.proposals[-1].calls[0].call: OK}
        )
    assert _mode(story) == mode
    assert observed_mode(story.run, "openai/m", "http://127.0.0.1:2/v1") == "auto"
    assert observed_mode(story.run, "openai/other", url) == "auto"


def _mode(story: Story) -> str:
    started = story.last(ModelStarted)
    return story.planner.prepare(story.run, started, story.planner_facts).tool_mode


def test_nothing_starts_without_a_hold() -> None:
    """Before budget has held, the planner waits."""
    Story().open_run().when("planner").expect_nothing()


@pytest.mark.parametrize("closed", ["all", "tenant:acme", "agent:desk"])
def test_a_closed_kill_switch_stops_the_run_before_its_next_request(closed: str) -> None:
    """A kill switch also holds for runs that are in progress."""
    story = Story().open_run().when("budget").append_decided()
    story.when("planner", KillSwitches(closed=frozenset({closed}))).then(Stopped, code="policy")


def test_a_run_whose_agent_version_is_missing_is_stopped() -> None:
    """Without the pinned version there is no prompt for the model."""
    story = Story().open_run().when("budget").append_decided()
    story.when("planner", PinnedAgent(version=None)).then(Stopped, code="defect")


def test_a_prompt_follows_the_log_whatever_was_speculated_before() -> None:
    """A result that was folded before it was stored, and never stored, is not in a later prompt of the same turn."""
    speculated, stored = at_work(call("look")), at_work(call("look"))
    stored.planner = stored.roles["planner"] = speculated.planner
    speculated.finish_tools(look=ToolResult(outcome="succeeded", value={"is": "lost"}))
    started = stored.finish_tools(look=ToolResult(outcome="succeeded", value={"is": "stored"})).last(ModelStarted)
    assert started.prompt_sha256 == assemble(stored.run, stored.version).sha256
    sent = stored.planner.prepare(stored.run, started, stored.planner_facts).request.messages
    assert "stored" in sent[-1].text


def test_the_next_turn_starts_when_every_call_has_its_answer() -> None:
    """Not before."""
    story = at_work(call("look"), call("pay")).finish_tools(look=OK)
    story.when("planner").expect_nothing()
    story.send_control("deny", call="pay").append_decided().run_until_idle()
    assert story.last(ModelStarted).turn == 2


def test_a_start_before_every_answer_is_ignored_by_the_fold() -> None:
    """A model that is asked again too early would see half of what it asked for."""
    story = at_work(call("look"), call("pay")).finish_tools(look=OK)
    early = msgspec.structs.replace(story.last(ModelStarted), turn=2)
    assert story.append("planner", early).ignored.startswith(("'planner.started' is not legal", "the calls of"))


def test_the_turns_of_a_run_are_counted() -> None:
    """``turns_max``: after fifteen answers the run ends, with one turn more to sum up."""
    story = Story(agent(limits={**LONG, "calls_max": 100, "calls_per_tool_max": 100})).open_run().run_until_idle()
    for turn in range(15):
        assert story.last(ModelStarted).turn == turn + 1
        story.finish_model(reply(call("look", f'{{"q":"{turn}"}}', id=f"c{turn}"))).finish_tools(**{f"c{turn}": OK})
    start = story.last(ModelStarted)
    assert (start.purpose, start.turn) == ("close", 16)
    event = story.finish_model(reply(text="Fifteen looks were made.")).last(Stopped)
    assert event.limit is not None
    assert (event.code, event.limit.name, event.limit.value) == ("limit", "turns_max", 15)


def test_the_tokens_of_a_run_are_counted() -> None:
    """``tokens_max``: the next call must fit with its whole prompt and a useful answer."""
    story = thinking().finish_model(reply(call("look"), usage=Usage(fresh_in=48_500))).finish_tools(look=OK)
    event = story.last(Stopped)
    assert event.limit is not None
    assert event.limit.name == "tokens_max"


def test_the_answer_may_be_no_longer_than_what_is_left_of_the_tokens() -> None:
    """``max_tokens`` shrinks before the budget is broken."""
    story = thinking().finish_model(reply(call("look"), usage=Usage(fresh_in=44_000))).finish_tools(look=OK)
    start = story.last(ModelStarted)
    assert 256 <= start.output_tokens_max < 4_096
    assert story.run.tokens + start.input_tokens_max + start.output_tokens_max <= 50_000


def test_the_answer_of_one_call_is_bounded() -> None:
    """``model_output_tokens_max`` bounds what the model's own limit allows."""
    assert thinking(model_output_tokens_max=300).last(ModelStarted).output_tokens_max == 300


def test_the_deadline_of_a_call_reaches_the_caller() -> None:
    """``model_deadline_s`` is in ``done_by`` and in the request."""
    story = thinking(model_deadline_s=7.0)
    event = story.last(ModelStarted)
    assert event.done_by - event.start_by == timedelta(seconds=12)
    assert story.planner.prepare(story.run, event, story.planner_facts).request.deadline_s == 7.0


@pytest.mark.parametrize("kind", ["availability", "rate_limit", "malformed", "truncated", "unknown", "cancelled"])
def test_a_passing_failure_is_retried_after_one_two_and_four_seconds(kind: FailureClass) -> None:
    """Three retries, each at most a quarter early or late; then the model is down."""
    story = thinking()
    for attempt, pause in ((2, 1.0), (3, 2.0), (4, 4.0)):
        story.finish_model(ModelFailed(kind, "no"))
        story.advance_s(pause * 0.74).when("planner").expect_nothing()
        event = retried(story, pause * 0.52)
        assert (event.turn, event.attempt) == (1, attempt)
    story.finish_model(ModelFailed(kind, "no"))
    assert story.last(Stopped).code == "model_down"
    assert "after 4 attempts; the last one: no" in story.last(Stopped).why


def test_a_run_that_allows_no_model_retries_makes_none() -> None:
    """``model_retries_max`` 0: one attempt."""
    assert thinking(model_retries_max=0).finish_model(DOWN).last(Stopped).code == "model_down"


@pytest.mark.parametrize(("kind", "code"), [("refusal", "refusal"), ("permanent", "model_down")])
def test_a_failure_that_cannot_pass_ends_the_run(kind: FailureClass, code: str) -> None:
    """A refusal or a rejected request is not tried again."""
    story = thinking().finish_model(ModelFailed(kind, "no, never"))
    assert (story.last(Stopped).code, story.last(Stopped).why) == (code, "no, never")
    assert story.last(Sealed).cause == "model"


def test_a_retry_waits_as_long_as_the_provider_asked() -> None:
    """``retry_after_s`` goes before our own pauses, for whatever it asks."""
    story = thinking().finish_model(ModelFailed("rate_limit", "slow down", retry_after_s=30))
    story.advance_s(29.9).when("planner").expect_nothing()
    assert retried(story, 0.1).attempt == 2


def test_a_pause_of_a_million_years_is_bounded() -> None:
    """A provider's header cannot move a run beyond the calendar."""
    story = thinking(model_wait_max_s=30 * 86_400, wall_s=30 * 86_400, run_max_s=30 * 86_400)
    story.advance_s(1).given(*story.planner_events(ModelFailed("rate_limit", "slow down", retry_after_s=1e300)))
    start = next_start(story.run, story.now)
    assert isinstance(start, Exhausted)
    assert "asks to wait 2.592e+06 s, and the run has less time left" in start.why


@pytest.mark.parametrize("kind", ["availability", "rate_limit"])
def test_a_model_that_is_down_is_replaced_by_the_next_one_visibly(kind: FailureClass) -> None:
    """The fallback is a start of its own that names whom it stands in for, at its own price."""
    story = Story(agent(fallbacks=(SPARE,), limits={"model_retries_max": 0})).open_run().run_until_idle()
    event = story.finish_model(ModelFailed(kind, "down")).last(ModelStarted)
    assert (event.model, event.fallback_of, event.attempt) == ("playbook/small", "playbook/large", 2)
    assert event.cost_max_micros == SPARE.price.cost_max_micros(event.input_tokens_max, event.output_tokens_max)
    assert story.planner.prepare(story.run, event, story.planner_facts).price == SPARE.price
    assert story.finish_model(DOWN).last(Stopped).code == "model_down"


def test_a_fallback_is_retried_as_often_as_the_first_model() -> None:
    """And each of its attempts names the model that it replaces."""
    story = (
        Story(agent(fallbacks=(SPARE,), limits={"model_retries_max": 1})).open_run().run_until_idle().finish_model(DOWN)
    )
    assert retried(story, 2).fallback_of == ""
    assert story.finish_model(DOWN).last(ModelStarted).fallback_of == "playbook/large"
    story.finish_model(DOWN)
    assert (retried(story, 2).fallback_of, story.last(ModelStarted).attempt) == ("playbook/large", 4)


@pytest.mark.parametrize("kind", ["malformed", "truncated", "unknown"])
def test_only_an_unavailable_model_is_replaced(kind: FailureClass) -> None:
    """A model whose replies are bad is not replaced."""
    story = Story(agent(fallbacks=(SPARE,), limits={"model_retries_max": 0})).open_run().run_until_idle()
    assert story.finish_model(ModelFailed(kind, "bad")).last(Stopped).code == "model_down"


@pytest.mark.parametrize(("choice", "code"), [("fail", "model_down"), ("hand_off", "handed_off")])
def test_an_agent_that_does_not_fall_back_ends_as_configured(choice: str, code: str) -> None:
    """``on_model_down``: fail, or hand over to a person."""
    version = agent(fallbacks=(SPARE,), on_model_down=choice, limits={"model_retries_max": 0})
    assert Story(version).open_run().run_until_idle().finish_model(DOWN).last(Stopped).code == code


def test_an_agent_that_queues_asks_again_until_a_model_answers() -> None:
    """``on_model_down = queue``: after a minute, then after twice as long each time, up to an hour."""
    story = Story(agent(on_model_down="queue", limits={"model_retries_max": 0})).open_run().run_until_idle()
    for attempt, pause_s in enumerate((60, 120, 240, 480, 960, 1_920, 3_600, 3_600), 2):
        story.finish_model(DOWN).advance_s(pause_s - 1).when("planner").expect_nothing()
        assert retried(story, 1).attempt == attempt
    assert story.finish_model(reply()).last(Sealed).status == "completed"


def test_time_spent_queueing_for_a_model_is_not_active_time() -> None:
    """The wall time counts work: neither the pauses nor the attempts that reach no model count."""
    story = Story(agent(on_model_down="queue", limits={"model_retries_max": 0})).open_run().run_until_idle()
    story.advance_s(30).finish_model(DOWN)
    assert story.active_s() == 30
    story.advance_s(60).run_until_idle().advance_s(100)
    assert story.run.phase == "thinking"
    assert story.active_s() == 30
    assert "wall" not in {deadline.name for deadline in deadlines(story.run, story.now)}
    story.finish_model(DOWN).advance_s(120).run_until_idle().advance_s(50).finish_model(reply(call("look")))
    assert story.active_s() == 30
    story.advance_s(10)
    assert story.active_s() == 40


def test_the_retries_before_queueing_are_active_time() -> None:
    """Only what comes after them is a wait."""
    story = Story(agent(on_model_down="queue", limits={"model_retries_max": 1})).open_run().run_until_idle()
    story.advance_s(20).finish_model(DOWN).advance_s(5).run_until_idle().finish_model(DOWN)
    assert story.active_s(3_600) == 21


def test_no_call_outlives_the_time_of_its_run() -> None:
    """The ``done_by`` of a request is bounded by the run's wall time, and its deadline by what is left of that."""
    story = at_work(call("look")).advance_s(10).finish_tools(look=OK)
    event = story.last(ModelStarted)
    assert event.done_by == NOW + timedelta(seconds=125)
    assert story.planner.prepare(story.run, event, story.planner_facts).request.deadline_s == 111
    short = Story(agent(limits={"wall_s": 3})).open_run().run_until_idle()
    assert short.planner.prepare(short.run, short.last(ModelStarted), short.planner_facts).request.deadline_s == 6


def test_a_run_without_time_starts_no_model_and_names_the_reason() -> None:
    """A call that failed is not repeated when the run's wall time is used up; the code says why."""
    story = Story().open_run().run_until_idle().advance_s(120)
    story.given(*story.planner_events(DOWN))
    found = next_start(story.run, story.now, "other#1")
    assert isinstance(found, Exhausted)
    assert (found.code, found.why) == ("model_down", out_of_time(story.run).why)
    story.when("planner").then(Stopped, code="model_down", why=out_of_time(story.run).why)
    sealed = story.run_until_idle().last(Sealed)
    assert (sealed.status, sealed.cause) == ("failed", "model")


def test_a_lost_call_took_no_time_of_its_run() -> None:
    """No process worked on the run: the worker that takes over has all the time that was left."""
    story = Story().open_run().run_until_idle().advance_s(200)
    taken_over = story.when("planner").then(ModelStarted, attempt=2)
    assert taken_over.done_by == story.now + timedelta(seconds=125)
    assert story.run.active_s(story.now) == 1.0


def test_a_restarted_worker_reports_its_predecessors_request_as_lost_before_its_deadline() -> None:
    """The planner reports the lost request, so budget holds for the next attempt long before ``done_by``."""
    cost = next_cost(Story().open_run())
    story = Story(agent(limits={"cost_max_micros": 3 * cost})).open_run()
    story.given(Held(hold="acme.r1.1", amount_micros=cost, release_after=story.now)).run_until_idle()
    assert story.run.available_micros == 0
    next_life = Worker(id="w#2")
    story.facts = (PinnedAgent(version=story.version), next_life)
    story.advance_s(1).when("planner").then(ModelFailedEvent, kind="unknown", possibly_billed=True, charged_micros=cost)
    story.when("budget").then(Held)
    again = story.advance_s(2).when("planner").then(ModelStarted, attempt=2, worker="w#2")
    assert again.done_by > story.now
    assert story.now - NOW < timedelta(seconds=5)


def test_a_request_of_a_live_worker_is_not_reported_as_lost() -> None:
    """Another worker, or the same incarnation, leaves it alone until its end."""
    cost = next_cost(Story().open_run())
    story = Story().open_run()
    story.given(Held(hold="acme.r1.1", amount_micros=cost, release_after=story.now)).run_until_idle()
    for worker in (WORKER, "v#9"):
        story.facts = (PinnedAgent(version=story.version), Worker(id=worker))
        story.when("planner").expect_nothing()


def test_a_later_incarnation_takes_over_at_once() -> None:
    """A worker's name is locked by one process, so a later incarnation knows that the earlier one is dead."""
    story = thinking()
    event = story.when("planner", Worker(id="w#2")).then(ModelStarted, attempt=2, worker="w#2")
    assert event.turn == 1
    assert story.run.spent_micros == event.cost_max_micros


@pytest.mark.parametrize("worker", ["w#1", "v#2", "w", "w#x", "w#0"])
def test_no_other_worker_takes_over_before_the_end(worker: str) -> None:
    """Another name, the same incarnation, or a missing one proves nothing."""
    thinking().when("planner", Worker(id=worker)).expect_nothing()


def test_a_takeover_that_the_log_does_not_allow_is_ignored() -> None:
    """The fold checks it as well, whichever process wrote it."""
    story = thinking()
    second = msgspec.structs.replace(story.last(ModelStarted), attempt=2, worker="v#9")
    assert story.append("planner", second).ignored == "attempt 1 of turn 1 is still open"


def test_any_worker_takes_over_past_the_end() -> None:
    """After ``done_by`` the request is repeated."""
    story = thinking(**LONG).advance_s(130)
    story.when("planner", Worker(id="v#1")).then(ModelStarted, attempt=2)


def test_a_lost_request_of_an_ended_run_is_reported() -> None:
    """The worker that made it is gone: it is charged in full, so that the run can be settled."""
    story = thinking().given(Stopped(by="bob", why="enough"), by="operator")
    story.when("planner").expect_nothing()
    cost = story.last(ModelStarted).cost_max_micros
    story.when("planner", Worker(id="w#2")).then(ModelFailedEvent, kind="unknown", charged_micros=cost)
    assert story.run_until_idle().last(Sealed).totals.cost_micros == cost


def test_an_answer_becomes_a_proposal_with_its_cost() -> None:
    """The calls as the model wrote them; final if it made none."""
    story = thinking()
    event = story.planner_events(reply(call("look", '{"q": 1}', id="a"), text="let me see", request_id="req"))[0]
    assert isinstance(event, Proposed)
    assert event.calls == (ProposedCall(call="a", tool="look", args='{"q": 1}'),)
    assert (event.final, event.cost_micros, event.request_id, event.usage_source) == (False, 200, "req", "reported")
    final = story.planner_events(reply(text="42"))[0]
    assert isinstance(final, Proposed)
    assert (final.final, final.text) == (True, "42")


def test_an_answer_without_usage_is_charged_at_its_reservation() -> None:
    """We do not guess what was billed."""
    story = thinking().finish_model(reply(usage_reported=False))
    assert story.run.spent_micros == story.last(ModelStarted).cost_max_micros
    assert story.last(Proposed).usage_source == "reserved"


def test_call_ids_are_unique_in_the_run() -> None:
    """An id that is used, empty or too long becomes one of ours, and its blocks are not sent again."""
    story = thinking().finish_model(reply(call("look", id="a"))).finish_tools(a=OK)
    ids = ("a", "", "b", "b", "c" * (CALL_ID_CHARS_MAX + 1))
    event = story.planner_events(
        reply(*(ToolCall(id=i, name="look", args="{}") for i in ids), blocks=({"type": "text"},))
    )[0]
    assert isinstance(event, Proposed)
    names = [line.call for line in event.calls]
    assert names == ["call-2-1-1", "call-2-1-2", "b", "call-2-1-4", "call-2-1-5"]
    assert event.blocks == ""


def test_a_providers_blocks_are_stored_with_the_providers_name() -> None:
    """They are re-sent unmodified to the same provider only."""
    event = thinking().planner_events(reply(text="hm", blocks=({"type": "thinking", "x": 1},)))[0]
    assert isinstance(event, Proposed)
    assert (event.blocks, event.blocks_of) == ('[{"type":"thinking","x":1}]', "playbook")


def test_a_start_names_the_parameters_that_are_sent() -> None:
    """Those of the agent's version, as they are sent to the provider."""
    story = Story(agent(params={"temperature": 0.5, "stop": ["x"]})).open_run().run_until_idle()
    start = story.last(ModelStarted)
    assert start.params == {"temperature": 0.5, "stop": ["x"]}
    assert story.planner.prepare(story.run, start, story.planner_facts).request.params == start.params


def test_a_proposal_whose_call_ids_are_used_is_ignored() -> None:
    """The fold tells calls apart by their id."""
    story = thinking().finish_model(reply(call("look", id="a"))).finish_tools(a=OK)
    twice = Proposed(turn=2, attempt=1, calls=(ProposedCall(call="a", tool="look", args="{}"),))
    assert "an id was used before" in story.append("planner", twice).ignored


def test_a_cancelled_call_is_charged_once_it_had_begun() -> None:
    """A call whose first byte never left costs nothing."""
    story = thinking()
    start = story.last(ModelStarted)
    work = story.planner.prepare(story.run, start, story.planner_facts)
    no_results: frozenset[tuple[str, int]] = frozenset()
    begun = story.planner.report_cancelled(work, no_results, begun=True)[0]
    not_begun = story.planner.report_cancelled(work, no_results, begun=False)[0]
    assert isinstance(begun, ModelFailedEvent)
    assert isinstance(not_begun, ModelFailedEvent)
    assert (begun.kind, begun.charged_micros, begun.possibly_billed) == ("cancelled", start.cost_max_micros, True)
    assert (not_begun.charged_micros, not_begun.possibly_billed) == (0, False)
    assert story.planner.report_cancelled(work, frozenset({("", 1)}), begun=True) == []


def test_a_late_answer_after_a_stop_is_recorded_and_changes_nothing_else() -> None:
    """Results are legal after a stop: the cost counts, the calls are not made."""
    story = thinking().given(Stopped(by="bob", why="enough"), by="operator").finish_model(reply(call("look")))
    assert (story.run.spent_micros, story.run.calls) == (200, {})
    assert story.last(Sealed).totals.tokens == 120


def test_a_late_answer_after_the_seal_is_amended() -> None:
    """The superseded attempt was charged; its real cost comes afterwards."""
    story = thinking(**LONG)
    first = story.open_model()
    story.advance_s(130).run_until_idle().finish_model(reply())
    assert story.run.phase == "sealed"
    before = story.run.spent_micros
    story.finish_model(reply(call("look")), n=first)
    assert story.event_names()[-2:] == ["planner.proposed", "recorder.amended"]
    assert story.run.spent_micros < before
