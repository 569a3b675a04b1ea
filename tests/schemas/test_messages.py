"""Tasks and control messages, as any client may send them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from linestop.errors import InputError
from linestop.schemas import subjects
from linestop.schemas.defaults import Limits
from linestop.schemas.events import StopMode
from linestop.schemas.messages import (
    FIELD_CHARS_MAX,
    UNREADABLE,
    Control,
    Task,
    Verb,
    lower_limits,
    read_message,
    read_stop,
    readable,
    signed_bytes,
)


def test_the_smallest_task_is_a_text() -> None:
    """Everything else has a default."""
    assert msgspec.json.decode(b'{"text":"hello"}', type=Task) == Task(text="hello")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (
            b'{"text":7,"user":"ann","key":"k","labels":{"a":"b"},"submitter":"crm"}',
            Task(text="", user="ann", key="k", labels={"a": "b"}, submitter="crm"),
        ),
        (b'{"tixt":"x","user":7,"key":"k","labels":{"a":1}}', Task(text="", key="k")),
        (b'{"specversion":"1.0","data":{"text":7,"user":"ann"}}', Task(text="", user="ann")),
        (b'["text"]', Task(text="")),
        (b"\xff{", Task(text="")),
        (b"[" * 100_000, Task(text="")),
    ],
)
def test_an_invalid_task_is_read_as_far_as_possible(body: bytes, found: Task) -> None:
    """Its refusal names its sender's data."""
    assert readable(body) == found


def test_the_verbs_are_those_of_the_subjects() -> None:
    """The two lists are equal, except for the answer that counts as a person's because of its credential."""
    assert set(subjects.VERBS) == {*get_args(Verb), "reply"}


def test_a_limit_can_only_be_lowered() -> None:
    """A higher one is ignored, and a lower one keeps its type."""
    assert lower_limits(Limits(), {"turns_max": 3.0, "tokens_max": 10**9, "tool_timeout_s": 1}) == Limits(
        turns_max=3, tool_timeout_s=1.0
    )
    assert lower_limits(Limits(), {}) == Limits()
    assert lower_limits(Limits(), {"turns_max": 0}) == Limits(turns_max=0)


@pytest.mark.parametrize(
    ("requested", "part"), [({"turns": 1}, "no limit named 'turns'"), ({"wall_s": -1}, "negative")]
)
def test_an_impossible_limit_is_named(requested: dict[str, float], part: str) -> None:
    """The error is one sentence."""
    sentence = lower_limits(Limits(), requested)
    assert isinstance(sentence, str)
    assert part in sentence


