"""The forms of a hold in the accounts: requested, open, or stray."""

from __future__ import annotations

import msgspec


class OpenHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in the system's account of an hour."""

    hold: str
    hour: str


class StrayHold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold in a tenant's or a user's account that the system's account lacks; ``given_at`` in unix seconds."""

    hold: str
    account: str
    period: str
    given_at: int


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A hold that a run wants: ``amount_min_micros``, or ``amount_micros`` if there is plenty of room.

    ``opened_at_ms`` is the moment at which the run opened, in unix milliseconds: the oldest waiting run comes first.
    """

    hold: str
    amount_min_micros: int
    amount_micros: int
    tenant: str
    user: str
    opened_at_ms: int
