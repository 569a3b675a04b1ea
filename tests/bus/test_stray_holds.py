"""A hold that a worker made after another one had ended it is released, and no other hold."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from tests.builders import NOW

from linestop.bus.interfaces import Bucket
from linestop.runtime.money.holds import HoldRequest
from linestop.runtime.money.ledger import AccountLedger, read_account
from linestop.runtime.money.orphaned_holds import release_orphaned_holds
from linestop.schemas.defaults import ORPHANED_AFTER_S, AccountLimits
from linestop.schemas.events import Cue, Held, SettledHold
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.memory import MemoryBroker

pytestmark = pytest.mark.anyio
HOLD = "acme.r1.1"
HELD = Held(id="e", at=NOW, cue=Cue(kind="sweep"), hold=HOLD, amount_micros=1_000, accounts=(), release_after=NOW)
REQUEST = HoldRequest(
    hold=HOLD, amount_min_micros=1_000, amount_micros=1_000, tenant="acme", user="ann", opened_at_ms=0
)


class Delayed:
    """A bucket in which the first read of one kind of account, and all later ones, are delayed."""

    def __init__(self, shared: Bucket, kind: str = "tenant-") -> None:
        self._shared = shared
        self._kind = kind
        self.at_tenant = anyio.Event()
        self.goes_on = anyio.Event()

    async def get(self, key: str) -> object:
        if self._kind in key:
            self.at_tenant.set()
            await self.goes_on.wait()
        return await self._shared.get(key)

    def __getattr__(self, name: str) -> object:
        return getattr(self._shared, name)


async def test_a_hold_that_was_made_again_after_its_end_is_released_and_not_charged_twice() -> None:
    """Its worker sees in the log that the run has settled it, and releases it at once, in all accounts."""
    broker = MemoryBroker(lambda: NOW)
    shared, limits = broker.bucket("shared"), AccountLimits()
    quick = AccountLedger(shared, limits, now=lambda: NOW)
    delayed = Delayed(shared, "system")
    slow = AccountLedger(delayed, limits, now=lambda: NOW)  # type: ignore[arg-type]
    run = Run(TenantId("acme"), RunId("r1"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.reserve, REQUEST)
        await delayed.at_tenant.wait()
        reserved = await quick.reserve(REQUEST)
        line = SettledHold(hold=HOLD, spent_micros=400, released_micros=600)
        await quick.settle((line,), {HOLD: reserved.accounts})
        delayed.goes_on.set()
    assert await _state(shared) == {"system": (400, 1), "tenant": (400, 1), "user": (400, 1)}
    assert not slow.own_holds.is_obsolete(run)
    run.holds_made = 1
    assert slow.own_holds.is_obsolete(run)
    await slow.release_own_hold(run)
    assert not slow.own_holds.is_obsolete(run)
    assert await _state(shared) == {"system": (400, 0), "tenant": (400, 0), "user": (400, 0)}


async def test_a_hold_that_the_log_shows_open_is_kept() -> None:
    """Its run needs it, whichever worker made it."""
    broker = MemoryBroker(lambda: NOW)
    accounts = AccountLedger(broker.bucket("shared"), AccountLimits(), now=lambda: NOW)
    run = Run(TenantId("acme"), RunId("r1"))
    await accounts.reserve(REQUEST)
    run.holds_made, run.holds[HOLD] = 1, HELD
    assert not accounts.own_holds.is_obsolete(run)
    run.holds.clear()
    assert not accounts.own_holds.is_obsolete(run)


async def test_the_hold_of_an_overtaken_worker_is_released() -> None:
    """One of two workers is slow between two accounts; in the meantime the other makes, settles and ends the hold."""
    at = [NOW]
    broker = MemoryBroker(lambda: at[0])
    shared, limits = broker.bucket("shared"), AccountLimits()
    quick = AccountLedger(shared, limits, now=lambda: at[0])
    delayed = Delayed(shared)
    slow = AccountLedger(delayed, limits, now=lambda: at[0])  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.reserve, REQUEST)
        await delayed.at_tenant.wait()
        reserved = await quick.reserve(REQUEST)
        line = SettledHold(hold=HOLD, spent_micros=400, released_micros=600)
        await quick.settle((line,), {HOLD: reserved.accounts})
        delayed.goes_on.set()
    assert await _state(shared) == {"system": (400, 0), "tenant": (400, 1), "user": (400, 1)}
    assert await release_orphaned_holds(quick, broker.log()) == 0
    at[0] += timedelta(seconds=ORPHANED_AFTER_S)
    assert await release_orphaned_holds(quick, broker.log()) == 1
    assert await _state(shared) == {"system": (400, 0), "tenant": (400, 0), "user": (400, 0)}


async def test_a_hold_that_was_requested_again_is_not_a_stray() -> None:
    """Between reading and changing the accounts a worker may make the same hold again."""
    at = [NOW]
    broker = MemoryBroker(lambda: at[0])
    shared = broker.bucket("shared")
    accounts = AccountLedger(shared, AccountLimits(), now=lambda: at[0])
    reserved = await accounts.reserve(REQUEST)
    await accounts.end_hold(HOLD, "system", reserved.accounts[0].period, spent_micros=0)
    at[0] += timedelta(seconds=ORPHANED_AFTER_S)
    strays = await accounts.stray_holds(ORPHANED_AFTER_S)
    assert len(strays) == 2
    await accounts.reserve(REQUEST)
    for stray in strays:
        await accounts.release_stray(stray)
    assert await _state(shared) == {"system": (0, 1), "tenant": (0, 1), "user": (0, 1)}


async def _state(shared: Bucket) -> dict[str, tuple[int, int]]:
    """The spent money and the number of holds of each account."""
    found = {key: (await read_account(shared, key))[0] for key in await shared.keys("account.")}
    return {key.split(".")[1].partition("-")[0]: (a.spent, len(a.holds)) for key, a in found.items()}
