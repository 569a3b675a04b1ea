"""Accounts: what all runs together may spend, kept by compare-and-set on one key an account and period.

An account's value holds what is spent and every open hold by name, so reserving and settling the same hold
twice changes nothing: whoever crashed in between is repeated without harm. In one process the changes to an
account are combined into one write (group commit), so that the hourly account of the whole system is no
bottleneck.

The order is system, tenant, user; a refusal releases in reverse. A hold whose event never came is found by
the sweep and settled from the run's log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from linestop.actors.facts import Reservation
from linestop.bus.ports import Shared
from linestop.errors import Conflict, Unreachable
from linestop.schemas.events import AccountLine, Settled
from linestop.schemas.limits import AccountLimits

LOG = structlog.get_logger("linestop.spending")
TRIES_MAX = 50


class Account(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value of one account and period. ``holds`` maps a hold's id to (micro-dollars, unix seconds)."""

    spent: int = 0
    holds: dict[str, tuple[int, int]] = {}

    @property
    def taken(self) -> int:
        """Spent plus held."""
        return self.spent + sum(amount for amount, _ in self.holds.values())


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change: hold ``amount`` (``spent`` None), or end the hold with ``spent`` charged."""

    hold: str
    amount: int = 0
    limit: int = 0
    spent: int | None = None
    at: int = 0


class OpenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold as one account and period has it."""

    hold: str
    account: str
    period: str


class Accounts:
    """Reserves and settles holds. One instance a process; any number of processes."""

    def __init__(self, shared: Shared, limits: AccountLimits, now: Callable[[], datetime]) -> None:
        self._shared = shared
        self._limits = limits
        self._now = now
        self._writers: dict[str, _Writer] = {}
        self._over: set[str] = set()
        """Accounts of past periods without a hold: they never change again."""

    def lines(self, tenant: str, user: str, at: datetime) -> list[tuple[str, str, int]]:
        """The accounts a run of ``user`` draws on: (name, period, limit), in the order of reservation."""
        day, hour = at.strftime("%Y-%m-%d"), at.strftime("%Y-%m-%d-%H")
        who = hashlib.sha256(user.encode()).hexdigest()[:24]
        found = [
            ("system", hour, self._limits.system_hour_micros),
            (f"tenant-{tenant}", day, self._limits.tenant_day_micros),
        ]
        return [*found, (f"user-{tenant}-{who}", day, self._limits.user_day_micros)] if user else found

    async def reserve(self, *, hold: str, amount_micros: int, tenant: str, user: str) -> Reservation:
        """Reserve in every account or in none. Asking again for the same hold is answered as before."""
        now = self._now()
        got: list[AccountLine] = []
        for name, period, limit in self.lines(tenant, user, now):
            change = Change(hold=hold, amount=amount_micros, limit=limit, at=int(now.timestamp()))
            fits, before = await self._writer(name, period).submit(change)
            line = AccountLine(account=name, period=period, before_micros=before, limit_micros=limit)
            if not fits:
                await self._release(hold, got)
                return Reservation(hold=hold, amount_micros=amount_micros, accounts=(*got, line), refused_account=name)
            got.append(line)
        return Reservation(hold=hold, amount_micros=amount_micros, accounts=tuple(got))

    async def settle(self, settled: Settled, held: dict[str, tuple[AccountLine, ...]]) -> None:
        """Charge and release the holds of a run, as its ``settled`` event says; repeating it is harmless."""
        for line in settled.holds:
            for account in held.get(line.hold, ()):
                change = Change(hold=line.hold, spent=line.spent_micros)
                await self._writer(account.account, account.period).submit(change)

    async def held(self, older_than_s: float) -> list[OpenHold]:
        """Holds that were given longer ago than that and never ended."""
        now = self._now()
        found: list[OpenHold] = []
        for key in await self._shared.keys("account."):
            if key in self._over:
                continue
            stored = await self._shared.get(key)
            try:
                account = msgspec.json.decode(stored.value, type=Account) if stored else Account()
                name, period = key.removeprefix("account.").split(".", 1)
            except (ValueError, RecursionError) as error:
                # What one key holds must not keep what the others hold. msgspec's errors are ValueErrors.
                LOG.warning("account_unreadable", key=key, error=str(error))
                continue
            found += [
                OpenHold(hold=hold, account=name, period=period)
                for hold, (_, at) in account.holds.items()
                if now.timestamp() - at >= older_than_s
            ]
            if not account.holds and not _running(period, now):
                self._over.add(key)
        return found

    async def end(self, hold: OpenHold, spent_micros: int) -> None:
        """Charge and release one hold in one account; repeating it is harmless."""
        await self._writer(hold.account, hold.period).submit(Change(hold=hold.hold, spent=spent_micros))

    async def _release(self, hold: str, lines: list[AccountLine]) -> None:
        for line in reversed(lines):
            await self._writer(line.account, line.period).submit(Change(hold=hold, spent=0))

    def _writer(self, name: str, period: str) -> _Writer:
        key = f"account.{name}.{period}"
        if key not in self._writers:
            if len(self._writers) > 10_000:
                self._writers = {k: w for k, w in self._writers.items() if w.busy}
            self._writers[key] = _Writer(self._shared, key)
        return self._writers[key]


