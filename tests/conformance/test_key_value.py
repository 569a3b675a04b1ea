"""Buckets: one value for all processes, changed only by a process that has read it."""

from __future__ import annotations

import anyio
import pytest
from tests.bus_fixtures import BusFixture, until

from linestop.bus.interfaces import BucketValue
from linestop.bus.streams import stream_names
from linestop.errors import Conflict
from linestop.schemas.subjects import TenantId

pytestmark = pytest.mark.anyio


async def present(bus: BusFixture, key: str, *, revision: int) -> BucketValue:
    """Read a key until a replica shows this revision: reads may lag behind writes of the same process."""
    shared = await bus.bucket()

    async def read() -> BucketValue | None:
        found = await shared.get(key)
        return found if found is not None and found.revision >= revision else None

    found = await until(read)
    assert found is not None
    return found


async def test_a_created_key_is_read_with_its_revision(bus: BusFixture, tenant: TenantId) -> None:
    """Value and revision come back as they were stored."""
    shared = await bus.bucket()
    key = f"account.{tenant}"
    assert await shared.get(key) is None
    revision = await shared.create(key, b"5")
    assert await present(bus, key, revision=revision) == BucketValue(key=key, value=b"5", revision=revision)


async def test_a_key_is_created_once(bus: BusFixture, tenant: TenantId) -> None:
    """The second creation is a conflict, even with the same value."""
    shared = await bus.bucket()
    await shared.create(f"account.{tenant}.1", b"5")
    with pytest.raises(Conflict):
        await shared.create(f"account.{tenant}.1", b"5")


async def test_an_update_needs_the_present_revision(bus: BusFixture, tenant: TenantId) -> None:
    """An update after another one is refused and changes nothing."""
    shared = await bus.bucket()
    key = f"account.{tenant}"
    first = await shared.create(key, b"1")
    second = await shared.update(key, b"2", revision=first)
    assert second > first
    with pytest.raises(Conflict):
        await shared.update(key, b"3", revision=first)
    assert (await present(bus, key, revision=second)).value == b"2"


async def test_a_deleted_key_is_gone_and_can_be_created_again(bus: BusFixture, tenant: TenantId) -> None:
    """After a delete the key is not read and not listed; deleting it again is harmless."""
    shared = await bus.bucket()
    key = f"account.{tenant}.x"
    first = await shared.create(key, b"1")
    with pytest.raises(Conflict):
        await shared.delete(key, revision=first - 1)
    await shared.delete(key, revision=first)
    await shared.delete(key)

    async def is_gone() -> bool:
        return await shared.get(key) is None and not await shared.keys(f"account.{tenant}.")

    await until(is_gone)
    again = await shared.create(key, b"2")
    assert (await present(bus, key, revision=again)).value == b"2"


async def test_keys_are_listed_by_whole_tokens(bus: BusFixture, tenant: TenantId) -> None:
    """A prefix finds its own keys and no others, more than one page of them."""
    shared = await bus.bucket()
    expected_keys = {f"account.{tenant}.{number}" for number in range(1_100)}
    for key in sorted(expected_keys):
        await shared.create(key, b"")
    await shared.create(f"account.{tenant}x.1", b"")

    async def all_listed() -> bool:
        return set(await shared.keys(f"account.{tenant}.")) == expected_keys

    await until(all_listed)


async def test_rivals_lose_no_update(bus: BusFixture, tenant: TenantId) -> None:
    """Eight counters that retry on conflict add up to all of their steps."""
    shared = await bus.bucket()
    key = f"account.{tenant}"
    await shared.create(key, b"0")

    async def count() -> None:
        mine = await bus.bucket()
        done = 0
        while done < 5:
            found = await mine.get(key)
            if found is None:
                continue  # a replica that does not have the key yet
            try:
                await mine.update(key, str(int(found.value) + 1).encode(), revision=found.revision)
            except Conflict:
                continue
            done += 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(count)

    async def is_forty() -> bool:
        return (found := await shared.get(key)) is not None and found.value == b"40"

    await until(is_forty)


async def test_a_key_of_a_task_is_taken_once_and_can_be_released(bus: BusFixture, tenant: TenantId) -> None:
    """Only one of two tasks has it, until it is released."""
    ids = await bus.bucket(stream_names.IDS_BUCKET)
    revision = await ids.create(f"{tenant}.key", b"run-1")
    with pytest.raises(Conflict):
        await ids.create(f"{tenant}.key", b"run-2")
    found = await until(lambda: ids.get(f"{tenant}.key"))
    assert found is not None
    assert found.value == b"run-1"
    await ids.delete(f"{tenant}.key", revision=revision)
    assert await ids.create(f"{tenant}.key", b"run-2") > revision


async def test_a_key_with_a_time_to_live_expires_and_each_change_renews_it(bus: BusFixture, tenant: TenantId) -> None:
    """Accounts expire by this. A key created without one (by an older linestop) expires once it is changed with one."""
    shared = await bus.bucket()
    short, renewed, lasting = (f"account.{tenant}.{name}" for name in ("short", "renewed", "lasting"))
    await shared.create(short, b"1", ttl_s=1)
    first = await shared.create(renewed, b"1", ttl_s=1)
    await shared.update(renewed, b"2", revision=first, ttl_s=3_600)
    older = await shared.create(lasting, b"1")
    converted = await shared.create(f"account.{tenant}.converted", b"1")
    await shared.update(f"account.{tenant}.converted", b"2", revision=converted, ttl_s=1)

    async def ended() -> bool:
        keys = set(await shared.keys(f"account.{tenant}."))
        return keys == {renewed, lasting}

    await until(ended)
    assert await shared.get(short) is None
    assert (await present(bus, renewed, revision=first)).value == b"2"
    assert (await present(bus, lasting, revision=older)).value == b"1"
