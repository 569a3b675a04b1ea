"""A run that reaches a limit does not end without a summary."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import MODEL, OK, RUN, SPARE, TENANT, Story, agent, at_work, call, contract, refolded, reply

from linestop.bus.run_outcomes_and_alerts import alert_for_event, encode_outcome
from linestop.schemas.defaults import FALLBACK_FIRST_S
from linestop.schemas.events import (
    Accepted,
    LimitHit,
    ModelChoice,
    ModelStarted,
    Proposed,
    Sealed,
    Settled,
    Stopped,
    Warned,
)
from linestop.schemas.model_messages import ModelFailed, Usage
from linestop.schemas.run.starting.next_start import out_of_time
from linestop.schemas.verify.check_log import verify


def seal_after_closing_turn(story: Story, text: str = "So far: one look, and it was fine.") -> Sealed:
    """The seal of a run that is in its closing turn, after the model has summed up."""
    start = story.last(ModelStarted)
    assert start.purpose == "close"
    assert start.limit is not None
    sealed = story.finish_model(reply(text=text)).last(Sealed)
    assert verify(TENANT, RUN, story.messages).problems == ()
    assert (sealed.partial, sealed.partial_is) == (text, "summary")
    assert story.last(Stopped).limit == start.limit
    assert len([e for e in story.run.entries if isinstance(e.event, Stopped)]) == 1
    return sealed


def test_out_of_turns_the_model_sums_up_without_tools() -> None:
    """One turn beyond ``turns_max``; the outcome says that this is not the answer."""
    story = at_work(call("look"), version=agent(limits={"turns_max": 1})).finish_tools(look=OK)
    view = story.planner.prepare(story.run, story.last(ModelStarted), story.planner_facts)
    assert view.request.tools == ()
    assert "limit 'turns_max'" in view.request.messages[-1].text
    sealed = seal_after_closing_turn(story)
    assert sealed.status == "failed"
    assert story.run.tokens == refolded(story).tokens
    published = msgspec.json.decode(encode_outcome(story.run, sealed))
    assert (published["partial"], published["partial_is"]) == (sealed.partial, "summary")


def test_out_of_tokens_the_model_sums_up() -> None:
    """The next turn no longer fits, but the shorter closing turn does."""
    version = agent(limits={"tokens_max": 16_000})
    story = at_work(call("look"), version=version).finish_tools(look=msgspec.structs.replace(OK, value="y" * 5_000))
    story.given(*story.planner_events(reply(call("look", '{"q":"b"}', id="b"), usage=Usage(fresh_in=1_800, out=200))))
    story.run_until_idle().finish_tools(b=msgspec.structs.replace(OK, value="z" * 9_000))
    seal_after_closing_turn(story)
    assert story.run.tokens <= 16_000


def test_out_of_money_the_model_sums_up() -> None:
    """A call that is too dear is not made; the model is alert so and sums up."""
    version = agent(tools=(contract("rent", price_micros=400_000),))
    story = at_work(call("rent"), version=version).finish_tools(rent=msgspec.structs.replace(OK, cost_micros=400_000))
    story.finish_model(reply(call("rent", '{"q":"b"}', id="more")))
    view = story.planner.prepare(story.run, story.last(ModelStarted), story.planner_facts)
    assert view.request.messages[-2].text.startswith("(not made")
    assert seal_after_closing_turn(story).status == "over_budget"


@pytest.mark.parametrize("spare", [SPARE, msgspec.structs.replace(MODEL, base_url="http://127.0.0.1:9/v1")])
def test_the_model_that_answered_last_sums_up(spare: ModelChoice) -> None:
    """A fallback too, however long after the first model was down: its count of the prompt is known."""
    story = Story(agent(fallbacks=(spare,), on_model_down="fall_back", limits={"turns_max": 1, "wall_s": 1_000}))
    story.open_run().run_until_idle()
    for _ in range(4):
        story.finish_model(ModelFailed("availability", "down")).advance_s(10).run_until_idle()
    story.given(*story.planner_events(reply(call("look")))).run_until_idle().advance_s(
        2 * FALLBACK_FIRST_S
    ).finish_tools(look=OK)
    start = story.last(ModelStarted)
    assert (start.model, start.base_url) == (spare.model, spare.base_url)
    seal_after_closing_turn(story)


def test_a_model_without_another_try_is_not_asked_to_sum_up() -> None:
    """If the next model's window is too small for the conversation, the results are listed."""
    narrow = msgspec.structs.replace(SPARE, window_tokens=1_000)
    version = agent(prompt="x" * 4_000, fallbacks=(narrow,), on_model_down="fall_back", limits={"wall_s": 1_000})
    story = at_work(call("look"), version=version).finish_tools(look=OK)
    for _ in range(4):
        story.finish_model(ModelFailed("availability", "down")).advance_s(10).run_until_idle()
    assert not [e for e in story.run.entries if isinstance(e.event, ModelStarted) and e.event.purpose == "close"]
    limit = story.last(Stopped).limit
    assert limit is not None
    assert (limit.name, limit.max_value) == ("window_tokens", 1_000)
    assert story.last(Sealed).partial_is == "results"
    assert verify(TENANT, RUN, story.messages).problems == ()


