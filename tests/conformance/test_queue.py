"""Durable consumers: at least once, never more in flight than requested, nothing lost when a pull ends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta

import anyio
import pytest
from tests.bus_fixtures import BusFixture, ServerBusFixture

from linestop.bus.interfaces import Delivery, PullCapacity, Queue
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import ConsumerSpec, consumers
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import ACK_WAIT_S, DELIVERIES_IN_FLIGHT_MAX
from linestop.schemas.subjects import AgentName, TenantId
from linestop.testing.cluster import Cluster

pytestmark = pytest.mark.anyio

WITHIN_S = 20.0
QUIET_S = 0.4
TASKS_PUBLISHED = 20
AGENT = AgentName("support")
TASKS = next(spec for spec in consumers() if spec.name == stream_names.TASKS_CONSUMER)


@contextlib.asynccontextmanager
async def pulling(
    queue: Queue, *, in_flight_max: int = DELIVERIES_IN_FLIGHT_MAX, capacity: PullCapacity | None = None
) -> AsyncGenerator[AsyncIterator[Delivery]]:
    """Pull, and end the pull with the block."""
    deliveries = queue.deliveries(in_flight_max=in_flight_max, capacity=capacity)
    try:
        yield deliveries
    finally:
        assert isinstance(deliveries, AsyncGenerator)
        await deliveries.aclose()


async def next_of(deliveries: AsyncIterator[Delivery], tenant: TenantId) -> Delivery:
    """The next delivery of this test's tenant; messages of other tests are removed."""
    with anyio.fail_after(WITHIN_S):
        async for delivery in deliveries:
            if delivery.subject.split(".")[1] == tenant:
                return delivery
            await delivery.ack()
    raise AssertionError("deliveries never end")


async def is_quiet(deliveries: AsyncIterator[Delivery], tenant: TenantId, *, for_s: float = QUIET_S) -> bool:
    """Whether no message of this tenant arrives for a while. The pull must not be used after that."""
    with anyio.move_on_after(for_s):
        await next_of(deliveries, tenant)
        return False
    return True


class StubCapacity:
    """Capacity for a number of messages that the test sets."""

    def __init__(self, free: int) -> None:
        self._free_count = free
        self.watchers: list[Callable[[], None]] = []

    def free(self) -> int:
        """See ``PullCapacity``."""
        return self._free_count

    def watch(self, on_freed: Callable[[], None]) -> Callable[[], None]:
        """See ``PullCapacity``."""
        self.watchers.append(on_freed)
        return lambda: self.watchers.remove(on_freed)

    def grow(self, free: int) -> None:
        """Raise the capacity, and notify the pull."""
        self._free_count = free
        for on_freed in self.watchers:
            on_freed()


def swallows(bus: BusFixture) -> bool:
    """Whether an ended pull of another test may still take messages: in a cluster, for some seconds."""
    return isinstance(bus, ServerBusFixture) and isinstance(bus.server, Cluster)


async def test_a_task_is_delivered_as_it_was_published(bus: BusFixture, tenant: TenantId) -> None:
    """Subject, payload, headers, sequence, time and attempt are those of the message."""
    await bus.publish(subjects.task(tenant, AGENT), b"help", {"traceparent": "00-a-b-01"})
    async with pulling(await bus.queue(TASKS)) as deliveries:
        delivery = await next_of(deliveries, tenant)
        assert delivery.subject == subjects.task(tenant, AGENT)
        assert delivery.payload == b"help"
        assert delivery.headers["traceparent"] == "00-a-b-01"
        assert delivery.attempt >= 1
        assert delivery.seq > 0
        assert abs(bus.now() - delivery.stored_at) < timedelta(seconds=10)
        await delivery.ack()


async def test_an_acknowledged_message_is_not_delivered_again(bus: BusFixture, tenant: TenantId) -> None:
    """After the acknowledgement and the consumer's ack_wait, nothing is delivered."""
    await bus.publish(subjects.task(tenant, AGENT), b"once")
    async with pulling(await bus.queue(TASKS)) as deliveries:
        await (await next_of(deliveries, tenant)).ack()
        assert await is_quiet(deliveries, tenant, for_s=ACK_WAIT_S + QUIET_S)


