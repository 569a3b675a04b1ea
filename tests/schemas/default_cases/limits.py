"""What the limits of a run do to it."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.schemas.default_cases import Cases

if TYPE_CHECKING:
    from tests.builders import Story

CASES = Cases()
case = CASES.case
PLAIN = dict[str, Any]


def events(story: Story) -> list[tuple[str, PLAIN]]:
    """The events after the first, without what chains them to it: only the first lists the limits."""
    import msgspec

    seen: list[tuple[str, PLAIN]] = []
    for entry in story.run.entries[1:]:
        fields: PLAIN = msgspec.json.decode(msgspec.json.encode(entry.event))
        seen.append((entry.name, {key: value for key, value in fields.items() if key not in {"id", "prev"}}))
    return seen


def begun(task: str = "order 4711", **fields: Any) -> Story:
    """A run whose first model request is in progress."""
    from tests.builders import Story, agent

    from linestop.schemas.messages import Task

    return Story(agent(**fields), task=Task(text=task, user="ann")).open_run().run_until_idle()


def busy(turns: int = 22, *, equal: bool = False, tokens: int = 100, **fields: Any) -> Story:
    """A run that looks something up in every turn, until it is over."""
    from tests.builders import OK, call, reply

    from linestop.schemas.model_messages import Usage

    story = begun(**fields)
    for turn in range(turns):
        name = f"c{turn}"
        query = '{"q":"order 4711"}' if equal else f'{{"q":"{turn}"}}'
        if story.run.done or not story.run.model_attempt:
            break
        story.finish_model(reply(call("look", query, id=name), usage=Usage(fresh_in=tokens, out=20)))
        if name in story.run.calls and story.run.calls[name].open_attempt:
            story.finish_tools(**{name: OK})
    return story


@case("Limits.turns_max", "2")
@case("Limits.calls_per_tool_max", "2")
@case("Limits.tokens_max", "6_000")
@case("Limits.cost_max_micros", "40_000")
@case("Limits.warn_percent", "2")
@case("Limits.events_max", "75")
@case("Limits.model_output_tokens_max", "300")
@case("Limits.model_deadline_s", "10.0")
@case("EVENTS_RESERVED", "1_980")
@case("STARTS_PER_HOLD", "1")
@case("START_WITHIN_S", "1.0")
@case("TOOL_GRACE_S", "1.0")
@case("MODEL_GRACE_S", "1.0")
@case("TOKEN_OVERHEAD", "10")
def a_busy_run() -> object:
    """A lookup in every turn."""
    return events(busy())


@case("Limits.calls_max", "2")
def two_tools() -> object:
    """A call of each of several tools."""
    from tests.builders import OK, call, reply

    story = begun()
    for name in ("look", "note", "weigh"):
        story.finish_model(reply(call(name))).finish_tools(**{name: OK})
    return events(story)


@case("Limits.equal_calls_max", "2")
def the_same_again() -> object:
    """The same call with the same result."""
    return events(busy(4, equal=True))


@case("Limits.rejections_max", "1")
def an_unknown_tool() -> object:
    """A call of a tool that does not exist."""
    from tests.builders import call, reply

    return events(begun().finish_model(reply(call("fly"))))


@case("Limits.returned_max", "0")
def an_empty_answer() -> object:
    """A final answer without text."""
    from tests.builders import reply

    return events(begun().finish_model(reply(text=" ")))


@case("Limits.proposal_calls_max", "1")
def two_calls_at_once() -> object:
    """An answer with two calls."""
    from tests.builders import call, reply

    return events(begun().finish_model(reply(call("look"), call("note"))))


@case("Limits.ask_from_micros", "10")
def spending_that_needs_a_person() -> object:
    """A run whose policy asks before it spends much."""
    from linestop.schemas.events import Policy

    return events(begun(policy=Policy(ask_on_spend=True)))


@case("Limits.wall_s", "10")
def a_slow_model() -> object:
    """An answer that takes half a minute."""
    from tests.builders import call, reply

    story = begun().advance_s(30)
    return events(story.finish_model(reply(call("look"))))


@case("Limits.run_max_s", "600")
@case("Limits.approval_expires_s", "600")
def a_question_that_waits() -> object:
    """A payment that nobody decides about for half an hour."""
    from tests.builders import call, reply

    story = begun().finish_model(reply(call("pay")))
    return events(story.advance_s(1_800).run_until_idle())


@case("Limits.input_chars_max", "5")
def a_task() -> object:
    """A task of ten characters."""
    return [entry.name for entry in begun().run.entries]


@case("Limits.tool_timeout_s", "9.0")
@case("Limits.tool_retries_max", "0")
def a_tool_that_names_neither_timeout_nor_retries() -> object:
    """Its first attempt fails."""
    from tests.builders import call, reply

    from linestop.sandbox.tools.decorator import Context, tool
    from linestop.schemas.tool_contracts import ToolError, ToolResult

    @tool(tier="read")
    async def search(ctx: Context, q: str) -> str:
        """Search."""
        return f"{ctx.run}{q}"

    failed = ToolResult(outcome="failed", error=ToolError(type="transient", message="busy", retry_safe=True))
    story = begun(tools=(search.contract,)).finish_model(reply(call("search")))
    return events(story.finish_tools(search=failed).advance_s(2).run_until_idle())


@case("Limits.model_retries_max", "0")
@case("MODEL_RETRY_DELAYS_S", "(0.1,)")
@case("RETRY_JITTER", "0.9")
def a_model_that_is_down() -> object:
    """Its first attempt fails; a second and a half pass."""
    from linestop.schemas.model_messages import ModelFailed
    from linestop.schemas.run.deadlines import deadlines

    story = begun().finish_model(ModelFailed("availability", "down"))
    return events(story), [str(each.at) for each in deadlines(story.run, story.now)]


@case("Limits.model_wait_max_s", "10.0")
def a_model_that_asks_to_wait() -> object:
    """For 20 seconds."""
    from linestop.schemas.model_messages import ModelFailed

    return events(begun().finish_model(ModelFailed("rate_limit", "slow down", status=429, retry_after_s=20.0)))


@case("RETRY_AFTER_MAX_S", "10.0")
def a_model_that_asks_to_wait_long() -> object:
    """For an hour, of a run that may wait that long."""
    from linestop.schemas.model_messages import ModelFailed
    from linestop.schemas.run.deadlines import deadlines

    story = begun(limits={"model_wait_max_s": 7_200.0})
    story.finish_model(ModelFailed("rate_limit", "slow down", status=429, retry_after_s=3_600.0))
    return events(story), [str(each.at) for each in deadlines(story.run, story.now)]


@case("FALLBACK_FIRST_S", "0.0")
def a_fallback_that_answered() -> object:
    """Which model is asked in the turn after it."""
    from tests.builders import OK, SPARE, call, reply

    from linestop.schemas.model_messages import ModelFailed

    story = begun(fallbacks=(SPARE,), on_model_down="fall_back", limits={"model_retries_max": 0})
    story.finish_model(ModelFailed("availability", "down")).advance_s(1).run_until_idle()
    story.finish_model(reply(call("look"), model="small")).finish_tools(look=OK)
    return events(story)


@case("Limits.result_bytes_max", "100")
def a_long_result() -> object:
    """A result of 300 bytes."""
    from tests.builders import call, reply

    from linestop.schemas.tool_contracts import ToolResult

    story = begun().finish_model(reply(call("look")))
    return events(story.finish_tools(look=ToolResult(outcome="succeeded", value="x" * 300)))


@case("Limits.compactions_max", "0")
@case("COMPACT_AT_WINDOW", "0.99")
@case("COMPACT_FACTOR_MIN", "3")
def a_long_conversation() -> object:
    """Two long results of a model with a small window."""
    from tests.actors.test_compaction import grown, long_story

    return events(grown(long_story(), 2))


@case("COMPACT_AT_TOKENS", "0.2")
@case("COMPACT_TOKENS_LEFT_FACTOR", "50")
def a_conversation_that_has_used_its_tokens() -> object:
    """Two long results; the second answer took as many tokens as are named."""
    from tests.actors.test_compaction import BIG, ROOMY, grown
    from tests.builders import Story, agent, call, reply

    from linestop.schemas.model_messages import Usage

    purposes: list[str] = []
    for tokens_max, used in ((60_000, 20_000), (80_000, 50_000)):
        story = grown(Story(agent(limits={**ROOMY, "tokens_max": tokens_max})).open_run().run_until_idle(), 1)
        usage = Usage(fresh_in=story.run.context_bytes // 4, out=used)
        story.finish_model(reply(call("look", id="r"), usage=usage)).finish_tools(r=BIG)
        purposes += [attempt.purpose for attempt in story.run.open_attempts]
    return purposes


@case("CLOSING_ANSWER_TOKENS_MAX", "200")
def a_closing_turn() -> object:
    """A run that is out of turns and sums up."""
    return events(busy(2, limits={"turns_max": 1}))


@case("CLOSING_EVENTS", "0")
def a_run_out_of_events() -> object:
    """Whether it sums up."""
    return events(busy(limits={"events_max": 74}))


@case("CLOSING_ANSWER_TOKENS_MIN", "100_000")
@case("ANSWER_TOKENS_MIN", "4_000")
def a_run_with_few_tokens() -> object:
    """What is kept for the closing turn, and what is not worth a request."""
    return events(busy(6, limits={"tokens_max": 30_000}, tokens=3_000))


@case("NOT_BEGUN_DELAY_S", "5.0")
@case("NOT_BEGUN_DELAY_MAX_S", "0.1")
def an_attempt_that_did_not_begin() -> object:
    """When the next one may begin."""
    from linestop.schemas.model_messages import ModelFailed
    from linestop.schemas.run.deadlines import deadlines

    story = begun().finish_model(ModelFailed("cancelled", "too busy", begun=False))
    return [str(each.at) for each in deadlines(story.run, story.now)]


@case("NOT_BEGUN_MAX", "2")
def many_attempts_that_did_not_begin() -> object:
    """Whether the run ends after five."""
    from linestop.schemas.model_messages import ModelFailed

    story = begun(limits={"model_retries_max": 0})
    for _ in range(5):
        if story.run.model_attempt is not None:
            story.finish_model(ModelFailed("cancelled", "too busy", begun=False)).advance_s(40).run_until_idle()
    return story.event_names()


@case("QUEUE_RETRY_MIN_S", "10.0")
@case("QUEUE_RETRY_MAX_S", "20.0")
def a_run_that_queues() -> object:
    """When it asks its model again."""
    from linestop.schemas.model_messages import ModelFailed
    from linestop.schemas.run.deadlines import deadlines

    story = begun(on_model_down="queue", limits={"model_retries_max": 0})
    story.finish_model(ModelFailed("availability", "down"))
    return [str(each.at) for each in deadlines(story.run, story.now)]


@case("WIDENED_MAX", "0")
def a_tool_that_may_do_more() -> object:
    """Its call waits for a person when it is changed."""
    from tests.actors.test_widened_contracts import changed
    from tests.builders import at_gate, call

    story = at_gate(call("pay"))
    return story.run_until_idle(changed("pay", timeout_s=50.0, egress=("q",))).event_names()


@case("REPORTED_EVENTS_MAX", "1")
def two_reported_events() -> object:
    """Before any call waits for them."""
    from tests.builders import refusal

    story = begun().send_control("answer", event="e1", answer={}).append_decided()
    return refusal(story, "answer", event="e2", answer={})


@case("SPACE_FOR_STARTS", "0.1")
@case("SPACE_FOR_NEW_WORK", "0.1")
def a_stream_that_is_half_full() -> object:
    """A task that comes, and a run that goes on."""
    from tests.builders import Story, call, reply

    from linestop.actors.facts import Space

    opened = Story(facts=(Space(used=0.5),)).open_run()
    story = begun()
    story.given(*story.planner_events(reply(call("look")))).when("validator", Space(used=0.5)).append_decided()
    return opened.event_names(), story.event_names()


@case("LABELS_MAX", "1")
@case("LABEL_CHARS_MAX", "3")
@case("MATERIAL_BYTES_MAX", "5")
def a_task_with_labels_and_material() -> object:
    """Whether it is accepted."""
    from tests.builders import Story

    from linestop.schemas.messages import Task

    return Story(task=Task(text="go", labels={"ab": "cd", "ef": "gh"}, material="material")).open_run().event_names()


@case("WAIT_MAX_S", "60")
def a_wait_of_an_hour() -> object:
    """Whether the model may wait that long."""
    from tests.builders import call, reply

    return events(begun().finish_model(reply(call("wait.until", '{"until":3600}'))))


@case("ARGUMENTS_BYTES_MAX", "10")
@case("ARGUMENT_VALUES_MAX", "1")
def arguments() -> object:
    """A call with two values."""
    from tests.builders import contract

    from linestop.schemas.argument_validation import check_arguments

    return check_arguments('{"q":"order 4711","amount":1}', contract("look")).errors


@case("INLINE_BYTES_MAX", "10")
def a_summary() -> object:
    """One that is longer than ten bytes."""
    from tests.actors.test_compaction import grown, long_story
    from tests.builders import reply

    return grown(long_story(), 2).finish_model(reply(text="two looks were made")).event_names()


@case("MONEY_RETRY_S", "5.0")
def a_run_without_money() -> object:
    """When it asks for money again."""
    from datetime import timedelta

    from tests.builders import NOW

    from linestop.schemas.events import Queued
    from linestop.schemas.run.deadlines import deadlines

    story = begun()
    story.run.queued = Queued(need_micros=1, why="", at=NOW)
    return [str(each.at) for each in deadlines(story.run, story.now + timedelta(seconds=1))]


@case("CLOCK_SLACK_S", "0.0")
def a_start_that_stays_open_for_long() -> object:
    """Half a minute longer than its timeout."""
    from datetime import timedelta

    from tests.builders import NOW

    from linestop.schemas.run.rules.opening_limits import lease_too_long

    return lease_too_long(NOW, NOW + timedelta(seconds=40), 5.0)


@case("RUN_DAYS_MAX", "1")
@case("RUNS_DAYS_MAX", "1")
@case("COUNT_MAX", "10")
@case("LIMITS_MAX", "{'wall_s': 10}")
def large_limits() -> object:
    """Which of them are too large."""
    from linestop.schemas.defaults import Limits, excessive_limit

    return [
        excessive_limit(Limits(run_max_s=20 * 86_400)),
        excessive_limit(Limits(approval_expires_s=40 * 86_400)),
        excessive_limit(Limits()),
    ]
