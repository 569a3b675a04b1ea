"""The checking of arguments that a model wrote."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linestop.schemas.argument_validation import (
    ERRORS_MAX,
    SENTENCE_CHARS_MAX,
    ArgumentCheck,
    check_arguments,
    schema_error,
)
from linestop.schemas.defaults import ARGUMENT_VALUES_MAX, ARGUMENTS_BYTES_MAX
from linestop.schemas.strict_json import JSON_DEPTH_MAX, decode_strict
from linestop.schemas.tool_contracts import Contract


def contract(properties: dict[str, Any], required: tuple[str, ...] = ()) -> Contract:
    """A contract with an object schema of these properties."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Contract(name="t", description="A tool.", parameters=schema)


ORDER = contract(
    {
        "id": {"type": "integer", "minimum": 1},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "price": {"type": "number"},
    },
    required=("id",),
)
ANYTHING = Contract(name="t", description="A tool.", parameters={"type": "object"})


def test_valid_arguments_become_canonical_bytes() -> None:
    """Keys are sorted, spaces are removed, and an integral float becomes the equal integer."""
    checked = check_arguments('{ "note": "é", "id": 1.0, "price": 2.50 }', ORDER)
    assert checked == ArgumentCheck(args='{"id":1,"note":"é","price":2.5}'.encode())


@pytest.mark.parametrize("other", ['{"id":1,"price":1e2}', '{"price":100.0,"id":1.0}', '{"id":1,"price":100}'])
def test_equal_arguments_have_equal_bytes(other: str) -> None:
    """However a number or the order of keys is written, the same call has the same effect key."""
    assert check_arguments(other, ORDER).args == b'{"id":1,"price":100}'


def test_all_errors_are_listed_at_once_with_their_paths() -> None:
    """The model can correct everything in one turn."""
    checked = check_arguments('{"id":0,"note":3,"tags":["a",1],"extra":true}', ORDER)
    assert checked.args is None
    text = "\n".join(checked.errors)
    assert "$.id: 0 is less than the minimum of 1" in text
    assert "$.tags[1]: 1 is not of type" in text
    assert '$.note: 3 fits no alternative: is not of type "string"; is not of type "null"' in text
    assert "'extra' was unexpected" in text
    assert len(checked.errors) == 4


def test_a_missing_argument_is_named() -> None:
    """The error names a required argument that is absent."""
    assert check_arguments("{}", ORDER).errors == ('$: "id" is a required property',)


def test_a_long_value_is_not_repeated() -> None:
    """An error names a long value by its path only."""
    (error,) = check_arguments('{"id":"' + "secret" * 50 + '"}', ORDER).errors
    assert error == '$.id: the value is not of type "integer"'


def test_errors_are_bounded_in_number_and_length() -> None:
    """No input makes a prompt grow without limit."""
    names = ",".join(f'"{"k" * 300}{i}":1' for i in range(50))
    tags = ",".join(["1"] * 200)
    checked = check_arguments(f'{{"tags":[{tags}],{names}}}', ORDER)
    assert len(checked.errors) == ERRORS_MAX + 1
    assert "only the first" in checked.errors[-1]
    assert max(map(len, checked.errors)) <= SENTENCE_CHARS_MAX


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ("", "not valid JSON"),
        ("{'id': 1}", "not valid JSON"),
        ('{"id": 1', "not valid JSON"),
        ('{"id": 1} x', "not valid JSON"),
        ("[1]", "must be a JSON object, not an array"),
        ("null", "not null"),
        ('"x"', "not a string"),
        ("true", "not a boolean"),
        ('{"id":1,"id":2}', "given twice"),
        ('{"a":{"b":1,"b":1}}', "given twice"),
        ('{"id":1,"\\u0069d":2}', "given twice"),
        ('{"price":NaN}', "NaN is not JSON"),
        ('{"price":-Infinity}', "-Infinity is not JSON"),
        ('{"price":1e999}', "too large"),
        ('{"id":18446744073709551616}', "more than 64 bits"),
        ('{"id":' + "9" * 5_000 + "}", "more than 64 bits"),
        ('{"note":"\\ud800"}', "surrogate"),
        ('{"\\udfff":1}', "surrogate"),
        (b'{"note":"\xff"}', "UTF-8"),
        ('{"note":"\ud800"}', "UTF-8"),
        ('{"a":' * (JSON_DEPTH_MAX + 1) + "1" + "}" * (JSON_DEPTH_MAX + 1), "nested too deeply"),
        ("[" * 9_000, "nested too deeply"),
        ('[{"":' * 4_500, "nested too deeply"),
        (" " * (ARGUMENTS_BYTES_MAX + 1), "send less"),
        ('{"ids":[' + "1," * ARGUMENT_VALUES_MAX + "1]}", "send fewer at a time"),
        ('{"ids":[' + '",",' * ARGUMENT_VALUES_MAX + "1]}", "send fewer at a time"),
        ("[" + "{}," * ARGUMENT_VALUES_MAX + "{}]", "send fewer at a time"),
    ],
    ids=range(27),
)
def test_text_that_is_not_strict_json_is_refused_in_one_sentence(raw: str | bytes, sentence: str) -> None:
    """Each of these means different things to different readers, or is invalid."""
    checked = check_arguments(raw, ANYTHING)
    assert checked.args is None
    assert len(checked.errors) == 1
    assert sentence in checked.errors[0]
    assert len(checked.errors[0]) <= SENTENCE_CHARS_MAX