async def test_an_unacknowledged_message_is_delivered_again(bus: BusFixture, tenant: TenantId) -> None:
    """An unsettled delivery is repeated after ack_wait, under the same sequence, as attempt 2."""
    await bus.publish(subjects.task(tenant, AGENT), b"again")
    async with pulling(await bus.queue(TASKS)) as deliveries:
        first = await next_of(deliveries, tenant)
        before = bus.now()
        second = await next_of(deliveries, tenant)
        assert second.seq == first.seq
        assert second.attempt > first.attempt
        assert bus.now() - before > timedelta(seconds=ACK_WAIT_S * 0.9)
        await second.ack()


async def test_messages_beyond_the_capacity_stay_in_the_stream(bus: BusFixture, tenant: TenantId) -> None:
    """It is not requested, so another loop gets it at once; as soon as there is capacity, it arrives."""
    queue, capacity = await bus.queue(TASKS), StubCapacity(1)
    texts = [b"one", b"two", b"three"]
    async with pulling(queue, capacity=capacity) as deliveries:
        for text in texts:
            await bus.publish(subjects.task(tenant, AGENT), text)
        first = await next_of(deliveries, tenant)
        texts.remove(first.payload)
        taken: dict[bytes, Delivery] = {}
        async with pulling(queue) as others:
            while taken.keys() != set(texts):
                delivery = await next_of(others, tenant)
                # In a cluster an ended pull may have taken each message, which then arrives late, and perhaps twice.
                assert swallows(bus) or (delivery.payload, delivery.attempt) == (texts[len(taken)], 1)
                taken[delivery.payload] = delivery
                await first.in_progress()
                if delivery.payload == first.payload:
                    del taken[first.payload]
            await taken[texts[1]].ack()
            await taken[texts[0]].nak(0.1)
        capacity.grow(2)
        again = await next_of(deliveries, tenant)
        while swallows(bus) and again.payload != texts[0]:
            await again.ack()
            again = await next_of(deliveries, tenant)
        assert again.payload == texts[0]
        await first.ack()
        await again.ack()
    assert capacity.watchers == []


async def test_a_message_with_a_nak_is_delivered_again_after_the_delay(bus: BusFixture, tenant: TenantId) -> None:
    """It is delivered again after the given delay, not after ack_wait and not at once."""
    await bus.publish(subjects.task(tenant, AGENT), b"later")
    async with pulling(await bus.queue(TASKS)) as deliveries:
        before = bus.now()
        first = await next_of(deliveries, tenant)
        await first.nak(0.5)
        second = await next_of(deliveries, tenant)
        assert timedelta(seconds=0.45) < bus.now() - before
        assert swallows(bus) or bus.now() - before < timedelta(seconds=ACK_WAIT_S)
        assert second.attempt > first.attempt
        await second.ack()


async def test_a_terminated_message_is_never_delivered_again(bus: BusFixture, tenant: TenantId) -> None:
    """A terminated message is not delivered again, whatever its reason contains."""
    await bus.publish(subjects.task(tenant, AGENT), b"poison")
    async with pulling(await bus.queue(TASKS)) as deliveries:
        await (await next_of(deliveries, tenant)).term("not\r\nJSON")
        assert await is_quiet(deliveries, tenant, for_s=ACK_WAIT_S + QUIET_S)


async def test_a_message_in_progress_is_not_delivered_again(bus: BusFixture, tenant: TenantId) -> None:
    """Until progress is no longer reported: then another loop gets it after ack_wait."""
    await bus.publish(subjects.task(tenant, AGENT), b"long")
    async with pulling(await bus.queue(TASKS)) as deliveries:
        first = await next_of(deliveries, tenant)
        again: list[Delivery] = []

        async def hear() -> None:
            again.append(await next_of(deliveries, tenant))

        async with anyio.create_task_group() as group:
            group.start_soon(hear)
            for _ in range(4):
                await anyio.sleep(ACK_WAIT_S / 2)
                await first.in_progress()
            assert again == []
        assert again[0].seq == first.seq
        await again[0].ack()


