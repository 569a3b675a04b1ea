"""The accounts that all runs share: their names, their periods, and the sentences about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from linestop.schemas.dollars import dollars
from linestop.schemas.events import AccountLine
from linestop.schemas.subjects import TenantId

SYSTEM = "system"
_DAY, _HOUR = "%Y-%m-%d", "%Y-%m-%d-%H"


def day_of(at: datetime) -> str:
    """Return the period of a daily account (UTC)."""
    return at.astimezone(UTC).strftime(_DAY)


def hour_of(at: datetime) -> str:
    """Return the period of an hourly account (UTC)."""
    return at.astimezone(UTC).strftime(_HOUR)


def period_end(period: str) -> datetime:
    """Return when a period is over, and its account starts again at zero.

    Raises:
        ValueError: the period is neither a day nor an hour.
    """
    hourly = period.count("-") > _DAY.count("-")
    began = datetime.strptime(period, _HOUR if hourly else _DAY).replace(tzinfo=UTC)
    return began + (timedelta(hours=1) if hourly else timedelta(days=1))


def owner_of(line: AccountLine, tenant: TenantId, user: str) -> str:
    """Return the owner of the account, in words for a person."""
    kind = line.account.partition("-")[0]
    return {"tenant": f"tenant {tenant}", "user": f"user {user}"}.get(kind, "all runs together")


def setting_of(line: AccountLine) -> str:
    """Return the name of the account's limit under ``[accounts]``."""
    kind = line.account.partition("-")[0]
    return {"tenant": "tenant_day_micros", "user": "user_day_micros"}.get(kind, "system_hour_micros")


def budget_sentence(line: AccountLine, owner: str) -> str:
    """Return the account's limit, spending, holds and reset time as a sentence without a full stop."""
    hourly = line.account == SYSTEM
    held = line.before_micros - line.spent_micros
    return (
        f"{owner} may spend {dollars(line.limit_micros)} {'an hour' if hourly else 'a day'}, "
        f"has spent {dollars(line.spent_micros)}"
        + (f" and holds {dollars(held)} for runs at work" if held > 0 else "")
        + f", resets at {period_end(line.period):%Y-%m-%d %H:%M} UTC"
    )
