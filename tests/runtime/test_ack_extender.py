"""A long handling keeps its delivery; one that hangs loses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.runtime.ack_extender import HANDLING_MAX_S, AckExtender
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import ACK_WAIT_S
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

CONTROL = next(spec for spec in consumers() if spec.name == stream_names.REQUESTS_CONSUMERS[0][1])


@pytest.mark.parametrize(
    ("takes_s", "comes_again_at_s"),
    [(ACK_WAIT_S / 4, None), (HANDLING_MAX_S / 2, None), (HANDLING_MAX_S * 2, HANDLING_MAX_S)],
    ids=["quick", "long", "hung"],
)
def test_a_control_message_goes_to_another_process_only_if_its_handler_hangs(
    takes_s: float, comes_again_at_s: float | None
) -> None:
    """One process handles the message for this long; another listens meanwhile."""

    async def main() -> float | None:
        broker, redelivered_after_s = MemoryBroker(virtual_now), list[float]()
        await broker.publish(subjects.control(TenantId("acme"), RunId("r1"), verb="pause"), b"{}")
        mine = broker.queue(CONTROL).deliveries()
        delivery = await anext(mine)
        began, extender = anyio.current_time(), AckExtender(ACK_WAIT_S)

        async def other() -> None:
            theirs = broker.queue(CONTROL).deliveries()
            async for redelivered in theirs:
                redelivered_after_s.append(anyio.current_time() - began)
                await redelivered.ack()
                break
            assert isinstance(theirs, AsyncGenerator)
            await theirs.aclose()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(extender.run)
            tasks.start_soon(other)
            with extender.extending(delivery):
                await anyio.sleep(takes_s)
                await delivery.ack()
            await anyio.sleep(2 * ACK_WAIT_S)
            tasks.cancel_scope.cancel()
        await mine.aclose()
        return redelivered_after_s[0] if redelivered_after_s else None

    found = run_virtual(main)
    if comes_again_at_s is None:
        assert found is None
    else:
        assert found is not None
        assert comes_again_at_s <= found <= comes_again_at_s + 2 * ACK_WAIT_S


def test_a_control_message_that_no_process_handles_is_redelivered_at_once() -> None:
    """A killed process sends nothing: after ``ack_wait`` the message goes to another process."""

    async def main() -> float:
        broker = MemoryBroker(virtual_now)
        await broker.publish(subjects.control(TenantId("acme"), RunId("r1"), verb="pause"), b"{}")
        deliveries = broker.queue(CONTROL).deliveries()
        await anext(deliveries)
        began = anyio.current_time()
        await anext(deliveries)
        await deliveries.aclose()
        return anyio.current_time() - began

    assert run_virtual(main) == pytest.approx(ACK_WAIT_S)