def test_commas_and_brackets_within_a_text_do_not_count_as_values() -> None:
    """A long letter is one value, and the number of values itself is legal."""
    assert check_arguments('{"a":"' + ",[{" * ARGUMENT_VALUES_MAX + '"}', ANYTHING).args is not None
    assert check_arguments('{"a":[' + "1," * (ARGUMENT_VALUES_MAX - 3) + "1]}", ANYTHING).args is not None


def test_nesting_up_to_the_limit_is_read() -> None:
    """The limit itself is legal."""
    depth = JSON_DEPTH_MAX
    assert check_arguments('{"a":' * depth + "1" + "}" * depth, ANYTHING).args is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"properties": {"a": {"pattern": "(?=a)b"}}},
        {"type": "nonsense"},
    ],
)
def test_an_unusable_schema_is_an_error(schema: dict[str, Any]) -> None:
    """Remote references, look-around and nonsense are refused when the contract is checked."""
    assert schema_error(schema)
    checked = check_arguments("{}", Contract(name="t", description="", parameters=schema))
    assert "the contract of tool t is unusable" in checked.errors[0]


def test_a_remote_reference_is_never_fetched() -> None:
    """A contract cannot make requests: a server that listens at the address gets no request."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        asked: list[bool] = []

        def answer() -> None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                asked.append(True)
                connection.close()

        serving = threading.Thread(target=answer)
        serving.start()
        assert schema_error({"$ref": url})
        serving.join()
    assert asked == []


def test_a_catastrophic_pattern_stays_linear() -> None:
    """A pattern that a backtracking engine never finishes is matched at once."""
    bad = contract({"a": {"type": "string", "pattern": "^(a+)+$"}})
    checked = check_arguments('{"a":"' + "a" * 50_000 + '!"}', bad)
    assert checked.errors


def test_formats_are_asserted() -> None:
    """An invalid date-time is an error, not an annotation."""
    when = contract({"at": {"type": "string", "format": "date-time"}})
    assert check_arguments('{"at":"2030-01-31T09:00:00Z"}', when).args
    assert check_arguments('{"at":"tomorrow"}', when).errors


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.one_of(st.text(), st.binary()))
def test_no_text_raises(raw: str | bytes) -> None:
    """Whatever a model writes, the check returns."""
    assert isinstance(check_arguments(raw, ORDER), ArgumentCheck)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_canonical_bytes_are_a_fixed_point(value: dict[str, Any]) -> None:
    """Accepted arguments are accepted again, unchanged."""
    import json  # noqa: PLC0415 - the sender here is any JSON writer

    first = check_arguments(json.dumps(value), ANYTHING)
    if first.args is not None:
        assert check_arguments(first.args, ANYTHING).args == first.args
        assert isinstance(decode_strict(first.args), dict)


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(a"])
def test_a_pattern_that_cannot_be_used_is_named_with_its_argument(pattern: str) -> None:
    """The author of the contract is told the place, and what a pattern must not contain."""
    schema = {"type": "object", "properties": {"iban": {"type": "string", "pattern": pattern}}}
    problem = schema_error(schema)
    assert problem is not None
    assert problem.startswith("iban.pattern: ")
    assert "no look-around" in problem
