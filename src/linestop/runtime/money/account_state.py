"""The value of one account and period: money spent, money held, and the runs that wait for room. Pure.

A change that is applied twice changes nothing the second time, so the work of a crashed worker can be repeated. The
runs that wait are part of the value: then every worker keeps the same order, and a worker that gives room back knows
which runs to wake.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from linestop.schemas.defaults import MONEY_RETRY_S

HOLDS_MAX: Final = 2_000
"""Most open holds of one account; with them and the waiting runs its value stays well below the largest message."""

WAITING_MAX: Final = 1_000
"""Most runs that keep a place in the line of one account. A run beyond them asks as often, but has no place."""

WAITING_LAPSES_S: Final = 2.5 * MONEY_RETRY_S
"""Seconds after which a run that has twice not asked again loses its place: it is over, or its workers are gone."""


class Account(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The stored value.

    ``holds`` maps a hold to (micro-dollars, unix seconds). ``contested`` are holds that several workers asked for:
    none of these workers gives them back on its own. ``waiting`` maps a run to (micro-dollars that it needs, the unix
    milliseconds at which it opened, the unix seconds at which it last asked).
    """

    spent: int = 0
    holds: dict[str, tuple[int, int]] = {}
    contested: set[str] = set()
    waiting: dict[str, tuple[int, int, int]] = {}

    @property
    def taken(self) -> int:
        """Money spent plus money held."""
        return self.spent + sum(amount for amount, _ in self.holds.values())

    def copy(self) -> Account:
        """Return a copy that may be changed."""
        return Account(
            spent=self.spent, holds=dict(self.holds), contested=set(self.contested), waiting=dict(self.waiting)
        )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change: hold ``amount`` within ``limit``; or end the hold with ``spent`` charged.

    ``undo`` ends the hold only if no other worker asked for it, ``given_at`` only if no worker has asked for it since
    that second. ``opened_at_ms`` is the run's age; with ``waits``, a run without room is entered in the line.
    ``leave`` only gives up the run's place in the line.
    """

    hold: str
    amount: int = 0
    limit: int = 0
    opened_at_ms: int = 0
    waits: bool = False
    spent: int | None = None
    undo: bool = False
    given_at: int | None = None
    leave: bool = False
    at: int = 0


class ChangeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a change, with the account's figures before the change and without this hold.

    ``can_never_fit``: the hold exceeds the money not yet spent, whatever other runs give back. ``made_hold``: this
    change made the hold.
    """

    fits: bool
    taken: int = 0
    spent: int = 0
    can_never_fit: bool = False
    made_hold: bool = False


def run_of(hold: str) -> str:
    """Return the ``<tenant>.<run>`` that the hold belongs to."""
    return hold.rpartition(".")[0]


def apply_change(account: Account, change: Change) -> ChangeResult:
    """Apply one change to an account's value and return the result."""
    if change.leave:
        account.waiting.pop(run_of(change.hold), None)
        return ChangeResult(fits=True, taken=account.taken, spent=account.spent)
    if change.spent is not None:
        before = ChangeResult(fits=True, taken=account.taken, spent=account.spent)
        present = account.holds.get(change.hold)
        stays = change.undo and change.hold in account.contested
        stays = stays or (change.given_at is not None and present is not None and present[1] != change.given_at)
        if not stays and account.holds.pop(change.hold, None) is not None:
            account.contested.discard(change.hold)
            account.spent += change.spent
        return before
    return _apply_hold(account, change)


def next_in_line(account: Account, limit: int, at: int) -> Iterator[str]:
    """Yield the runs that waited and have room now, oldest first, each as ``<tenant>.<run>``."""
    free_micros = limit - account.taken
    for run, (amount, _, _) in sorted(_in_line(account, at).items(), key=lambda item: (item[1][1], item[0])):
        free_micros -= amount
        if free_micros < 0 or len(account.holds) >= HOLDS_MAX:
            return
        yield run


def _apply_hold(account: Account, change: Change) -> ChangeResult:
    run, present = run_of(change.hold), account.holds.get(change.hold)
    # A hold never shrinks: a worker that asks for less may not have seen the run's ``held`` event yet.
    amount = max(change.amount, present[0] if present else 0)
    others_micros = account.taken - (present[0] if present else 0)
    older_micros = sum(
        needed
        for other, (needed, since, _) in _in_line(account, change.at).items()
        if other != run and (since, other) < (change.opened_at_ms, run)
    )
    is_full = present is None and len(account.holds) >= HOLDS_MAX
    result = ChangeResult(fits=True, taken=others_micros, spent=account.spent, made_hold=present is None)
    if (present is None or amount > present[0]) and (others_micros + older_micros + amount > change.limit or is_full):
        own_micros = sum(
            held for hold, (held, _) in account.holds.items() if run_of(hold) == run and hold != change.hold
        )
        can_never_fit = account.spent + own_micros + amount > change.limit
        if change.waits:
            _wait(account, run, change, can_never_fit=can_never_fit)
        return msgspec.structs.replace(result, fits=False, can_never_fit=can_never_fit, made_hold=False)
    if present is not None:
        account.contested.add(change.hold)
    account.holds[change.hold] = (amount, change.at)
    account.waiting.pop(run, None)
    return result


def _wait(account: Account, run: str, change: Change, *, can_never_fit: bool) -> None:
    """Enter the run in the line, or remove it if it can never get room; lapsed runs are removed first."""
    account.waiting = _in_line(account, change.at)
    account.waiting.pop(run, None)
    if not can_never_fit and len(account.waiting) < WAITING_MAX:
        account.waiting[run] = (change.amount, change.opened_at_ms, change.at)


def _in_line(account: Account, at: int) -> dict[str, tuple[int, int, int]]:
    return {run: entry for run, entry in account.waiting.items() if at - entry[2] <= WAITING_LAPSES_S}
