"""Accounts: what all runs together may spend, kept by compare-and-set on one key an account and period.

An account's value (``account``) holds what is spent, every open hold by name and the runs that wait, so
reserving and settling the same hold twice changes nothing: a worker that crashed in between is repeated without
harm. In one process the changes to an account are combined into one write (group commit), so that the hourly
account of the whole system is no bottleneck.

Every hold is in the system's account first and leaves it last. So an orphaned hold, whose event never came or
whose end the accounts never heard of, is found there, by reading the few keys of the last hours. Only a worker that was
overtaken while it reserved leaves a hold elsewhere alone: such a stray is found by looking at a few accounts at a time.
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
from linestop.bus.interfaces import Shared
from linestop.errors import Conflict, LinestopError, Refused, Unreachable
from linestop.runtime.money.account_value import Account, Answer, Change, apply_change, next_in_line, run_of
from linestop.runtime.money.own_holds import OwnHolds, spent_of
from linestop.schemas.account_names import SYSTEM, day_of, hour_of, period_end
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.events import AccountLine, SettledHold
from linestop.schemas.run.state import Run

LOG = structlog.get_logger("linestop.spending")
TRIES_MAX: Final = 50
WRITERS_MAX: Final = 1_000
PLACES_MAX: Final = 10_000
AHEAD_PERCENT: Final = 50
"""How full an account may be for a hold to cover more than the next start: above that, room is left to other runs."""

LOOKED_AT: Final = 50
"""How many accounts of tenants and users are looked at for strays each time: all get their turn."""

KEPT: Final = timedelta(days=2)
"""How long an account is kept after its period: a run may end, and be charged, after the day it began in."""


class OpenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold as the system's account of an hour has it."""

    hold: str
    hour: str


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in a tenant's or a user's account that the system's does not have; ``given_at`` in unix seconds."""

    hold: str
    account: str
    period: str
    given_at: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that a run wants: ``least_micros``, or ``amount_micros`` where there is plenty of room.

    ``since`` is the run's age, the unix milliseconds it opened at: the oldest of those that wait comes first.
    """

    hold: str
    least_micros: int
    amount_micros: int
    tenant: str
    user: str
    since: int


class Accounts:
    """Reserves and settles holds. One instance a process; any number of processes."""

    def __init__(self, shared: Shared, limits: AccountLimits, now: Callable[[], datetime]) -> None:
        self._shared = shared
        self._limits = limits
        self._now = now
        self._writers: dict[str, _Writer] = {}
        self._places: dict[str, tuple[str, str]] = {}
        """Where runs wait that asked in this process: ``<tenant>.<run>`` → account and period."""

        self.own = OwnHolds()
        self._over: set[str] = set()
        """Accounts of past hours without a hold: they never change again."""

        self._unseen: list[str] = []
        """Keys of accounts that are still to be looked at for strays."""

        self.on_room: Callable[[str, str], None] | None = None
        """Called with tenant and run of each run that waited and has room now."""

    def lines(self, tenant: str, user: str, hour: str) -> list[tuple[str, str, int]]:
        """The accounts a run of ``user`` draws on in that hour: (name, period, limit), in the order of reservation."""
        day = day_of(period_end(hour) - timedelta(hours=1))
        who = hashlib.sha256(user.encode()).hexdigest()[:24]
        found = [
            (SYSTEM, hour, self._limits.system_hour_micros),
            (f"tenant-{tenant}", day, self._limits.tenant_day_micros),
        ]
        return [*found, (f"user-{tenant}-{who}", day, self._limits.user_day_micros)] if user else found

    async def reserve(self, wanted: Wanted, at: datetime | None = None) -> Reservation:
        """Reserve in every account or in none, in the periods of ``at``: the moment that the ``held`` event will have.

        Asking again for the same hold is answered as before.

        More than the next start needs is reserved only where there is plenty of room. Without room for the next
        start the run gets a place in the line of the account that refused, and ``on_room`` tells when it has come.
        """
        hour = hour_of(at or self._now())
        try:
            if wanted.amount_micros > wanted.least_micros and await self._plenty(wanted, hour):
                ahead = await self._reserve(wanted, hour, amount=wanted.amount_micros, percent=AHEAD_PERCENT)
                if not ahead.refused_account:
                    return ahead
            return await self._reserve(wanted, hour, amount=wanted.least_micros, percent=100)
        except LinestopError as error:
            LOG.warning("account_not_changed", hold=wanted.hold, error=str(error))
            return Reservation(hold=wanted.hold, amount_micros=wanted.least_micros, cause=str(error))

    async def _plenty(self, wanted: Wanted, hour: str) -> bool:
        """Whether it is worth asking for more than the next start needs."""
        for name, period, limit in self.lines(wanted.tenant, wanted.user, hour):
            account = await self._writer(name, period).account()
            if account.waiting or (account.taken + wanted.amount_micros) * 100 > limit * AHEAD_PERCENT:
                return False
        return True

    async def _reserve(self, wanted: Wanted, hour: str, *, amount: int, percent: int) -> Reservation:
        now = int(self._now().timestamp())
        got: list[AccountLine] = []
        made: list[AccountLine] = []
        for name, period, limit in self.lines(wanted.tenant, wanted.user, hour):
            change = Change(
                hold=wanted.hold, amount=amount, limit=limit * percent // 100, since=wanted.since,
                waits=percent == 100, at=now,
            )  # fmt: skip
            answer = await self._writer(name, period).submit(change)
            line = AccountLine(
                account=name, period=period, before_micros=answer.taken, limit_micros=limit, spent_micros=answer.spent
            )
            got.append(line)
            if not answer.fits:
                for each in reversed(made):
                    undo = Change(hold=wanted.hold, spent=0, undo=True, at=now)
                    await self._writer(each.account, each.period).submit(undo)
                if change.waits:
                    await self._place(wanted.hold, None if answer.never else (name, period))
                return Reservation(
                    hold=wanted.hold, amount_micros=amount, accounts=tuple(got), refused_account=name,
                    waits=not answer.never,
                )  # fmt: skip
            made += [line] if answer.made else []
        self.own.note(wanted.hold, made)
        await self._place(wanted.hold, None)
        return Reservation(hold=wanted.hold, amount_micros=amount, accounts=tuple(got))

    async def give_up(self, run: Run) -> None:
        """Give back what this process made for the run and can use no more; see ``OwnHolds``.

        Another worker may have settled it in the log and died before the accounts knew: then it is charged.
        """
        hold, made = self.own.take(run)
        for line in reversed(made):
            place = (line.account, line.period)
            if spent := spent_of(run, hold, place, ordinal=int(hold.rpartition(".")[2])):
                await self.end(hold, *place, spent_micros=spent)
                continue
            undo = Change(hold=hold, spent=0, undo=True, at=int(self._now().timestamp()))
            await self._writer(line.account, line.period).submit(undo)

    async def settle(self, lines: tuple[SettledHold, ...], held: dict[str, tuple[AccountLine, ...]]) -> None:
        """Charge and release holds of a run, as its event says; repeating it is harmless."""
        for line in lines:
            for account in reversed(held.get(line.hold, ())):
                await self.end(line.hold, account.account, account.period, spent_micros=line.spent_micros)

    async def end(self, hold: str, account: str, period: str, *, spent_micros: int) -> None:
        """Charge and release one hold in one account; repeating it is harmless."""
        change = Change(hold=hold, spent=spent_micros, at=int(self._now().timestamp()))
        await self._writer(account, period).submit(change)

    def waits(self, tenant: str, run: str) -> bool:
        """Whether the run has a place in a line that this process knows of."""
        return f"{tenant}.{run}" in self._places

    async def leave(self, tenant: str, run: str) -> None:
        """Give up the place of a run that is over, so that no younger run waits behind it."""
        await self._place(f"{tenant}.{run}.0", None)

    async def _place(self, hold: str, place: tuple[str, str] | None) -> None:
        """Remember where the run waits; it waits in one account at a time."""
        before = self._places.pop(run_of(hold), None)
        if before is not None and before != place:
            await self._writer(*before).submit(Change(hold=hold, leave=True, at=int(self._now().timestamp())))
        if place is not None and len(self._places) < PLACES_MAX:
            self._places[run_of(hold)] = place

    async def held(self, older_than_s: float) -> list[OpenHold]:
        """Holds that were given longer ago than that and never ended."""
        now = self._now()
        found: list[OpenHold] = []
        keys = await self._shared.keys(f"account.{SYSTEM}.")
        self._over &= set(keys)
        for key in keys:
            if key in self._over:
                continue
            hour = key.rpartition(".")[2]
            try:
                account, _ = await read_account(self._shared, key)
                over = period_end(hour) + timedelta(hours=1) < now
            except (Refused, ValueError) as error:
                # What one key holds must not keep what the others hold.
                LOG.warning("account_unreadable", key=key, error=str(error))
                continue
            found += [
                OpenHold(hold=hold, hour=hour)
                for hold, (_, at) in account.holds.items()
                if now.timestamp() - at >= older_than_s
            ]
            if over and not account.holds:
                self._over.add(key)
        return found

    async def strays(self, older_than_s: float) -> list[Stray]:
        """Strays among the next few accounts that were given longer ago than that.

        A worker leaves one whose last writes came after another had reserved, settled and ended the same hold. What
        was spent is charged then.
        """
        if not self._unseen:
            self._unseen = [k for k in await self._shared.keys("account.") if not k.startswith(f"account.{SYSTEM}.")]
        keys, self._unseen = self._unseen[:LOOKED_AT], self._unseen[LOOKED_AT:]
        found: list[Stray] = []
        for key in keys:
            _, name, period = key.split(".")
            for hold, (_, at) in (await self._holds(key) or {}).items():
                if self._now().timestamp() - at >= older_than_s:
                    found.append(Stray(hold=hold, account=name, period=period, given_at=at))
        # The system's accounts are read after the others: what has left them had left the others before.
        for key in await self._shared.keys(f"account.{SYSTEM}.") if found else ():
            holds = {} if key in self._over else await self._holds(key)
            found = [stray for stray in found if holds is not None and stray.hold not in holds]
        return found

    async def give_back(self, stray: Stray) -> None:
        """Release a stray, unless somebody has asked for its hold again."""
        change = Change(hold=stray.hold, spent=0, given_at=stray.given_at, at=int(self._now().timestamp()))
        await self._writer(stray.account, stray.period).submit(change)

    async def _holds(self, key: str) -> dict[str, tuple[int, int]] | None:
        """The holds of an account, or None if nobody can tell; of the system's, ``held`` has said it already."""
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
                self._writers = {k: w for k, w in self._writers.items() if w.busy}
            self._writers[key] = _Writer(self._shared, key, limit=self._limit(name), owner=self)
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
        """How long an account's key is kept from now on, in seconds."""
        left = period_end(key.rpartition(".")[2]) + KEPT - self._now()
        return max(int(left.total_seconds()), 60)

    def wake(self, account: Account, limit: int) -> None:
        """Tell the runs that waited and have room now, oldest first."""
        for run in next_in_line(account, limit, int(self._now().timestamp())):
            tenant, _, name = run.partition(".")
            if self.on_room is not None:
                self.on_room(tenant, name)