def test_a_tools_own_limit_is_named_and_not_the_rejections_it_led_to() -> None:
    """The first reason, not the last."""
    version = agent(tools=(contract("look", calls_max=1),), limits={"rejections_max": 2})
    story = at_work(call("look"), version=version).finish_tools(look=OK)
    for n in range(2):
        story.finish_model(reply(call("look", f'{{"q":"{n}"}}', id=f"c{n}")))
    seal_after_closing_turn(story)
    assert story.last(Stopped).limit == LimitHit(name="calls_max of look", value=2, max_value=1)


def test_rejections_without_a_limit_are_named_as_such() -> None:
    """A model that ignores the schema reached ``rejections_max`` alone."""
    story = Story(agent(limits={"rejections_max": 2})).open_run().run_until_idle()
    for n in range(2):
        story.finish_model(reply(call("nothing", id=f"c{n}")))
    limit = story.last(Stopped).limit
    assert limit == LimitHit(name="rejections_max", value=2, max_value=2)


def test_without_a_result_there_is_no_closing_turn() -> None:
    """There is nothing to sum up: the model's last text becomes the partial answer."""
    story = Story(agent(limits={"turns_max": 1})).open_run().run_until_idle()
    story.finish_model(reply(call("nothing"), text="I shall look."))
    sealed = story.last(Sealed)
    assert (sealed.partial, sealed.partial_is) == ("I shall look.", "words")


@pytest.mark.parametrize("failed", [True, False])
def test_the_results_are_listed_by_name_if_no_closing_turn_fits_or_if_it_fails(failed: bool) -> None:
    """The outcome names the results and their events."""
    limits = {"turns_max": 1} if failed else {"tokens_max": 12_000}
    story = at_work(call("look"), call("note"), version=agent(limits=limits)).finish_tools(look=OK, note=OK)
    if failed:
        story.finish_model(ModelFailed("availability", "HTTP 503"))
    else:
        story.finish_model(reply(call("look", '{"q":"b"}', id="b"), usage=Usage(fresh_in=11_000, out=900)))
        story.finish_tools(b=OK)
    sealed, calls = story.last(Sealed), story.run.calls
    assert sealed.partial_is == "results"
    named = ", ".join(f"{c.tool} (event {c.finished_n})" for c in calls.values() if c.finished_n)
    assert sealed.partial == f"Results so far: {named}."


def test_after_the_closing_turn_nothing_starts() -> None:
    """The fold ignores every later start."""
    story = at_work(call("look"), version=agent(limits={"turns_max": 1})).finish_tools(look=OK)
    start = story.last(ModelStarted)
    story.given(*story.planner_events(reply(text="So far.")))
    again = msgspec.structs.replace(start, turn=3, purpose="turn")
    assert story.append("planner", again).ignored == "the run has had its closing turn"


def test_a_call_in_the_closing_answer_is_dropped() -> None:
    """The closing request offers no tools."""
    story = at_work(call("look"), version=agent(limits={"turns_max": 1})).finish_tools(look=OK)
    story.finish_model(reply(call("look", '{"q":"c"}', id="c"), text="So far."))
    assert story.last(Proposed).calls == ()
    assert "c" not in story.run.calls
    assert story.last(Sealed).partial == "So far."


def test_the_final_answer_in_the_last_event_for_new_work_is_accepted() -> None:
    """Event 1,950 is the last that new work may use, and an answer is not new work."""
    story = Story().open_run().run_until_idle()
    for value in range(story.run.n, 1_949):
        story.append("budget", Warned(limit=f"x{value}", value=value, max_value=1))
    story.given(*story.planner_events(reply(text="done")))
    assert story.run.n == 1_950
    for role in ("planner", "budget", "approver", "executor"):
        story.when(role).expect_nothing()
    story.when("validator").then(Accepted)
    assert story.run_until_idle().last(Sealed).status == "completed"


