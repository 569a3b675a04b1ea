"""Live messages: every listener receives them, and of a group, one; an event brings its payload and its sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

import anyio
import pytest
from anyio.abc import TaskGroup
from tests.bus_fixtures import BusFixture, planner_append

from linestop.bus.interfaces import Append, LiveMessage
from linestop.schemas import subjects
from linestop.schemas.subjects import RoleName, RunId, TenantId

pytestmark = pytest.mark.anyio

EVENTS = 20
WITHIN_S = 20.0


def stopped(tenant: TenantId, run: RunId, n: int, head_seq: int) -> Append:
    """An event of the planner."""
    return planner_append(tenant, run, event="stopped", n=n, head_seq=head_seq, payload=f'{{"n":{n}}}'.encode())


class Listeners:
    """Listeners, and in ``received`` the messages of each."""

    def __init__(
        self, bus: BusFixture, stack: AsyncExitStack, tasks: TaskGroup, received: dict[str, list[LiveMessage]]
    ) -> None:
        self.received = received
        self._bus, self._stack, self._tasks = bus, stack, tasks

    async def add(self, name: str, role: RoleName, *filters: str, group: str = "") -> None:
        """Begin to listen."""
        messages = await self._stack.enter_async_context(aclosing(await self._bus.live(role, *filters, group=group)))
        self.received[name] = []
        self._tasks.start_soon(self._receive, name, messages)

    async def _receive(self, name: str, messages: AsyncGenerator[LiveMessage]) -> None:
        async for message in messages:
            self.received[name].append(message)

    async def until(self, total: int) -> None:
        """Wait until all of them together received so many messages."""
        with anyio.fail_after(WITHIN_S):
            while sum(map(len, self.received.values())) < total:  # noqa: ASYNC110 - several listeners
                await anyio.sleep(0.02)


async def test_of_a_group_one_receives_each_event_with_payload_and_sequence(
    bus: BusFixture, tenant: TenantId, run: RunId
) -> None:
    """Two groups and a listener without one: each event is received three times, whatever filters match it."""
    event_filter = subjects.live_subject(f"runs.{tenant}.*.planner.stopped.>")
    wider_filter = subjects.live_subject(f"runs.{tenant}.*.*.stopped.>")
    seqs, received = [0], dict[str, list[LiveMessage]]()
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        listeners = Listeners(bus, stack, tasks, received)
        await listeners.add("executor 1", "executor", event_filter, group="executor")
        await listeners.add("executor 2", "executor", wider_filter, group="executor")
        await listeners.add("budget", "budget", event_filter, group="budget")
        await listeners.add("recorder", "recorder", event_filter)
        await anyio.sleep(0.5)
        log = await bus.log()
        for n in range(1, EVENTS + 1):
            seqs.append(await log.append(stopped(tenant, run, n, seqs[-1])))
        await listeners.until(3 * EVENTS)
        await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()
    one_of_group = received["executor 1"] + received["executor 2"]
    for messages in (one_of_group, received["budget"], received["recorder"]):
        assert Counter(message.seq for message in messages) == Counter(seqs[1:])
    for message in received["recorder"]:
        n = seqs.index(message.seq)
        assert message.subject == subjects.live_subject(stopped(tenant, run, n, 0).subject)
        assert message.payload == f'{{"n":{n}}}'.encode()
    # Both of the group took part.
    assert received["executor 1"]
    assert received["executor 2"]


async def test_a_hint_reaches_every_worker_of_its_role(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """It names the run, and it has no sequence because it is not stored."""
    received: dict[str, list[LiveMessage]] = {}
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        listeners = Listeners(bus, stack, tasks, received)
        for name in ("1", "2"):
            await listeners.add(name, "budget", subjects.wake_filter("budget"))
        await anyio.sleep(0.5)
        await (await bus.publisher()).wake("budget", tenant, run)
        await listeners.until(2)
        tasks.cancel_scope.cancel()
    for messages in received.values():
        assert [(m.subject.split(".")[2:], m.seq) for m in messages] == [([tenant, run], 0)]
