"""A planner that is a function: long plans, slow functions, and an event loop that stays responsive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from linestop.models.caller import Requester
from linestop.models.planner_function import CALLS_AT_ONCE_MAX, PLAN_BYTES_MAX, Plan
from linestop.schemas.model_messages import Message, ModelFailed, ModelRequest, Price
from linestop.schemas.performer_interfaces import ModelWork

pytestmark = pytest.mark.anyio

RELEASE = threading.Event()
THREADS: list[int] = []


def work(function: Callable[..., object], *, deadline_s: float = 30.0) -> ModelWork:
    """One call of a planner function of this module."""
    return ModelWork(
        tenant="acme",
        run="r1",
        turn=1,
        attempt=1,
        cost_max_micros=0,
        request=ModelRequest(model="function/f", system="", messages=(), deadline_s=deadline_s),
        price=Price(input=0, output=0, table="test"),
        planner=f"python:{__name__}.{function.__name__}",
        start_by=datetime.now(UTC) + timedelta(seconds=60),
    )


def answering(messages: tuple[Message, ...]) -> Plan:
    """Answer with 40 MB."""
    return Plan(answer="x" * (40 * 1024 * 1024 + len(messages)))


def calling(messages: tuple[Message, ...]) -> Plan:
    """Call with 40 MB."""
    return Plan(calls=(("clock", {"text": "\u00e9" * (20 * 1024 * 1024 + len(messages))}),))


def fitting(messages: tuple[Message, ...]) -> Plan:
    """Answer with the largest plan."""
    THREADS.append(threading.get_ident())
    return Plan(answer="x" * (PLAN_BYTES_MAX + len(messages)))


def hanging(messages: tuple[Message, ...]) -> Plan:
    """Return once the test releases it."""
    RELEASE.wait()
    return Plan(answer=str(len(messages)))


@pytest.mark.parametrize("function", [answering, calling])
async def test_a_plan_that_is_too_large_is_a_failure_with_its_reason(function: Callable[..., object]) -> None:
    """With the limit and the remedy; not retried, because the same conversation gives the same plan."""
    sentence = r"returned has too many bytes as JSON; at most \d+: return less"
    with pytest.raises(ModelFailed, match=sentence) as failed:
        await Requester().request(work(function))
    assert failed.value.kind == "permanent"


async def test_a_plan_that_fits_is_made_beside_the_loop() -> None:
    """Other runs continue while the function computes."""
    reply, _ = await Requester().request(work(fitting))
    assert len(reply.text) == PLAN_BYTES_MAX
    assert THREADS[-1] != threading.get_ident()


async def test_a_function_that_does_not_return_fails_in_time_and_blocks_nothing() -> None:
    """Its run ends with a sentence, a stop takes effect at once, and the number of hung functions is bounded."""
    RELEASE.clear()
    caller = Requester()
    try:
        with pytest.raises(ModelFailed, match=r"has not returned within 0\.01 s"):
            await caller.request(work(hanging, deadline_s=0.01))
        with anyio.move_on_after(0.01) as stop:
            await caller.request(work(hanging))
        assert stop.cancelled_caught
        for _ in range(CALLS_AT_ONCE_MAX - 2):
            with anyio.move_on_after(0):
                await caller.request(work(hanging))
        with pytest.raises(ModelFailed, match="64 planner functions have not returned: restart"):
            await caller.request(work(answering))
    finally:
        RELEASE.set()
