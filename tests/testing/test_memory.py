"""The in-memory bus under faults: which faults a simulator may inject, and what still holds then."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import anyio
import pytest
from tests.bus_fixtures import planner_append

from linestop.bus.interfaces import Append, HeadMoved
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.errors import NotFound, Unreachable
from linestop.schemas import subjects
from linestop.schemas.subjects import AgentName, RunId, TenantId, parse_run_event
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

TENANT, RUN = TenantId("t"), RunId("r")
TASKS = next(spec for spec in consumers() if spec.name == stream_names.TASKS_CONSUMER)


def event(n: int, head_seq: int, *, by: str = "") -> Append:
    """An event whose payload names its writer."""
    return planner_append(TENANT, RUN, event="started", n=n, head_seq=head_seq, payload=f"{by}-{n}".encode())


class LosesReplies(NoFaults):
    """Loses the request or the reply of every other operation."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    async def before(self, op: str) -> None:
        await anyio.sleep(self._draw.random() / 100)
        if self._draw.random() < 0.25:
            raise Unreachable(f"{op}: the request was lost")

    async def after(self, op: str) -> None:
        await anyio.sleep(self._draw.random() / 100)
        if self._draw.random() < 0.25:
            raise Unreachable(f"{op}: the reply was lost")


@pytest.mark.parametrize("seed", range(10))
def test_lost_requests_and_replies_neither_lose_nor_duplicate_an_event(seed: int) -> None:
    """Four writers that repeat the same append until it is acknowledged produce exactly one chain."""

    async def main() -> list[str]:
        broker = MemoryBroker(virtual_now, faults=LosesReplies(seed))
        acked: list[int] = []

        async def writer(name: str) -> None:
            log = broker.log()
            n, head_seq = 1, 0
            for step in range(5):
                while True:
                    try:
                        seq = await log.append(event(n, head_seq, by=f"{name}{step}"))
                    except Unreachable:
                        continue
                    except HeadMoved:
                        last = broker.stream(stream_names.RUNS).last(subjects.run_filter(TENANT, RUN))
                        assert last is not None
                        n, head_seq = parse_run_event(last.subject).n + 1, last.seq
                        continue
                    acked.append(seq)
                    n, head_seq = n + 1, seq
                    break

        async with anyio.create_task_group() as group:
            for name in "abcd":
                group.start_soon(writer, name)
        stored = broker.stream(stream_names.RUNS).matching("runs.>")
        assert [m.seq for m in stored] == sorted(acked)
        assert [parse_run_event(m.subject).n for m in stored] == list(range(1, 21))
        return [m.payload.decode() for m in stored]

    assert run_virtual(main, seed=seed) == run_virtual(main, seed=seed)


class Deliveries(NoFaults):
    """Applies the given delays to the deliveries in order, and no faults to the rest."""

    def __init__(self, *copies: tuple[float, ...]) -> None:
        self._copies = list(copies)

    def copies(self, subject: str) -> Sequence[float]:
        if subject.startswith("tasks.") and self._copies:
            return self._copies.pop(0)
        return (0.0,)


def deliver(faults: Deliveries, *payloads: bytes, for_s: float = 10.0) -> list[tuple[bytes, int, float]]:
    """Publish tasks, pull and acknowledge for a while; return payload, attempt and second of each delivery."""

    async def main() -> list[tuple[bytes, int, float]]:
        broker = MemoryBroker(virtual_now, faults=faults)
        queue = broker.queue(TASKS)
        for payload in payloads:
            broker.stream(stream_names.TASKS).publish(subjects.task(TENANT, AgentName("a")), payload)
        start = virtual_now()
        deliveries: list[tuple[bytes, int, float]] = []
        with anyio.move_on_after(for_s):
            async for delivery in queue.deliveries():
                at = (virtual_now() - start).total_seconds()
                deliveries.append((delivery.payload, delivery.attempt, round(at, 3)))
                await delivery.ack()
        return deliveries

    return run_virtual(main)


def test_a_dropped_delivery_comes_again_after_ack_wait() -> None:
    """A lost delivery is repeated as attempt 2 when ack_wait is over."""
    assert deliver(Deliveries(()), b"x") == [(b"x", 2, 2.0)]


def test_a_doubled_delivery_comes_twice() -> None:
    """A copy may arrive after the first was acknowledged."""
    assert deliver(Deliveries((0.0, 1.0)), b"x") == [(b"x", 1, 0.0), (b"x", 1, 1.0)]


def test_delayed_deliveries_overtake_each_other() -> None:
    """The second message arrives first if the first takes longer."""
    deliveries = deliver(Deliveries((0.5,), (0.1,)), b"1", b"2")
    assert deliveries == [(b"2", 1, 0.1), (b"1", 1, 0.5)]


def test_a_lost_acknowledgement_is_silent_and_redelivers_the_message() -> None:
    """The worker's ack() succeeds; the broker, which never received it, delivers again."""

    class LosesFirstAck(NoFaults):
        lost = False

        async def before(self, op: str) -> None:
            if op == "queue.ack" and not self.lost:
                self.lost = True
                raise Unreachable("the acknowledgement was lost")

    async def main() -> list[int]:
        broker = MemoryBroker(virtual_now, faults=LosesFirstAck())
        await broker.publish(subjects.task(TENANT, AgentName("a")), b"x")
        attempts: list[int] = []
        with anyio.move_on_after(10):
            async for delivery in broker.queue(TASKS).deliveries():
                attempts.append(delivery.attempt)
                await delivery.ack()
        return attempts

    assert run_virtual(main) == [1, 2]


def test_listeners_receive_published_and_stored_messages() -> None:
    """Wakes are passed on; an event is republished once it is stored, a refused one never."""

    async def main() -> list[str]:
        broker = MemoryBroker(virtual_now)
        received: list[str] = []

        async def listener() -> None:
            async for hint in broker.listen("live.runs.>", "wake.planner.>"):
                received.append(hint.subject)  # noqa: PERF401 - a comprehension over it would never end

        async with anyio.create_task_group() as group:
            group.start_soon(listener)
            await anyio.sleep(0.1)
            await broker.log().append(event(1, 0))
            with pytest.raises(HeadMoved):
                await broker.log().append(event(2, 0, by="late"))
            await broker.publisher().wake("planner", TENANT, RUN)
            await broker.publisher().wake("budget", TENANT, RUN)
            await anyio.sleep(0.1)
            group.cancel_scope.cancel()
        return received

    assert run_virtual(main) == ["live.runs.t.r.planner.started.1", "wake.planner.t.r"]


def test_a_timer_does_not_fire_early_when_the_clock_is_set_back() -> None:
    """The timer fires at its date, not after a number of seconds."""

    async def main() -> list[datetime]:
        behind = timedelta(0)
        start = virtual_now()
        broker = MemoryBroker(lambda: virtual_now() - behind)
        await broker.timers().set(TENANT, RUN, "expiry", start + timedelta(seconds=60))
        await anyio.sleep(30)
        behind = timedelta(seconds=100)
        await anyio.sleep(1_000)
        fired = broker.stream(stream_names.TIMERS).matching("timers.fire.>")
        return [message.stored_at for message in fired]

    [at] = run_virtual(main)
    assert at == datetime(2026, 1, 1, 0, 1, tzinfo=at.tzinfo)


def test_a_stream_that_does_not_exist_is_named() -> None:
    """The error for a wrong stream name lists the names that exist."""

    async def main() -> None:
        with pytest.raises(NotFound, match="RUNS"):
            MemoryBroker(virtual_now).stream("RUN")

    run_virtual(main)
