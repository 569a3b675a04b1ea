"""Accounts: the money that all runs together may spend, stored by compare-and-set on one key per account and period.

An account's value (``account_state``) contains the money spent, every open hold by name and the runs that wait. So
reserving or settling the same hold twice changes nothing, and the work of a crashed worker can be repeated.
In one process the changes to an account are combined into one write (group commit), so that the hourly
account of the whole system does not become a bottleneck.

Every hold enters the system's account first and leaves it last. So an orphaned hold, whose event never came or whose
end never reached the accounts, is found there, by reading the few keys of the last hours. Only a worker that was
overtaken while it reserved leaves a hold in another account alone: such a stray is found by checking a few accounts at
a time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from linestop.actors.facts import Reservation
from linestop.bus.interfaces import Bucket
from linestop.errors import Conflict, LinestopError, Refused, Unreachable
from linestop.runtime.money.account_state import Account, Change, ChangeResult, apply_change, next_in_line, run_of
from linestop.runtime.money.holds import HoldRequest, OpenHold, StrayHold
from linestop.runtime.money.own_holds import OwnHolds, spent_of
from linestop.schemas.account_names import SYSTEM, day_of, hour_of, period_end
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.events import AccountLine, SettledHold
from linestop.schemas.run.fold import Run

LOG = structlog.get_logger("linestop.spending")
TRIES_MAX: Final = 50
WRITERS_MAX: Final = 1_000
WAITING_RUNS_MAX: Final = 10_000
EXTRA_HOLD_MAX_PERCENT: Final = 50
"""Fill up to which a hold may cover more than the next start: above that, the room is left to other runs."""

ACCOUNTS_PER_CHECK: Final = 50
"""How many accounts of tenants and users are checked for strays each time, in turn."""

ACCOUNT_RETENTION: Final = timedelta(days=2)
"""How long an account is stored after its period: a run may end, and be charged, after the day on which it began."""


class AccountLedger:
    """Reserves and settles holds. One instance a process; any number of processes."""

    def __init__(self, shared: Bucket, limits: AccountLimits, now: Callable[[], datetime]) -> None:
        self._shared = shared
        self._limits = limits
        self._now = now
        self._writers: dict[str, _Writer] = {}
        self._waiting_places: dict[str, tuple[str, str]] = {}
        """Where the runs wait that asked through this process: ``<tenant>.<run>`` → account and period."""

        self.own_holds = OwnHolds()
        self._ended_keys: set[str] = set()
        """Accounts of past hours without a hold: they never change again."""

        self._keys_to_check: list[str] = []
        """Keys of accounts that are still to be checked for strays."""

        self.on_funds_freed: Callable[[str, str], None] | None = None
        """Called with tenant and run of each run that waited and has room now."""

    def accounts_of(self, tenant: str, user: str, hour: str) -> list[tuple[str, str, int]]:
        """Return the accounts of a run of ``user`` in that hour: (name, period, limit), in the order of reservation."""
        day = day_of(period_end(hour) - timedelta(hours=1))
        user_digest = hashlib.sha256(user.encode()).hexdigest()[:24]
        found = [
            (SYSTEM, hour, self._limits.system_hour_micros),
            (f"tenant-{tenant}", day, self._limits.tenant_day_micros),
        ]
        return [*found, (f"user-{tenant}-{user_digest}", day, self._limits.user_day_micros)] if user else found

    async def reserve(self, request: HoldRequest, at: datetime | None = None) -> Reservation:
        """Reserve in every account or in none, in the periods of ``at``: the moment that the ``held`` event will have.

        Asking again for the same hold gives the same result.

        More than the next start needs is reserved only if there is plenty of room. Without room for the next start
        the run gets a place in the line of the account that refused, and ``on_funds_freed`` is called when it has room.
        """
        hour = hour_of(at or self._now())
        try:
            if request.amount_micros > request.amount_min_micros and await self._has_ample_funds(request, hour):
                larger = await self._reserve(
                    request, hour, amount=request.amount_micros, percent=EXTRA_HOLD_MAX_PERCENT
                )
                if not larger.refused_account:
                    return larger
            return await self._reserve(request, hour, amount=request.amount_min_micros, percent=100)
        except LinestopError as error:
            LOG.warning("account_not_changed", hold=request.hold, error=str(error))
            return Reservation(hold=request.hold, amount_micros=request.amount_min_micros, cause=str(error))

    async def _has_ample_funds(self, request: HoldRequest, hour: str) -> bool:
        """Whether it is worth asking for more than the next start needs."""
        for name, period, limit in self.accounts_of(request.tenant, request.user, hour):
            account = await self._writer(name, period).account()
            if account.waiting or (account.taken + request.amount_micros) * 100 > limit * EXTRA_HOLD_MAX_PERCENT:
                return False
        return True

    async def _reserve(self, request: HoldRequest, hour: str, *, amount: int, percent: int) -> Reservation:
        now = int(self._now().timestamp())
        account_lines: list[AccountLine] = []
        made_lines: list[AccountLine] = []
        for name, period, limit in self.accounts_of(request.tenant, request.user, hour):
            change = Change(
                hold=request.hold,
                amount=amount,
                limit=limit * percent // 100,
                opened_at_ms=request.opened_at_ms,
                waits=percent == 100,
                at=now,
            )
            result = await self._writer(name, period).submit(change)
            line = AccountLine(
                account=name, period=period, before_micros=result.taken, limit_micros=limit, spent_micros=result.spent
            )
            account_lines.append(line)
            if not result.fits:
                for each in reversed(made_lines):
                    undo = Change(hold=request.hold, spent=0, undo=True, at=now)
                    await self._writer(each.account, each.period).submit(undo)
                if change.waits:
                    await self._set_waiting_place(request.hold, None if result.can_never_fit else (name, period))
                return Reservation(
                    hold=request.hold,
                    amount_micros=amount,
                    accounts=tuple(account_lines),
                    refused_account=name,
                    may_wait=not result.can_never_fit,
                )
            made_lines += [line] if result.made_hold else []
        self.own_holds.record(request.hold, made_lines)
        await self._set_waiting_place(request.hold, None)
        return Reservation(hold=request.hold, amount_micros=amount, accounts=tuple(account_lines))

    async def release_own_hold(self, run: Run) -> None:
        """Give back the hold that this process made for the run and that is of no use any more; see ``OwnHolds``.

        If another worker settled it in the log and died before it changed the accounts, it is charged.
        """
        hold, made_lines = self.own_holds.take(run)
        for line in reversed(made_lines):
            place = (line.account, line.period)
            if spent := spent_of(run, hold, place, ordinal=int(hold.rpartition(".")[2])):
                await self.end_hold(hold, *place, spent_micros=spent)
                continue
            undo = Change(hold=hold, spent=0, undo=True, at=int(self._now().timestamp()))
            await self._writer(line.account, line.period).submit(undo)

    async def settle(self, lines: tuple[SettledHold, ...], held: dict[str, tuple[AccountLine, ...]]) -> None:
        """Charge and release holds of a run as its event says; repeating it is harmless."""
        for line in lines:
            for account in reversed(held.get(line.hold, ())):
                await self.end_hold(line.hold, account.account, account.period, spent_micros=line.spent_micros)

    async def end_hold(self, hold: str, account: str, period: str, *, spent_micros: int) -> None:
        """Charge and release one hold in one account; repeating it is harmless."""
        change = Change(hold=hold, spent=spent_micros, at=int(self._now().timestamp()))
        await self._writer(account, period).submit(change)

    def is_waiting(self, tenant: str, run: str) -> bool:
        """Whether the run has a place in line that this process knows of."""
        return f"{tenant}.{run}" in self._waiting_places

    async def leave_line(self, tenant: str, run: str) -> None:
        """Give up the place in line of a run that is over, so that no younger run waits behind it."""
        await self._set_waiting_place(f"{tenant}.{run}.0", None)

    async def _set_waiting_place(self, hold: str, place: tuple[str, str] | None) -> None:
        """Remember the account in which the run waits; it waits in one at a time."""
        previous = self._waiting_places.pop(run_of(hold), None)
        if previous is not None and previous != place:
            await self._writer(*previous).submit(Change(hold=hold, leave=True, at=int(self._now().timestamp())))
        if place is not None and len(self._waiting_places) < WAITING_RUNS_MAX:
            self._waiting_places[run_of(hold)] = place

    async def open_holds(self, older_than_s: float) -> list[OpenHold]:
        """Return holds that were made longer ago than that and never ended."""
        now = self._now()
        found: list[OpenHold] = []
        keys = await self._shared.keys(f"account.{SYSTEM}.")
        self._ended_keys &= set(keys)
        for key in keys:
            if key in self._ended_keys:
                continue
            hour = key.rpartition(".")[2]
            try:
                account, _ = await read_account(self._shared, key)
                is_over = period_end(hour) + timedelta(hours=1) < now
            except (Refused, ValueError) as error:
                # One unreadable key must not hide the holds of the others.
                LOG.warning("account_unreadable", key=key, error=str(error))
                continue
            found += [
                OpenHold(hold=hold, hour=hour)
                for hold, (_, at) in account.holds.items()
                if now.timestamp() - at >= older_than_s
            ]
            if is_over and not account.holds:
                self._ended_keys.add(key)
        return found

    async def stray_holds(self, older_than_s: float) -> list[StrayHold]:
        """Return the strays among the next few accounts that were made longer ago than that.

        A worker leaves a stray if its last writes came after another worker had reserved, settled and ended the same
        hold. By then the money spent is already charged.
        """
        if not self._keys_to_check:
            self._keys_to_check = [
                k for k in await self._shared.keys("account.") if not k.startswith(f"account.{SYSTEM}.")
            ]
        keys, self._keys_to_check = self._keys_to_check[:ACCOUNTS_PER_CHECK], self._keys_to_check[ACCOUNTS_PER_CHECK:]
        found: list[StrayHold] = []
        for key in keys:
            _, name, period = key.split(".")
            for hold, (_, at) in (await self._holds(key) or {}).items():
                if self._now().timestamp() - at >= older_than_s:
                    found.append(StrayHold(hold=hold, account=name, period=period, given_at=at))
        # The system's accounts are read after the others: a hold that has left them had left the others before.
        for key in await self._shared.keys(f"account.{SYSTEM}.") if found else ():
            holds = {} if key in self._ended_keys else await self._holds(key)
            found = [stray for stray in found if holds is not None and stray.hold not in holds]
        return found

    async def release_stray(self, stray: StrayHold) -> None:
        """Release a stray, unless a worker has asked for its hold again."""
        change = Change(hold=stray.hold, spent=0, given_at=stray.given_at, at=int(self._now().timestamp()))
        await self._writer(stray.account, stray.period).submit(change)

    async def _holds(self, key: str) -> dict[str, tuple[int, int]] | None:
        """Return the holds of an account, None if it is unreadable; ``open_holds`` logs those of the system."""
        try:
            return (await read_account(self._shared, key))[0].holds
        except Refused as error:
            if not key.startswith(f"account.{SYSTEM}."):
                LOG.warning("account_unreadable", key=key, error=str(error))
            return None

    def _writer(self, name: str, period: str) -> _Writer:
        key = f"account.{name}.{period}"
        if key not in self._writers:
            if len(self._writers) >= WRITERS_MAX:
                self._writers = {k: w for k, w in self._writers.items() if w.is_busy}
            self._writers[key] = _Writer(self._shared, key, limit=self._limit(name), ledger=self)
        return self._writers[key]

    def _limit(self, name: str) -> int:
        match name.partition("-")[0]:
            case "tenant":
                return self._limits.tenant_day_micros
            case "user":
                return self._limits.user_day_micros
            case _:
                return self._limits.system_hour_micros

    def ttl_s(self, key: str) -> int:
        """Return how long an account's key is stored from now on, in seconds."""
        left = period_end(key.rpartition(".")[2]) + ACCOUNT_RETENTION - self._now()
        return max(int(left.total_seconds()), 60)

    def wake_waiting(self, account: Account, limit: int) -> None:
        """Call ``on_funds_freed`` for the runs that waited and have room now, oldest first."""
        for run in next_in_line(account, limit, int(self._now().timestamp())):
            tenant, _, name = run.partition(".")
            if self.on_funds_freed is not None:
                self.on_funds_freed(tenant, name)