def test_the_failure_of_the_model_is_named_and_not_the_time_it_took() -> None:
    """The outcome of a run that waited for a 503 until its time was up names the 503."""
    story = Story(agent(limits={"wall_s": 20, "model_retries_max": 9})).open_run().run_until_idle()
    story.finish_model(ModelFailed("availability", "HTTP 503: overloaded", status=503))
    over = out_of_time(story.run)
    assert over.code == "model_down"
    assert "1 attempt within the 20 s" in over.why
    assert "HTTP 503: overloaded" in over.why


@pytest.mark.parametrize("tenths", range(24, 60, 2))
@pytest.mark.parametrize("calls", [1, 6])
def test_money_is_left_for_the_closing_turn(tenths: int, calls: int) -> None:
    """Whatever the cost limit is, a run with a result that reaches it sums up, and stays within it."""
    first = Story(agent()).open_run().run_until_idle().last(ModelStarted).cost_max_micros
    limits = {
        "cost_max_micros": first * tenths // 10,
        "turns_max": 100,
        "calls_max": 500,
        "calls_per_tool_max": 500,
        "tokens_max": 2_000_000,
        "wall_s": 10_000,
        "compactions_max": 0,
    }
    story = Story(agent(limits=limits)).open_run().run_until_idle()
    n = 0
    while story.last(ModelStarted).purpose == "turn":
        n += 1
        start = story.last(ModelStarted)
        usage = Usage(fresh_in=story.run.context_bytes // 3, out=start.output_tokens_max)
        calls_of_turn = [call("look", f'{{"q":"{n}-{i}"}}', id=f"c{n}x{i}") for i in range(calls)]
        story.finish_model(reply(*calls_of_turn, usage=usage))
        story.finish_tools(**{f"c{n}x{i}": msgspec.structs.replace(OK, value="y" * 40) for i in range(calls)})
        assert n < 60
    assert seal_after_closing_turn(story).status == "over_budget"
    assert story.run.spent_micros <= story.run.limits.cost_max_micros


def test_a_call_that_is_too_dear_leaves_money_for_the_closing_turn() -> None:
    """The price of a tool does not use up the money of the closing turn, with the notes for all calls not made."""
    limits = {"cost_max_micros": 500_000, "turns_max": 20}
    story = at_work(call("rent"), version=agent(tools=(contract("rent", price_micros=100_000),), limits=limits))
    story.finish_tools(rent=msgspec.structs.replace(OK, cost_micros=100_000))
    for n in range(4):
        if story.last(ModelStarted).purpose != "turn":
            break
        story.finish_model(reply(*(call("rent", f'{{"q":"{n}-{i}"}}', id=f"c{n}x{i}") for i in range(2))))
        paid = {
            name: msgspec.structs.replace(OK, cost_micros=100_000)
            for name, c in story.run.calls.items()
            if c.open_attempt
        }
        story.finish_tools(**paid)
    assert seal_after_closing_turn(story).status == "over_budget"
    assert story.run.spent_micros <= 500_000


def over_reporting(times: int) -> Story:
    """Return a run whose provider reports many times the usage that its last request could have."""
    story = at_work(call("look")).finish_tools(look=OK)
    start = story.last(ModelStarted)
    return story.finish_model(reply(text="Done.", usage=Usage(fresh_in=start.input_tokens_max * times, out=9)))


@pytest.mark.parametrize("times", [12, 200])
def test_run_accounts_and_verify_agree_on_the_sum_of_a_provider_that_reports_too_much(times: int) -> None:
    """All charge the reported usage, within the holds and beyond them; the checker names the model."""
    story = over_reporting(times)
    settled, spent = story.last(Settled), story.run.spent_micros
    assert (
        sum(line.spent_micros for line in settled.holds) == sum(line.cost_micros for line in settled.by_event) == spent
    )
    assert story.last(Sealed).totals.cost_micros == spent
    problems = [problem.sentence for problem in verify(TENANT, RUN, story.messages).problems]
    assert len(problems) == 1
    assert f"'{MODEL.model}' reported more than was reserved" in problems[0]


def test_a_provider_that_reports_too_much_is_named_in_an_alert() -> None:
    """There is one alert, with the reserved and the charged amount."""
    story = over_reporting(12)
    found = [
        each
        for entry in story.run.entries
        if (each := alert_for_event(story.run, entry)) and each.kind == "over-reservation"
    ]
    assert len(found) == 1
    alert = msgspec.json.decode(found[0].payload)
    assert alert["model"] == MODEL.model
    assert alert["why"].startswith(f"'{MODEL.model}' reported usage of $")
    assert alert["event"]["usage"]["out"] == 9
    quiet = at_work(call("look")).finish_tools(look=OK).finish_model(reply(text="Done."))
    assert not [e for e in quiet.run.entries if (a := alert_for_event(quiet.run, e)) and a.kind == "over-reservation"]
