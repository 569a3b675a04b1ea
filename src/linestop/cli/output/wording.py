"""Words for people: short texts, counts, times. Each is one line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from linestop.cli.output.terminal_escape import escape_controls
from linestop.schemas.defaults import DEFAULT_TENANT

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))


def short(text: str, chars_max: int = 100) -> str:
    """One clean line of at most ``chars_max`` characters."""
    line = escape_controls(" ".join(text.split(" ")))
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def for_tenant(tenant: str) -> str:
    """The end of a command about a run of this tenant."""
    return "" if tenant == DEFAULT_TENANT else f" --tenant {tenant}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 call``, ``2 calls``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(moment: datetime | None) -> str:
    """The time since a moment, in one unit; empty for None."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def time_left(moment: datetime) -> str:
    """The time until a moment, in the largest unit of which two are left; ``expired`` once it has passed."""
    left = moment - datetime.now(UTC)
    if left <= timedelta():
        return "expired"
    seconds = int(left.total_seconds())
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds >= 2 * size), ("s", 1))
    return f"{seconds // size} {unit}"
