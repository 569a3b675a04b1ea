"""The accounts that all runs share: how they and their periods are called, and how a sentence speaks of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from linestop.schemas.events import AccountLine
from linestop.schemas.subjects import TenantId

SYSTEM = "system"
_DAY, _HOUR = "%Y-%m-%d", "%Y-%m-%d-%H"


def day_of(at: datetime) -> str:
    """The period of an account that is kept by the day (UTC)."""
    return at.astimezone(UTC).strftime(_DAY)


def hour_of(at: datetime) -> str:
    """The period of an account that is kept by the hour (UTC)."""
    return at.astimezone(UTC).strftime(_HOUR)


def period_end(period: str) -> datetime:
    """When a period is over, and its account begins again at nothing.

    Raises:
        ValueError: it is neither a day nor an hour.
    """
    hourly = period.count("-") > _DAY.count("-")
    began = datetime.strptime(period, _HOUR if hourly else _DAY).replace(tzinfo=UTC)
    return began + (timedelta(hours=1) if hourly else timedelta(days=1))


def owner_of(line: AccountLine, tenant: TenantId, user: str) -> str:
    """Whose account it is, as a person would say it."""
    kind = line.account.partition("-")[0]
    return {"tenant": f"tenant {tenant}", "user": f"user {user}"}.get(kind, "all runs together")


def setting_of(line: AccountLine) -> str:
    """The name of the account's limit under ``[accounts]``."""
    kind = line.account.partition("-")[0]
    return {"tenant": "tenant_day_micros", "user": "user_day_micros"}.get(kind, "system_hour_micros")


def budget_sentence(line: AccountLine, owner: str) -> str:
    """What the account may spend, has spent and holds, and when it begins again; without a full stop."""
    hourly = line.account == SYSTEM
    held = line.before_micros - line.spent_micros
    return (
        f"{owner} may spend {dollars(line.limit_micros)} {'an hour' if hourly else 'a day'}, "
        f"has spent {dollars(line.spent_micros)}"
        + (f" and holds {dollars(held)} for runs at work" if held > 0 else "")
        + f", resets at {period_end(line.period):%Y-%m-%d %H:%M} UTC"
    )


def dollars(micros: int) -> str:
    """Micro-dollars as dollars: two digits at least, and no more than it takes."""
    whole, _, rest = f"{micros / 1e6:.6f}".partition(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"
