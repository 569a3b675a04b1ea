"""Playbook scripts: accepted and refused scripts, and the step that answers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from linestop.errors import ConfigError
from linestop.models.playbook import Playbook, load_playbook, parse_playbook
from linestop.models.playbook.answer import NoScriptedReply, ScriptedReply, choose_step, compose_reply
from linestop.models.playbook.conversation import Conversation, WireFormat, read_conversation


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = ", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML: its values are nested too deeply"),
        ("a = " + "9" * 5_000, "is not TOML: Exceeds the limit"),
        ("#" * 1_100_000, r"cannot be read \(it has over 1048576 bytes\)"),
        ('name = "x"', "the top level: Object missing required field `step`"),
        ('name = "x"\nstep = []', "at least one step"),
        ('name = ""\n[[step]]\nsay = "x"', "needs a name"),
        ('name = "x"\n[[step]]\nsay = 1', r"step\[0\]\.say: Expected `str`"),
        ('name = "x"\n[[step]]\nsays = "x"', r"step\[0\]: Object contains unknown field `says`"),
        ('name = "x"\n[[step]]\nwhen = {turn = 0}\nsay = "x"', r"step\[0\]\.when\.turn"),
        ('name = "x"\n[[step]]\nfault = {kind = "gremlins"}', r"step\[0\]\.fault\.kind: Invalid value 'gremlins'"),
        ('name = "x"\n[[step]]\nfault = {kind = "html", status = 1}', "unknown field `status`"),
        ('name = "x"\n[[step]]\nfault = {kind = "status"}', "missing required field `status`"),
        ('name = "x"\n[[step]]\nsay = "x"\n[[step]]\nwhen = {turn = 2}', r"step\[1\]: give it something to do"),
        ('name = "x"\n[[step]]\ncall = [{tool = "t", args = {a = 1}, raw_args = "{"}]', r"step\[0\]\.call\[0\]"),
        ('name = "x"\ntools = "some"\n[[step]]\nsay = "x"', "tools: Expected `str` matching"),
    ],
)
def test_a_bad_script_is_one_sentence_with_file_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    """Nothing is ignored: a script with an ignored key would make its test worthless."""
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as refused:
        load_playbook(file)
    assert str(file) in str(refused.value)


def test_a_missing_script_is_reported(tmp_path: Path) -> None:
    """The file is named."""
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        load_playbook(tmp_path / "none.toml")


def test_a_special_file_is_not_read(tmp_path: Path) -> None:
    """Reading a pipe would block, and a device may never end."""
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ConfigError, match=r"pipe\.toml cannot be read \(it is not a regular file\)"):
        load_playbook(tmp_path / "pipe.toml")


def test_a_script_that_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Some editors write one; it does not belong to the text."""
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfname = 'a'\r\n[[step]]\r\nsay = 'x'\r\n")
    assert load_playbook(tmp_path / "a.toml").name == "a"


def test_the_example_of_the_page_is_a_playbook() -> None:
    """The example in the documentation is read like any other script."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    scripts = [example for example in examples if "[[step]]" in example]
    assert [parse_playbook(script).name for script in scripts] == ["support"]


def _conversation(*texts: str, results: tuple[str, ...] = (), wire: WireFormat = "openai", **more: Any) -> Conversation:
    """A conversation in which the texts of user and model take turns; ``results`` follow as tool results."""
    messages: list[dict[str, Any]] = [
        {"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(texts)
    ]
    for number, result in enumerate(results):
        call = {"id": f"c{number}", "type": "function", "function": {"name": "orders__lookup", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": result})
    return read_conversation(wire, msgspec.json.encode({"model": "m", "messages": messages, **more}))


def _book(steps: str) -> Playbook:
    return parse_playbook(f'name = "m"\n{steps}')


def _answer(steps: str, conversation: Conversation) -> ScriptedReply:
    book = _book(steps)
    return compose_reply(book, book.steps[choose_step(book, conversation)], conversation)


SEQUENCE = '[[step]]\nsay = "one"\n[[step]]\nsay = "two"\n[[step]]\nsay = "three"\nrepeat = true'


@pytest.mark.parametrize(
    ("texts", "step"),
    [(("go",), 0), (("go", "one", "on"), 1), (("go", "one", "on", "two", "on"), 2), (("go", "?") * 7 + ("on",), 2)],
)
def test_steps_answer_in_order_and_only_a_repeating_one_again(texts: tuple[str, ...], step: int) -> None:
    """The next step follows from the conversation alone, so a restarted server continues where it was."""
    assert choose_step(_book(SEQUENCE), _conversation(*texts)) == step


def test_conditions_decide_before_order() -> None:
    """Every key of `when` must hold; the first free step that fits wins."""
    steps = """
