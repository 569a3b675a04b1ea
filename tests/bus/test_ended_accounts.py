"""Accounts that an older linestop left without a time to live."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from linestop.bus.streams import stream_names
from linestop.runtime.money import orphaned_holds
from linestop.runtime.money.account_state import Account
from linestop.runtime.money.ledger import ACCOUNT_RETENTION
from linestop.runtime.money.orphaned_holds import RETENTION_MARGIN, remove_ended_accounts
from linestop.schemas.account_names import day_of, hour_of, period_end
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


def test_accounts_of_long_ended_periods_are_removed_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few for each call, until all are gone; one that still holds money, or cannot be read, stays."""
    monkeypatch.setattr(orphaned_holds, "REMOVED_PER_CALL_MAX", 2)

    async def main() -> None:
        shared = MemoryBroker(virtual_now).bucket(stream_names.SHARED_BUCKET)
        old, now = virtual_now() - timedelta(days=40), virtual_now()
        spent = msgspec.json.encode(Account(spent=5))
        holds = msgspec.json.encode(Account(holds={"acme.r.1": (7, 0)}))
        ended = [f"account.user-acme-{n}.{day_of(old)}" for n in range(4)] + [f"account.system.{hour_of(old)}"]
        remaining_keys = [
            f"account.user-acme-1.{day_of(now)}",
            f"account.system.{hour_of(now)}",
            "account.odd.yesterday",
        ]
        for key in (*ended, *remaining_keys):
            await shared.create(key, spent)
        await shared.create(f"account.user-acme-9.{day_of(old)}", holds)
        await shared.create("door.closed", b"[]")
        done = [await remove_ended_accounts(shared, now) for _ in range(3)]
        assert done == [False, False, True]
        assert set(await shared.keys("")) == {f"account.user-acme-9.{day_of(old)}", *remaining_keys, "door.closed"}

    run_virtual(main, seed=1)


def test_an_account_without_a_time_to_live_is_removed_when_one_would_expire() -> None:
    """To the hour: an account with a time to live expires by itself."""

    async def main() -> None:
        shared = MemoryBroker(virtual_now).bucket(stream_names.SHARED_BUCKET)
        key = f"account.tenant-acme.{day_of(virtual_now())}"
        await shared.create(key, msgspec.json.encode(Account(spent=5)))
        over = period_end(day_of(virtual_now())) + ACCOUNT_RETENTION + RETENTION_MARGIN
        assert await remove_ended_accounts(shared, over)
        assert await shared.get(key) is not None
        assert await remove_ended_accounts(shared, over + timedelta(seconds=1))
        assert await shared.get(key) is None

    run_virtual(main, seed=1)