def test_a_signature_covers_everything_that_makes_the_decision() -> None:
    """Another run, call, verb, person, argument, contract, expiry or nonce is another decision."""
    control = Control(
        by="ann", call="c", args_sha256="a", contract_digest="d", nonce="n", expires_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    signed = {
        signed_bytes("t", "r", "approve", control),
        signed_bytes("u", "r", "approve", control),
        signed_bytes("t", "s", "approve", control),
        signed_bytes("t", "r", "deny", control),
    }
    other = datetime(2026, 1, 2, tzinfo=UTC)
    for change in ({"by": "bob"}, {"call": "x"}, {"args_sha256": "x"}, {"contract_digest": "x"}, {"nonce": "x"}):
        signed.add(signed_bytes("t", "r", "approve", msgspec.structs.replace(control, **change)))
    signed.add(signed_bytes("t", "r", "approve", msgspec.structs.replace(control, expires_at=other)))
    signed.add(signed_bytes("t", "r", "approve", msgspec.structs.replace(control, expires_at=None)))
    assert len(signed) == 11


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", Control()),
        (b'{"by":"ann","why":"enough","mode":"drain"}', Control(by="ann", why="enough", mode=StopMode.DRAIN)),
        (b'{"mode":"nuke"}', Control()),
        (b"enough!", Control(why=UNREADABLE)),
        (b"[]", Control(why=UNREADABLE)),
        (b"\xff", Control(why=UNREADABLE)),
        (b'{"why":"\xff"}', Control(why=UNREADABLE)),
        (b"[" * 100_000, Control(why=UNREADABLE)),
        (b'{"by":5,"mode":["drain"]}', Control(why=UNREADABLE)),
        (b'{"by":"ann","why":"now","expires_at":"tomorrow"}', Control(by="ann", why="now")),
        (b'{"by":"ann","why":5,"mode":"drain"}', Control(by="ann", why=UNREADABLE, mode=StopMode.DRAIN)),
        (b'{"why":"' + b"x" * 5_000 + b'"}', Control(why="x" * FIELD_CHARS_MAX)),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_stop_takes_effect_whatever_its_body_is(payload: bytes, expected: Control) -> None:
    """The readable parts of name and reason are stored; an unknown mode cancels."""
    assert read_stop(payload) == expected
    assert type(read_stop(payload).mode) is StopMode


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("limts", "the field 'limts' is not known; perhaps 'limits' is meant"),
        ("materal", "the field 'materal' is not known; perhaps 'material' is meant"),
        ("dryRun", "the field 'dryRun' is not known; perhaps 'dry_run' is meant"),
        ("Text", "the field 'Text' is not known; perhaps 'text' is meant"),
        ("", "the field '' is not known; there are: text, material, user"),
        ("colour", "the field 'colour' is not known; there are: text, material, user"),
        ("x" * 9_000, f"the field '{'x' * 80}' is not known"),
    ],
)
def test_an_unknown_field_is_refused_by_its_name(name: str, sentence: str) -> None:
    """Otherwise the sender's intent would be ignored: a limit, or text that is only material."""
    with pytest.raises(InputError) as refused:
        read_message(msgspec.json.encode({"text": "go", name: {}}), Task)
    assert str(refused.value).startswith(sentence)
    assert read_message(b'{"text":"go","limits":{"turns_max":3}}', Task).limits == {"turns_max": 3}


def test_a_decision_with_an_unknown_field_is_refused_and_a_stop_is_not() -> None:
    """An approval whose digest field is misspelt would not be bound to anything; a stop counts in any case."""
    body = b'{"by":"ann","call":"pay","arg_sha256":"3f9c"}'
    with pytest.raises(InputError, match="the field 'arg_sha256' is not known; perhaps 'args_sha256'"):
        read_message(body, Control)
    assert read_stop(body).by == "ann"


def test_an_unknown_limit_is_named_with_the_nearest_name() -> None:
    """Without a similar name, all limits are listed."""
    assert (
        lower_limits(Limits(), {"turn_max": 3}) == "There is no limit named 'turn_max'; perhaps 'turns_max' is meant."
    )
    assert str(lower_limits(Limits(), {"speed": 3})).startswith(
        "There is no limit named 'speed'; there are: turns_max, "
    )


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "Infinity", "[1, NaN]"])
def test_a_number_that_is_not_finite_is_refused_in_one_sentence(number: str) -> None:
    """JSON has no such numbers, although some encoders write them."""
    with pytest.raises(InputError, match="NaN and the infinities are not numbers of JSON: send null or a text"):
        read_message(f'{{"answer": {number}}}'.encode(), Control)


def test_a_number_that_is_too_large_is_named_by_its_place() -> None:
    """The sender is told the place and the remedy."""
    with pytest.raises(InputError, match=r"^the number in 'priority' is too large: send a smaller one$"):
        read_message(b'{"text": "go", "priority": 1e400}', Task)


@pytest.mark.parametrize(
    "body", [b'{"text": "so: NaN", "key": }', b'{"text": "[NaN", "priority": "high"}', b'{"text": x']
)
def test_a_text_that_speaks_of_nan_is_not_blamed_for_another_mistake(body: bytes) -> None:
    """The sentence names the actual mistake."""
    with pytest.raises(msgspec.DecodeError):
        read_message(body, Task)