[[step]]
when = {tool_result = "orders.lookup", contains = "PAID"}
say = "refund"
[[step]]
when = {turn = 1, not_contains = "refund"}
say = "what?"
[[step]]
when = {contains = "refund"}
call = [{tool = "orders.lookup"}]
[[step]]
when = {tool_result = "orders.lookup"}
say = "not paid"
"""
    book = _book(steps)
    assert choose_step(book, _conversation("hello")) == 1
    assert choose_step(book, _conversation("a Refund please")) == 2
    assert choose_step(book, _conversation("refund", results=('{"state": "paid"}',))) == 0
    assert choose_step(book, _conversation("refund", results=('{"state": "open"}',))) == 3


def test_a_step_answers_once_even_if_its_condition_still_holds() -> None:
    """`contains` searches the whole conversation, so a condition that held once would always hold."""
    steps = '[[step]]\nwhen = {contains = "refund"}\nsay = "one"\n[[step]]\nsay = "two"'
    assert choose_step(_book(steps), _conversation("refund", "one", "and?")) == 1


def test_a_conversation_without_a_step_is_reported_with_its_place() -> None:
    """The author of a script needs to know the turn and the last tool."""
    with pytest.raises(NoScriptedReply, match=r'"m" answers turn 2 after a result of "orders\.lookup": 1 of 1 steps'):
        choose_step(_book('[[step]]\nsay = "one"'), _conversation("go", results=("{}",)))


def test_placeholders_are_filled_in_from_the_last_result() -> None:
    """A whole placeholder keeps its type; inside a text it is written out."""
    steps = """
[[step]]
say = "first"
[[step]]
say = "{{task}}: {{result.order.items.1}} costs {{ result.order.total }} on turn {{turn}}, {{result.order.items}}"
call = [{tool = "pay", args = {total = "{{result.order.total}}", list = ["{{turn}}"], note = "of {{turn}}"}}]
"""
    result = 'from orders.lookup:\n{"order": {"total": 12.5, "items": ["pen", "cup"]}} (end)'
    answer = _answer(steps, _conversation("Refund", results=(result,)))
    assert answer.text == 'Refund: cup costs 12.5 on turn 2, ["pen","cup"]'
    assert msgspec.json.decode(answer.calls[0].args) == {"total": 12.5, "list": [2], "note": "of 2"}


@pytest.mark.parametrize(
    "placeholder", ["result.order.none", "result.order.9", "result.order.total.deeper", "nonsense", "task.x"]
)
def test_a_placeholder_that_cannot_be_filled_in_is_an_error(placeholder: str) -> None:
    """A script never sends half of a text."""
    with pytest.raises(NoScriptedReply, match=placeholder):
        _answer(
            f'[[step]]\nwhen = {{turn = 2}}\nsay = "{{{{{placeholder}}}}}"\n[[step]]\nsay = "x"',
            _conversation("go", results=('{"order": {"total": 1}}',)),
        )


def test_usage_follows_from_the_bytes_unless_the_script_sets_it() -> None:
    """The same request always reports the same usage, so budgets can be tested to the token."""
    conversation = _conversation("go")
    counted = _answer('[[step]]\nsay = "12345678"', conversation).usage
    assert (counted.input, counted.output) == (-(-conversation.request_bytes // 4), 3)
    scripted = _answer('[[step]]\nsay = "x"\nusage = {input = 100, output = 20}', conversation).usage
    assert (scripted.input, scripted.output) == (100, 20)


def test_the_token_limit_is_respected() -> None:
    """Like a real provider: an answer over the limit is cut, and its stop reason shows it."""
    answer = _answer('[[step]]\nsay = "0123456789012345678901234567890123456789"', _conversation("go", max_tokens=5))
    assert (answer.stop, answer.usage.output, answer.text) == ("length", 5, "01234567890123456789")


def test_both_wire_formats_are_the_same_conversation() -> None:
    """A script is independent of the provider's wire format."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "go"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c0", "name": "orders__lookup"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c0", "content": "paid"}]},
    ]
    body = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": messages})
    assert read_conversation("anthropic", body).turns == _conversation("go", results=("paid",)).turns
