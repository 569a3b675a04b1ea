"""The answers that announce a call instead of making it."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.builders import MODEL, OK, RUN, TENANT, Story, agent, call, reply

from linestop.actors.judging import calls_written_as_text
from linestop.actors.judging.calls_written_as_text import (
    ARGS_CHARS_MAX,
    CALL_CHARS_MAX,
    TAIL_CHARS_MAX,
    narrated_call,
)
from linestop.schemas.events import Accepted, Returned
from linestop.schemas.model_messages import Usage
from linestop.schemas.verify.check_log import verify

if TYPE_CHECKING:
    from _typeshed import TraceFunction

TOOLS = ("pay", "note", "refunds.create", "orders.lookup", "wait.until")

NARRATED = [
    ('I will call pay({"amount": 25}) now', "pay"),
    ('I will call pay({"amount": 25, "to": "ann@example.com"}) now.', "pay"),
    ("I'll call `refunds.create` with order 4711.", "refunds.create"),
    ("I’m going to use the tool pay with 25 euros.", "pay"),
    ("The order is fine. Now I will call refunds.create(order=4711).", "refunds.create"),
    ("Let me call orders.lookup to see.", "orders.lookup"),
    ("Let me use the pay tool.", "pay"),
    ("Calling orders__lookup(order=A1)...", "orders.lookup"),
    ('Calling pay({"note": "not now, if you can"}).', "pay"),
    ("Next, I will invoke **refunds.create**.", "refunds.create"),
    ("I need to call refunds.create to finish this. One moment please.", "refunds.create"),
    ('Ich rufe jetzt pay({"amount": 25}) auf.', "pay"),
    ("Ich werde nun refunds.create aufrufen.", "refunds.create"),
    ("Jetzt rufe ich `pay` auf.", "pay"),
    ('Je vais maintenant appeler pay({"amount": 25}).', "pay"),
    ("J'appelle refunds.create avec la commande 4711.", "refunds.create"),
    ('Ahora voy a llamar a pay({"amount": 25}).', "pay"),
    ("Llamaré a refunds.create con el pedido 4711.", "refunds.create"),
    ("Ora chiamo refunds.create per l'ordine 4711.", "refunds.create"),
    ("Sto per chiamare pay({}).", "pay"),
    ("Vou chamar refunds.create agora.", "refunds.create"),
    ("Ik ga nu refunds.create aanroepen.", "refunds.create"),
    ('Teraz wywołam pay({"amount": 25}).', "pay"),
    ("Сейчас я вызову refunds.create.", "refunds.create"),
    ("Şimdi refunds.create aracını çağıracağım.", "refunds.create"),
    ('我现在调用 pay({"amount": 25})。', "pay"),
    ("接下来我将使用refunds.create工具。", "refunds.create"),
    ("これからrefunds.createを呼び出します。", "refunds.create"),
    ("지금 refunds.create를 호출하겠습니다.", "refunds.create"),
    ("سأستدعي refunds.create الآن.", "refunds.create"),
    ('pay({"amount": 25})', "pay"),
    ("```python\nrefunds.create(order='4711')\n```", "refunds.create"),
    ('{"tool": "pay", "args": {"amount": 25}}', "pay"),
    ('```json\n{"name": "orders__lookup", "arguments": {"order": "A1"}}\n```', "orders.lookup"),
    ('<tool_call>\n{"name": "pay", "arguments": {}}\n</tool_call>', "pay"),
    ('[TOOL_CALLS] [{"name": "pay", "arguments": {}}, {"name": "note", "arguments": {}}]', "pay"),
    ('<function=pay>{"amount": 25}</function>', "pay"),
    ('{"type": "function", "function": {"name": "pay", "arguments": "{}"}}', "pay"),
]

ORDINARY = [
    "done",
    "",
    'I called pay({"amount": 25}), and the money is on its way.',
    "I have called refunds.create and it succeeded.",
    "I used `orders.lookup` to find the order: it is paid.",
    "refunds.create was called with order 4711.",
    "pay(25) was done at noon.",
    "I will not call pay({}) because the order is paid.",
    "I won't call refunds.create again.",
    "I can't call pay({}) without your account number.",
    "Shall I call pay({})?",
    "Should I use the pay tool?",
    "If you agree, I will call pay({}).",
    "I will call refunds.create once you have confirmed.",
    "I would call refunds.create next, but the limit is reached.",
    "You can call refunds.create yourself.",
    "To refund an order, call refunds.create with its number.",
    "I'll pay the invoice tomorrow.",
    "I will note that the customer is angry.",
    "I will call the customer now.",
    "Let me note one more thing: pay day is Friday.",
    "I will use this to pay for the order.",
    "I will call pay() first, I thought, and so it was done. " + "The order came, it was paid and sent. " * 10,
    "Ich habe refunds.create aufgerufen.",
    "Ich werde refunds.create nicht aufrufen.",
    "Wenn Sie zustimmen, werde ich pay({}) aufrufen.",
    "Ich werde die Rechnung morgen bezahlen; pay({}) war erfolgreich.",
    "J'ai appelé refunds.create.",
    "Je ne vais pas appeler pay({}).",
    "He llamado a refunds.create y funcionó.",
    "No voy a llamar a pay({}).",
    "Ho chiamato refunds.create.",
    "Já chamei refunds.create.",
    "Я не вызову refunds.create.",
    "Я вызвал refunds.create, деньги отправлены.",
    "我已经调用了 refunds.create。",
    "我不会调用 pay({})。",
    "refunds.createを呼び出しました。",
    "refunds.create를 호출했습니다.",
    "refunds.create'i çağırdım.",
    '{"order": "A1", "name": "pay"}',
    '{"name": "Ann", "arguments": ["for", "against"]}',
    '[{"tool": "pay", "args": {}}, {"order": 1}]',
    "[]",
    'Example:\n```json\n{"tool": "pay", "args": {}}\n```\nThat is how a call looks.',
    "The total is 25 (pay by Friday).",
    "The customer will now use `pay` every week.",
    "I'm glad that the team is using `refunds.create`.",
    "Next time I will call refunds.create at once.",
    "From now on I will always use `pay`.",
    "We recommend to use the pay tool.",
]


@pytest.mark.parametrize(("text", "tool"), NARRATED)
def test_a_narrated_call_is_recognised(text: str, tool: str) -> None:
    """In the languages that models answer in, and in the forms in which they write calls as text."""
    assert narrated_call(text, TOOLS) == tool


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_answer_is_left_alone(text: str) -> None:
    """A call may be reported, offered, denied, asked about or explained, and a word may equal a tool's name."""
    assert not narrated_call(text, TOOLS)


