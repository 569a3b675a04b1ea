"""The size of a value as JSON: exact enough for every value, and quick for those whose JSON is endless."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import types
from collections import deque
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest

from linestop.schemas.text.redaction import DEPTH_MAX
from linestop.schemas.text.value_size import OversizedError, beginning, json_size, parts_of, shown

LARGE = 1 << 20


class Row(msgspec.Struct):
    """A record."""

    held: Any
    name: str = "row"


@dataclasses.dataclass
class Line:
    """Another record."""

    held: Any


class Slotted:
    """An object without a dictionary, whose ``repr`` shows its parts."""

    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"Slotted({self.held!r})"


def shared(levels: int = 40, *, made: Any = list) -> Any:
    """Return a value like YAML aliases make of a few bytes: each level holds the one below twice."""
    value: Any = "x"
    for _ in range(levels):
        value = made((value, value))
    return value


def cyclic() -> list[Any]:
    """Return a list that holds itself, three levels down."""
    value: list[Any] = []
    value.append({"a": [value]})
    return value


def value_of(chance: random.Random, depth: int) -> Any:
    """Return any value."""
    kinds = ("int", "text", "none", "float", "list", "dict", "tuple", "row", "line", "bytes")
    kind = chance.choice(kinds if depth else kinds[:4])
    many = [value_of(chance, depth - 1) for _ in range(chance.randrange(5))] if depth else []
    return {
        "int": chance.randrange(-(2**40), 2**40),
        "text": 'é"\n\x01x' * chance.randrange(5),
        "none": None,
        "float": 0.5,
        "list": many + many,
        "dict": {str(n): each for n, each in enumerate(many)},
        "tuple": tuple(many),
        "row": Row(many),
        "line": Line(many),
        "bytes": b"x" * chance.randrange(5),
    }[kind]


@pytest.mark.parametrize("seed", range(30))
def test_the_size_is_a_close_lower_bound(seed: int) -> None:
    """The true figure is at most six times as large, for any value that can be written."""
    value = value_of(random.Random(seed), 5)
    size, true = json_size(value, bytes_max=LARGE), len(msgspec.json.encode(value))
    assert size <= true + 24, value
    assert true <= 6 * size + 24


def pair(values: tuple[Any, Any]) -> dict[str, Any]:
    """Return an object with two fields."""
    return {"a": values[0], "b": values[1]}


@pytest.mark.parametrize("made", [list[Any], tuple[Any, ...], pair, Row, Line])
def test_a_value_that_shares_its_parts_is_refused_after_one_visit_of_each_part(
    made: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2^40 values as JSON, 41 in memory (or twice that, where a pair stands between)."""
    visits_n = 0

    def counted(value: object, *, inside: bool = False) -> Any:
        nonlocal visits_n
        visits_n += 1
        return parts_of(value, inside=inside)

    monkeypatch.setattr("linestop.schemas.text.value_size.parts_of", counted)
    with pytest.raises(OversizedError, match=r"at most 1048576: return less|at most 1000000: return fewer"):
        json_size(shared(made=made), bytes_max=LARGE)
    assert visits_n <= 82


def test_a_value_that_contains_itself_is_refused() -> None:
    """Its JSON is endless; that of a value that merely uses a part twice is not."""
    with pytest.raises(OversizedError, match="contains itself"):
        json_size(cyclic(), bytes_max=LARGE)
    part = [1]
    assert json_size([part, part], bytes_max=LARGE) >= len("[[1],[1]]") - 1


def test_the_depth_is_counted_exactly_also_where_a_part_is_used_again() -> None:
    """The limit itself is allowed, one level more is not."""
    for levels, used_again in ((DEPTH_MAX, False), (DEPTH_MAX, True)):
        value: Any = []
        for _ in range(levels - 1):
            value = [[], value, value] if used_again and levels < 12 else [value]
        json_size(value, bytes_max=LARGE)
        deep = [value] if not used_again else [value[0], value]
        with pytest.raises(OversizedError, match="nested deeper than 200 levels"):
            json_size(deep, bytes_max=LARGE)


def test_no_more_of_a_large_value_is_visited_than_the_bound() -> None:
    """This holds for many values and for few long ones."""
    numbers = iter(range(10**9))

    class Endless(list[int]):
        """A list of far more values than fit into memory."""

    with pytest.raises(OversizedError, match="at most 1000: return less"):
        json_size([[next(numbers) for _ in range(2_000)] for _ in range(10)], bytes_max=1_000)
    with pytest.raises(OversizedError, match="at most 1000: return less"):
        json_size(["x" * 500] * 1_000_000, bytes_max=1_000)
    with pytest.raises(OversizedError, match="too many lists and objects; at most 5"):
        json_size([list[int]()] * 6, bytes_max=1_000, containers_max=5)
    assert json_size(Endless([1, 2]), bytes_max=1_000) > 2


@pytest.mark.parametrize(
    "value",
    [
        shared(), shared(made=deque), [types.SimpleNamespace(a=shared())], ValueError(shared()), Row(shared()),
        Line(shared()), {"a": Exception("x", shared())}, Slotted(shared()), {"a": shared()}.values(),
        {"a": shared()}.items(), types.MappingProxyType({"a": shared()}), functools.partial(print, shared()),
        slice(shared()), itertools.repeat(shared()), [iter([shared()]), {1: shared()}.values()],
    ],
    ids=[
        "list", "deque", "namespace", "error", "struct", "dataclass", "error in a dict", "slots", "values", "items",
        "proxy", "partial", "slice", "repeat", "values in a list",
    ],
)  # fmt: skip
def test_a_value_whose_repr_is_endless_is_named_by_its_class(value: object) -> None:
    """Its ``repr`` is one call of C that never returns."""
    assert shown(value, 100) == f"a {type(value).__name__}"
    assert shown(value, 100, show=str, otherwise="(no message)") == "(no message)"


def test_a_value_is_shown_as_python_shows_it() -> None:
    """This includes an error with a text of many megabytes, which is not copied, and one with a cycle."""
    assert shown(ValueError("x" * 40_000_000), 10, show=str) == "xxxxxxxxxx"
    assert shown(deque([1, 2]), 100) == "deque([1, 2])"
    assert shown({"a": {1, 2}}, 100) == "{'a': {1, 2}}"
    assert shown([Decimal(1), PurePosixPath("a"), types.SimpleNamespace(a=1), Slotted(2)], 200) == (
        "[Decimal('1'), PurePosixPath('a'), namespace(a=1), Slotted(2)]"
    )


@pytest.mark.parametrize(
    ("value", "begins"),
    [
        (shared(), "[[[["),
        (cyclic(), '[{"a":["…"]}]'),
        ({"k": [1, "é\n"], 5: Row(None)}, '{"k":[1,"é\\n"],"5":{"held":'),
        ([b"xx", "\ud800", object], '["eHg=","?","<class '),
        ("x" * 1_000_000, '"xxxx'),
    ],
    ids=["shared", "cyclic", "mixed", "odd", "long"],
)
def test_the_beginning_of_any_value_can_be_written(value: object, begins: str) -> None:
    """No more of it is written than requested."""
    text = beginning(value, 1_000)
    assert text.startswith(begins)
    assert len(text.encode()) <= 1_000
