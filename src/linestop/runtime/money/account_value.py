"""The value of one account and period: what is spent, what is held, and which runs wait for room. Pure.

Whatever is asked twice changes nothing the second time, so a worker that crashed half-way is repeated without
harm. The runs that wait stand in the value itself: then every worker keeps the same order, and whoever gives
room back knows which runs to wake.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

HOLDS_MAX: Final = 2_000
"""Open holds of one account; with them and the waiting runs its value stays well below the largest message."""

WAITING_MAX: Final = 1_000
"""Runs that keep their place in the line of one account. A run beyond them asks again as often, without a place."""

WAITING_LAPSES_S: Final = 75
"""A run that has not asked for so long has lost its place: it is over, or its workers are gone."""


class Account(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is stored.

    ``holds`` maps a hold to (micro-dollars, unix seconds). ``contested`` are holds that several workers asked for:
    none of those gives it back on its own. ``waiting`` maps a run to (micro-dollars it needs, its age as the unix
    milliseconds it opened at, unix seconds it asked at last).
    """

    spent: int = 0
    holds: dict[str, tuple[int, int]] = {}
    contested: set[str] = set()
    waiting: dict[str, tuple[int, int, int]] = {}

    @property
    def taken(self) -> int:
        """Spent plus held."""
        return self.spent + sum(amount for amount, _ in self.holds.values())

    def copy(self) -> Account:
        """A copy that may be changed."""
        return Account(
            spent=self.spent, holds=dict(self.holds), contested=set(self.contested), waiting=dict(self.waiting)
        )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change: hold ``amount`` within ``limit``; or end the hold with ``spent`` charged.

    ``undo`` ends it only if no other worker asked for it, ``given_at`` only if nobody has asked for it since that
    second. ``since`` is the run's age; a run without room is entered as waiting if ``waits``. ``leave`` only gives up
    its place in the line.
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
    """What came of a change, with the account as it was before it, without this hold.

    ``never``: it does not fit into what is not spent, whatever other runs give back. ``made``: this change made
    the hold.
    """

    fits: bool
    taken: int = 0
    spent: int = 0
    can_never_fit: bool = False
    made_hold: bool = False


def run_of(hold: str) -> str:
    """The ``<tenant>.<run>`` whose hold it is."""
    return hold.rpartition(".")[0]


def apply_change(account: Account, change: Change) -> ChangeResult:
    """Apply one change to an account's value and return what came of it."""
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
    """The runs that waited and have room now, oldest first: each as ``<tenant>.<run>``."""
    free_micros = limit - account.taken
    for run, (amount, _, _) in sorted(_in_line(account, at).items(), key=lambda item: (item[1][1], item[0])):
        free_micros -= amount
        if free_micros < 0 or len(account.holds) >= HOLDS_MAX:
            return
        yield run


def _apply_hold(account: Account, change: Change) -> ChangeResult:
    run, present = run_of(change.hold), account.holds.get(change.hold)
    # A hold never shrinks: a worker that asks for less may have seen less of the run than its ``held`` event.
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
    """Enter the run in the line, or take it out if no room can come; what has lapsed goes first."""
    account.waiting = _in_line(account, change.at)
    account.waiting.pop(run, None)
    if not can_never_fit and len(account.waiting) < WAITING_MAX:
        account.waiting[run] = (change.amount, change.opened_at_ms, change.at)


def _in_line(account: Account, at: int) -> dict[str, tuple[int, int, int]]:
    return {run: entry for run, entry in account.waiting.items() if at - entry[2] <= WAITING_LAPSES_S}