def test_a_run_without_that_tool_has_nothing_to_call() -> None:
    """The run could not make the call, so nothing is sent back."""
    assert not narrated_call('I will call pay({"amount": 25}) now', ("look",))
    assert not narrated_call('I will call pay({"amount": 25}) now', ())


def _lines_executed(text: str) -> int:
    """Return how many lines of the module one search executes; a comprehension counts one a round."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> TraceFunction | None:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == calls_written_as_text.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        narrated_call(text, TOOLS)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "piece", ["I will now call ", "pay(", "`pay` ", "pay)", "(", "i'll ", "je vais ", "我现在", '{"tool": ']
)
def test_the_search_is_bounded_whatever_the_answer_is(piece: str) -> None:
    """An attacker may control what a model writes: each character of the searched end costs a few lines at most."""
    lines_max = 10 * TAIL_CHARS_MAX
    assert _lines_executed(piece * (200_000 // len(piece))) < lines_max
    assert _lines_executed((piece * 2_000)[:20_000]) < lines_max + 4 * CALL_CHARS_MAX


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ('Calling pay({"a": "(", "b": ")"}), as planned.', "pay"),
        ("I will call pay(f(g(1)), (2)) now", "pay"),
        ("I will call pay(" + "(" * 30 + " now", "pay"),
        ("pay((1)", ""),
        ("pay(1))", ""),
        ("pay(" + "1" * (ARGS_CHARS_MAX - 2) + ")", "pay"),
        ("pay(" + "1" * ARGS_CHARS_MAX + ")", ""),
    ],
)
def test_the_arguments_end_with_the_parenthesis_that_they_began_with(text: str, tool: str) -> None:
    """Up to 4,000 characters count as arguments."""
    assert narrated_call(text, TOOLS) == tool


NARRATION = 'I will call pay({"q": "order 4711"}) now.'


def test_a_narrated_call_is_sent_back_and_then_made() -> None:
    """The model gets the name of the tool that it did not call."""
    story = Story().open_run().run_until_idle().finish_model(reply(text=NARRATION))
    (error,) = story.last(Returned).errors
    assert error == (
        "The answer tells of a call of 'pay' instead of calling it. Call the tool now if the call is needed; "
        "otherwise give the final answer, which will then stand."
    )
    story.finish_model(reply(call("pay"))).send_control(
        "approve", call="pay"
    ).append_decided().run_until_idle().finish_tools(pay=OK)
    story.finish_model(reply(text="It is paid."))
    assert story.run.accepted is not None
    assert story.run.accepted.answer == "It is paid."
    assert not [p for p in verify(TENANT, RUN, story.messages).problems if p.level == "broken"]


def test_a_narrated_call_is_sent_back_only_once() -> None:
    """A model that answers the same again means it as its answer, also later in the run."""
    story = Story().open_run().run_until_idle().finish_model(reply(text=NARRATION)).finish_model(reply(text=NARRATION))
    assert story.last(Accepted).answer == NARRATION
    assert story.run.returned_in_a_row == 1
    story = (
        Story()
        .open_run()
        .run_until_idle()
        .finish_model(reply(text=NARRATION))
        .finish_model(reply(call("look")))
        .finish_tools(look=OK)
    )
    assert story.finish_model(reply(text=NARRATION)).last(Accepted).answer == NARRATION


@pytest.mark.parametrize(
    "limits",
    [{"turns_max": 1}, {"returned_max": 0}, {"tokens_max": 7_000}, {"cost_max_micros": 25_000}, {"events_max": 60}],
)
def test_an_answer_is_accepted_if_the_model_cannot_be_asked_again(limits: dict[str, int]) -> None:
    """Otherwise the run would end at a limit without any answer."""
    used = Usage(fresh_in=4_000, out=1_000)
    story = Story(agent(limits=limits)).open_run().run_until_idle().finish_model(reply(text=NARRATION, usage=used))
    assert story.last(Accepted).answer == NARRATION


def test_an_answer_in_a_schema_or_of_a_function_is_never_sent_back() -> None:
    """A text in them that has the form of a call is data."""
    text = '{"tool": "pay", "args": {}}'
    for version in (
        agent(output_schema={"type": "object"}),
        agent(planner="python:flows.refund", model=msgspec.structs.replace(MODEL, model="function/flows.refund")),
    ):
        assert Story(version).open_run().run_until_idle().finish_model(reply(text=text)).last(Accepted).answer == text
