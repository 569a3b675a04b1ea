"""Blobs, timers and the publisher: the smaller interfaces, the same on every bus."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

import anyio
import pytest
from tests.bus_fixtures import BusFixture, ServerBusFixture, until

from linestop.bus.interfaces import Delivery
from linestop.bus.jetstream.pull_queue import EXPIRES_S
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.errors import NotFound, TooLarge
from linestop.schemas import subjects
from linestop.schemas.defaults import BLOB_BYTES_MAX, BLOB_PART_BYTES
from linestop.schemas.subjects import AgentName, DeltaSubject, RunId, TenantId
from linestop.testing.cluster import Cluster

pytestmark = pytest.mark.anyio

TIMERS = next(spec for spec in consumers() if spec.name == stream_names.TIMERS_CONSUMER)
LATE_MAX_S = 2.0


@pytest.mark.parametrize("size", [0, 1, BLOB_PART_BYTES, BLOB_PART_BYTES + 1, 20 * BLOB_PART_BYTES + 7])
async def test_a_blob_is_read_unchanged(bus: BusFixture, tenant: TenantId, size: int) -> None:
    """Whatever its size, it is found under its digest; storing it again changes nothing."""
    blobs = await bus.blobs()
    data = (hashlib.sha256(tenant.encode()).digest() * (size // 32 + 1))[:size]
    digest = await blobs.put(tenant, data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert await blobs.put(tenant, data) == digest
    with anyio.fail_after(10):
        assert await blobs.get(tenant, digest) == data


async def test_a_blob_belongs_to_its_tenant(bus: BusFixture, tenant: TenantId) -> None:
    """Another tenant does not find it, and a missing blob is not found."""
    blobs = await bus.blobs()
    digest = await blobs.put(tenant, b"secret")
    with pytest.raises(NotFound, match=digest):
        await blobs.get(TenantId(f"{tenant}-x"), digest)
    with pytest.raises(NotFound):
        await blobs.get(tenant, hashlib.sha256(b"never").hexdigest())


async def test_a_blob_over_the_limit_is_refused(bus: BusFixture, tenant: TenantId) -> None:
    """One byte over the documented size is refused before anything is sent."""
    with pytest.raises(TooLarge, match=str(BLOB_BYTES_MAX)):
        await (await bus.blobs()).put(tenant, bytes(BLOB_BYTES_MAX + 1))


async def fired(bus: BusFixture, tenant: TenantId, *, within_s: float) -> list[tuple[str, datetime]]:
    """The timers of this tenant that fire in this time, with their times."""
    found: list[tuple[str, datetime]] = []
    deliveries = (await bus.queue(TIMERS)).deliveries()

    async def take(delivery: Delivery) -> None:
        timer = subjects.parse_timer(delivery.subject)
        if timer.tenant == tenant:
            found.append((timer.name, bus.now()))
        await delivery.ack()

    with anyio.move_on_after(within_s):
        async for delivery in deliveries:
            await take(delivery)
    assert isinstance(deliveries, AsyncGenerator)
    await deliveries.aclose()
    return found


async def test_timers_fire_once_and_never_early(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """One in the past fires at once, one in the future not before its time; moved and cancelled ones as requested."""
    timers = await bus.timers()
    if isinstance(bus, ServerBusFixture) and isinstance(bus.server, Cluster):
        # In a cluster an ended pull of another test takes messages until it expires.
        await anyio.sleep(EXPIRES_S)
    start = bus.now()
    at = {
        "past": start - timedelta(seconds=5),
        "soon": start + timedelta(seconds=1),
        "moved": start + timedelta(seconds=1.5),
    }
    await timers.set(tenant, run, "cancelled", start + timedelta(seconds=1))
    await timers.set(tenant, run, "moved", start + timedelta(seconds=0.9))
    for name, when in at.items():
        await timers.set(tenant, run, name, when)
    await timers.cancel(tenant, run, "cancelled")
    await timers.cancel(tenant, run, "never-set")
    seen = await fired(bus, tenant, within_s=1.5 + LATE_MAX_S)
    assert sorted(name for name, _ in seen) == sorted(at)
    for name, when in seen:
        assert at[name] <= when < max(at[name], start) + timedelta(seconds=LATE_MAX_S)


async def test_a_run_has_one_outcome(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """A second outcome is silently ignored."""
    publisher = await bus.publisher()
    await publisher.outcome(tenant, "support", run, b"first", {"ce-type": "outcome"})
    await publisher.outcome(tenant, "support", run, b"second", {})
    subject = subjects.outcome(tenant, AgentName("support"), run=run)
    assert await until(lambda: bus.stored(stream_names.OUTCOMES, subject)) == b"first"


async def test_alerts_and_dead_letters_are_stored(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Both are stored when the call returns; an alert with the same message id is stored once."""
    publisher = await bus.publisher()
    await publisher.alert(tenant, "threshold", b"75 %", {"Nats-Msg-Id": f"{tenant}/{run}/1"})
    await publisher.alert(tenant, "threshold", b"once more", {"Nats-Msg-Id": f"{tenant}/{run}/1"})
    await publisher.dead_letter("recorder", tenant, run, b"why")
    alert, dead_letter_subject = subjects.alert(tenant, "threshold"), subjects.dead_letter(tenant, run, role="recorder")
    assert await until(lambda: bus.stored(stream_names.ALERTS, alert)) == b"75 %"
    assert await until(lambda: bus.stored(stream_names.DEAD, dead_letter_subject)) == b"why"


async def test_lossy_messages_never_fail(bus: BusFixture, tenant: TenantId, run: RunId) -> None:
    """Hints, tokens and replies are sent or lost; an invalid inbox is ignored."""
    publisher = await bus.publisher()
    await publisher.wake("planner", tenant, run)
    await publisher.delta(DeltaSubject(tenant=tenant, run=run, turn=1, attempt=1), "tok", offset=0)
    for inbox in ("_INBOX.client.answers.x", "", "a b\r\nPUB runs.x 0\r\n\r\n", "*", "x" * 10_000):
        await publisher.reply(inbox, b"done")
    await publisher.alert(tenant, "still-there", b"here", {})
    assert await until(lambda: bus.stored(stream_names.ALERTS, subjects.alert(tenant, "still-there"))) == b"here"