async def test_no_more_messages_are_in_flight_than_allowed(bus: BusFixture, tenant: TenantId) -> None:
    """While two are unsettled, the third waits until one of them is settled."""
    for number in range(5):
        await bus.publish(subjects.task(tenant, AGENT), str(number).encode())
    async with pulling(await bus.queue(TASKS), in_flight_max=2) as deliveries:
        first = await next_of(deliveries, tenant)
        await next_of(deliveries, tenant)
        pending = deliveries.__anext__()
        done: list[Delivery] = []
        came = anyio.Event()

        async def third() -> None:
            done.append(await pending)
            came.set()

        async with anyio.create_task_group() as group:
            group.start_soon(third)
            await anyio.sleep(QUIET_S)
            assert done == []
            await first.ack()
            with anyio.fail_after(WITHIN_S):
                await came.wait()
        # The pull has no end: all five arrive, however few at a time.
        seen = {done[0].payload}
        await done[0].ack()
        while len(seen) < 4:
            delivery = await next_of(deliveries, tenant)
            seen.add(delivery.payload)
            await delivery.ack()


async def test_messages_over_the_limit_are_left_to_other_loops(bus: BusFixture, tenant: TenantId) -> None:
    """A loop with a limit of two does not buffer the third: another loop gets it before ack_wait."""
    for number in range(3):
        await bus.publish(subjects.task(tenant, AGENT), str(number).encode())
    queue = await bus.queue(TASKS)
    async with pulling(queue, in_flight_max=2) as deliveries, pulling(queue) as others:
        held = [await next_of(deliveries, tenant) for _ in range(2)]
        before = bus.now()
        third = await next_of(others, tenant)
        assert swallows(bus) or bus.now() - before < timedelta(seconds=ACK_WAIT_S / 2)
        assert third.payload not in {delivery.payload for delivery in held}
        for delivery in (*held, third):
            await delivery.ack()


async def test_ending_a_pull_loses_nothing(bus: BusFixture, tenant: TenantId) -> None:
    """Messages of a cancelled loop, in work or only buffered, are delivered to the next loop."""
    payloads = {str(number).encode() for number in range(10)}
    for payload in sorted(payloads):
        await bus.publish(subjects.task(tenant, AGENT), payload)
    queue = await bus.queue(TASKS)

    async def dies() -> None:
        async with pulling(queue) as deliveries:
            for _ in range(3):
                await next_of(deliveries, tenant)
            dying.cancel()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        dying = group.cancel_scope
        group.start_soon(dies)
    seen: set[bytes] = set()
    async with pulling(queue) as deliveries:
        while seen != payloads:
            delivery = await next_of(deliveries, tenant)
            seen.add(delivery.payload)
            await delivery.ack()


async def test_two_workers_share_the_work(bus: BusFixture, tenant: TenantId) -> None:
    """Each task is handled by one of two loops."""
    handled: list[bytes] = []
    all_handled = anyio.Event()

    async def worker(spec: ConsumerSpec) -> None:
        async with pulling(await bus.queue(spec), in_flight_max=4) as deliveries:
            while True:
                delivery = await next_of(deliveries, tenant)
                handled.append(delivery.payload)
                await delivery.ack()
                if len(handled) == TASKS_PUBLISHED:
                    all_handled.set()

    async with anyio.create_task_group() as group:
        group.start_soon(worker, TASKS)
        group.start_soon(worker, TASKS)
        for number in range(TASKS_PUBLISHED):
            await bus.publish(subjects.task(tenant, AGENT), str(number).encode())
        with anyio.fail_after(WITHIN_S):
            await all_handled.wait()
        await anyio.sleep(QUIET_S)
        group.cancel_scope.cancel()
    assert sorted(handled, key=int) == [str(number).encode() for number in range(TASKS_PUBLISHED)]