async def read_account(shared: Shared, key: str) -> tuple[Account, int]:
    """An account's value and revision, 0 if it has none yet.

    Raises:
        Refused: what is stored there is not an account.
    """
    found = await shared.get(key)
    if found is None:
        return Account(), 0
    try:
        return msgspec.json.decode(found.value, type=Account), found.revision
    except (ValueError, RecursionError) as error:
        raise Refused(f"The key '{key}' does not hold an account ({error}): delete the key.") from None


def _refuse(batch: list[tuple[Change, asyncio.Future[Answer]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
            future.exception()


class _Writer:
    """Combines the changes to one key into single compare-and-set writes."""

    def __init__(self, shared: Shared, key: str, *, limit: int, owner: Accounts) -> None:
        self._shared = shared
        self._key = key
        self._limit = limit
        self._owner = owner
        self._queue: list[tuple[Change, asyncio.Future[Answer]]] = []
        self._running = False
        self._known: tuple[Account, int] | None = None

    @property
    def busy(self) -> bool:
        return bool(self._queue) or self._running

    async def account(self) -> Account:
        """The value as this process knows it; another process may have changed it."""
        if self._known is None:
            self._known = await read_account(self._shared, self._key)
        return self._known[0]

    async def submit(self, change: Change) -> Answer:
        """Queue a change; a caller that finds no write under way writes for all."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
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

    async def _write(self, batch: list[tuple[Change, asyncio.Future[Answer]]]) -> None:
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

    async def _commit(self, changes: list[Change]) -> list[Answer]:
        for _ in range(TRIES_MAX):
            known, self._known = self._known, None
            account, revision = known or await read_account(self._shared, self._key)
            working = account.copy()
            answers = [apply_change(working, change) for change in changes]
            if known is not None and (working == account or not all(answer.fits for answer in answers)):
                # Another process may have changed it since: only a write proves that what is known is true.
                continue
            if working == account:
                self._known = account, revision
                return answers
            value, ttl_s = msgspec.json.encode(working), self._owner.ttl_s(self._key)
            try:
                if revision:
                    revision = await self._shared.update(self._key, value, revision=revision, ttl_s=ttl_s)
                else:
                    revision = await self._shared.create(self._key, value, ttl_s=ttl_s)
            except Conflict:
                continue
            self._known = (working, revision)
            if working.waiting and _made_room(account, working):
                self._owner.wake(working, self._limit)
            return answers
        raise Unreachable(f"The account '{self._key}' changed {TRIES_MAX} times while it was written; try again.")


def _made_room(before: Account, after: Account) -> bool:
    """Whether another run may have room now: something was given back, or a run left the line without a hold."""
    left = before.waiting.keys() - after.waiting.keys()
    return after.taken < before.taken or bool(left - {run_of(hold) for hold in after.holds})
