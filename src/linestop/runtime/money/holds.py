"""Holds as the accounts know them: requested, open, or left behind."""

from __future__ import annotations

import msgspec


class OpenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold as the system's account of an hour has it."""

    hold: str
    hour: str


class StrayHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in a tenant's or a user's account that the system's does not have; ``given_at`` in unix seconds."""

    hold: str
    account: str
    period: str
    given_at: int


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that a run wants: ``least_micros``, or ``amount_micros`` where there is plenty of room.

    ``since`` is the run's age, the unix milliseconds it opened at: the oldest of those that wait comes first.
    """

    hold: str
    amount_min_micros: int
    amount_micros: int
    tenant: str
    user: str
    opened_at_ms: int
