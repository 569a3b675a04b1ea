"""The cost of checking a result: its depth is counted exactly, and a long one does not block the event loop."""

from __future__ import annotations

import random
import threading
from typing import Any, cast

import msgspec
import pytest

from linestop.sandbox.tools import call_function
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool
from linestop.schemas.text.redaction import DEPTH_MAX

pytestmark = pytest.mark.anyio


class Tool:
    """The part of a tool that an invocation needs."""

    name = "wide"
    returns = Any

    def __init__(self, value: object) -> None:
        self._value = value

    async def fn(self, _ctx: object) -> object:
        """Return the value of the tool."""
        return self._value


def nested_value(levels: int, chance: random.Random) -> Any:
    """A value with that many levels, with shallower values and texts full of brackets beside each level."""
    value: Any = [] if levels else 0
    for level in range(1, levels):
        shallow: list[Any] = [[], {"a[": '"]]\\'}, *[[[[]]]] * chance.randrange(3)]
        beside = [each for each in shallow[: chance.randrange(4)] if depth(each) <= level]
        value = {"x": value, "}": beside} if chance.random() < 0.5 and not beside else [*beside, value]
    return value


def depth(value: Any) -> int:
    """The depth of a value."""
    if isinstance(value, dict):
        return depth(list(cast("dict[str, Any]", value).values()))
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.parametrize("seed", range(20))
def test_a_result_is_too_deep_from_exactly_one_level_over_the_limit(seed: int) -> None:
    """With any values beside its levels, and any number of brackets in its texts."""
    chance = random.Random(seed)
    for levels in (DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1, DEPTH_MAX + 30):
        value = nested_value(levels, chance)
        assert call_function.too_deep(msgspec.json.encode([value, *[[]] * 300])) == (depth(value) + 1 > DEPTH_MAX)


@pytest.mark.parametrize(("members", "beside"), [(10, False), (600_000, True)])
async def test_a_long_result_is_checked_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, members: int, beside: bool
) -> None:
    """A short one is checked at once; both come back whole."""
    inner, where = call_function.too_deep, list[int]()

    def too_deep(encoded: bytes) -> bool:
        where.append(threading.get_ident())
        return inner(encoded)

    monkeypatch.setattr(call_function, "too_deep", too_deep)
    value: list[Any] = [[]] * members
    reply = await call_function.invoke_async(cast("AnyTool", Tool(value)), cast("Context", None), {})
    assert msgspec.json.decode(reply.value) == value
    assert [each != threading.get_ident() for each in where] == [beside]