async def read_account(shared: Bucket, key: str) -> tuple[Account, int]:
    """Return an account's value and revision; the revision is 0 if the account does not exist yet.

    Raises:
        Refused: the stored value is not an account.
    """
    found = await shared.get(key)
    if found is None:
        return Account(), 0
    try:
        return msgspec.json.decode(found.value, type=Account), found.revision
    except (ValueError, RecursionError) as error:
        raise Refused(f"The key '{key}' does not hold an account ({error}): delete the key.") from None


def _fail_all(batch: list[tuple[Change, asyncio.Future[ChangeResult]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()


class _Writer:
    """Combines the changes to one key into single compare-and-set writes."""

    def __init__(self, shared: Bucket, key: str, *, limit: int, ledger: AccountLedger) -> None:
        self._shared = shared
        self._key = key
        self._limit = limit
        self._ledger = ledger
        self._queue: list[tuple[Change, asyncio.Future[ChangeResult]]] = []
        self._running = False
        self._cached: tuple[Account, int] | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self._queue) or self._running

    async def account(self) -> Account:
        """Return the value as this process knows it; another process may have changed it."""
        if self._cached is None:
            self._cached = await read_account(self._shared, self._key)
        return self._cached[0]

    async def submit(self, change: Change) -> ChangeResult:
        """Queue a change; a caller that finds no write in progress writes for all."""
        future: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
        self._queue.append((change, future))
        if not self._running:
            self._running = True
            try:
                while self._queue:
                    batch, self._queue = self._queue, []
                    await self._write(batch)
            finally:
                self._running = False
        return await future

    async def _write(self, batch: list[tuple[Change, asyncio.Future[ChangeResult]]]) -> None:
        try:
            results = await self._commit([change for change, _ in batch])
        except Exception as error:  # noqa: BLE001 - the batch gets the error, the queue must still be served
            _fail_all(batch, error)
            return
        except BaseException:
            waiting, self._queue = self._queue, []
            _fail_all([*batch, *waiting], Unreachable("The account could not be written."))
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def _commit(self, changes: list[Change]) -> list[ChangeResult]:
        for _ in range(TRIES_MAX):
            cached, self._cached = self._cached, None
            account, revision = cached or await read_account(self._shared, self._key)
            working = account.copy()
            results = [apply_change(working, change) for change in changes]
            if cached is not None and (working == account or not all(result.fits for result in results)):
                # Another process may have changed the account since: only a write proves the cached value.
                continue
            if working == account:
                self._cached = account, revision
                return results
            value, ttl_s = msgspec.json.encode(working), self._ledger.ttl_s(self._key)
            try:
                if revision:
                    revision = await self._shared.update(self._key, value, revision=revision, ttl_s=ttl_s)
                else:
                    revision = await self._shared.create(self._key, value, ttl_s=ttl_s)
            except Conflict:
                continue
            self._cached = (working, revision)
            if working.waiting and _has_freed_funds(account, working):
                self._ledger.wake_waiting(working, self._limit)
            return results
        raise Unreachable(f"The account '{self._key}' changed {TRIES_MAX} times while it was written; try again.")


def _has_freed_funds(before: Account, after: Account) -> bool:
    """Whether another run may have room now: money was given back, or a run left the line without a hold."""
    left_line = before.waiting.keys() - after.waiting.keys()
    return after.taken < before.taken or bool(left_line - {run_of(hold) for hold in after.holds})