def _running(period: str, now: datetime) -> bool:
    """Whether a period (a day or an hour) may still be given holds by a clock that is a little slow."""
    past = now - timedelta(hours=1)
    return any(period in {when.strftime("%Y-%m-%d"), when.strftime("%Y-%m-%d-%H")} for when in (now, past))


def _refuse(batch: list[tuple[Change, asyncio.Future[tuple[bool, int]]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()


def apply_change(account: Account, change: Change) -> tuple[bool, int]:
    """Apply one change to an account's value; return whether it fits and what was taken before it."""
    before = account.taken
    if change.spent is not None:
        if account.holds.pop(change.hold, None) is not None:
            account.spent += change.spent
        return True, before
    present = account.holds.get(change.hold)
    # A hold never shrinks: whoever asks for less may have seen less of the run than its ``held`` event.
    amount = max(change.amount, present[0] if present else 0)
    others = before - (present[0] if present else 0)
    if others + amount > change.limit:
        return False, before
    account.holds[change.hold] = (amount, change.at)
    return True, others


class _Writer:
    """Combines the changes to one key into single compare-and-set writes."""

    def __init__(self, shared: Shared, key: str) -> None:
        self._shared = shared
        self._key = key
        self._queue: list[tuple[Change, asyncio.Future[tuple[bool, int]]]] = []
        self._running = False
        self._known: tuple[Account, int] | None = None

    @property
    def busy(self) -> bool:
        return bool(self._queue) or self._running

    async def submit(self, change: Change) -> tuple[bool, int]:
        """Queue a change; whoever finds nobody writing writes for all."""
        future: asyncio.Future[tuple[bool, int]] = asyncio.get_running_loop().create_future()
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

    async def _write(self, batch: list[tuple[Change, asyncio.Future[tuple[bool, int]]]]) -> None:
        try:
            answers = await self._commit([change for change, _ in batch])
        except Exception as error:  # noqa: BLE001 - it is the answer of each; who queued up behind must still be served
            _refuse(batch, error)
            return
        except BaseException:
            waiting, self._queue = self._queue, []
            _refuse([*batch, *waiting], Unreachable("The account could not be written."))
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _commit(self, changes: list[Change]) -> list[tuple[bool, int]]:
        for _ in range(TRIES_MAX):
            account, revision = self._known or await self._read()
            working = Account(spent=account.spent, holds=dict(account.holds))
            answers = [apply_change(working, change) for change in changes]
            if working == account:
                return answers
            value = msgspec.json.encode(working)
            try:
                if revision:
                    revision = await self._shared.update(self._key, value, revision=revision)
                else:
                    revision = await self._shared.create(self._key, value)
            except Conflict:
                self._known = None
                continue
            except BaseException:
                self._known = None
                raise
            self._known = (working, revision)
            return answers
        raise Unreachable(f"The account '{self._key}' changed {TRIES_MAX} times while it was written; try again.")

    async def _read(self) -> tuple[Account, int]:
        found = await self._shared.get(self._key)
        if found is None:
            return Account(), 0
        return msgspec.json.decode(found.value, type=Account), found.revision
