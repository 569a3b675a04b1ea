"""Argument types as authors of tools write them, each with a value that fits and one that does not fit."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypedDict, TypeVar

import msgspec
from tests.models import other_shapes

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Address:
    street: str
    country: Literal["DE", "FR"] = "DE"


@dataclass
class Customer:
    name: str
    addresses: list[Address] = field(default_factory=list[Address])
    colour: Colour = Colour.RED


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list["Node"])


@dataclass
class Husband:
    wife: Wife | None = None


@dataclass
class Wife:
    husband: Husband | None = None


class Line(msgspec.Struct):
    sku: str
    amount: Annotated[int, msgspec.Meta(ge=1)] = 1


class Cat(msgspec.Struct, tag="cat"):
    lives: int


class Dog(msgspec.Struct, tag="dog"):
    owner: Address


class Box(msgspec.Struct, Generic[T]):
    content: T


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    colour: Colour
    address: Address


class Arguments(msgspec.Struct):
    text: str


STREET = {"street": "Main"}

SHAPES: dict[str, tuple[Any, Any, Any]] = {
    "text": (str, "a", 1),
    "number": (float, 1.5, "1.5"),
    "flag": (bool, True, "yes"),
    "bounded text": (Annotated[str, msgspec.Meta(min_length=1, max_length=5)], "abc", "abcdef"),
    "long text": (Annotated[str, msgspec.Meta(min_length=3_000)], "x" * 3_000, "x" * 2_999),
    "moment": (datetime, "2026-12-01T00:00:00Z", 5),
    "day": (date, "2026-12-01", []),
    "decimal": (Decimal, "1.50", None),
    "literal": (Literal["a", "b"], "a", "c"),
    "enumeration": (Colour, "red", "green"),
    "numbers enumerated": (Rank, 1, 3),
    "optional text": (Optional[str], None, 1),  # noqa: UP045 - as many still write it
    "optional dataclass": (Address | None, None, {"street": 1}),
    "texts": (list[str], ["a"], [1]),
    "texts by name": (dict[str, str], {"a": "b"}, {"a": 1}),
    "numbers by name": (dict[str, list[int]], {"a": [1]}, {"a": ["1"]}),
    "dataclass": (Address, STREET, {}),
    "nested dataclasses": (Customer, {"name": "a", "addresses": [STREET]}, {"name": "a", "colour": 1}),
    "list of dataclasses": (list[Customer], [{"name": "a"}], [{"name": "a", "addresses": [{}]}]),
    "dataclasses by name": (dict[str, Address], {"home": STREET}, {"home": {}}),
    "recursive": (Node, {"value": 1, "children": [{"value": 2}]}, {"value": 1, "children": [{"value": "2"}]}),
    "recursive in turns": (Husband, {"wife": {"husband": None}}, {"wife": {"husband": 1}}),
    "structs": (list[Line], [{"sku": "a"}], [{"sku": "a", "amount": 0}]),
    "tagged union": (Cat | Dog, {"type": "dog", "owner": STREET}, {"type": "dog", "owner": {}}),
    "union of kinds": (int | str | list[Line], [{"sku": "a"}], [{"sku": 1}]),
    "generic": (Box[Address], {"content": STREET}, {"content": {}}),
    "two generics": (tuple[Box[int], Box[Address]], [{"content": 1}, {"content": STREET}], [{"content": STREET}, {}]),
    "named tuple": (Point, [1, 2], [1]),
    "typed dictionary": (Options, {"address": STREET}, {"address": {}}),
    "one name in two modules": (
        tuple[Address, other_shapes.Address],
        [STREET, {"zip_code": 1}],
        [{"zip_code": 1}, STREET],
    ),
    "the name of the arguments": (Arguments, {"text": "a"}, {"text": 1}),
    "optional list of enumerations": (list[Colour] | None, ["red"], ["green"]),
}
"""Name → the argument's type, a value that fits it, one that does not."""
