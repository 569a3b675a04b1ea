"""Events of the budget."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Moment
from linestop.schemas.model_messages import Usage


class AccountLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An account's use before this hold, and its limit, in micro-dollars of ``period``."""

    account: str
    period: str
    before_micros: int
    limit_micros: int
    spent_micros: int = 0
    """The part of ``before_micros`` that is spent for good; the rest was held for active runs."""


class Held(Event, frozen=True, kw_only=True):
    """The run may spend ``amount_micros`` more. ``release_after`` is when the sweep may take it back."""

    hold: str
    amount_micros: int
    accounts: tuple[AccountLine, ...] = ()
    price_table: str = ""
    release_after: Moment


class SettledHold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settlement of one hold: ``spent`` stays charged, ``released`` went back to the accounts."""

    hold: str
    spent_micros: int
    released_micros: int


class CostLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The cost of one event. ``source`` is ``reserved`` if the real usage is unknown."""

    n: int
    cost_micros: int
    usage: Usage | None = None
    source: Literal["reported", "reserved"] = "reported"


class Settled(Event, frozen=True, kw_only=True):
    """The run's holds are closed."""

    holds: tuple[SettledHold, ...]
    by_event: tuple[CostLine, ...] = ()


class Queued(Event, frozen=True, kw_only=True):
    """The run waits for money: its next start needs ``need_micros`` more than its accounts can give now.

    ``holds`` states what the run has spent; the rest goes back to the accounts, so that no two runs wait for each
    other's money. ``account`` refused the hold; without one, the accounts could not be changed and ``why`` says why.
    """

    need_micros: int
    why: str
    owner: str = ""
    account: AccountLine | None = None
    resets_at: Moment | None = None
    holds: tuple[SettledHold, ...] = ()


class Warned(Event, frozen=True, kw_only=True):
    """A limit is nearly reached (``value`` of ``max_value``)."""

    limit: str
    value: int
    max_value: int
