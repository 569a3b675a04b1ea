"""linestop: run AI agents on an event log that anyone can stop and everyone can check.

The public API, with ``linestop.testing``: the names in the ``__all__`` of these two; every other module is private and
may change. Everything is imported on first use, so that ``import linestop`` costs nothing::

    from linestop import Client

    async with Client.connect(".linestop") as client:
        submitted = await client.submit("support", "Refund order A-17.", key="ticket-4711")
        async for token in client.stream(submitted.run):
            print(token, end="")
        outcome = await client.outcome(submitted.run)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linestop import errors
    from linestop.client import Alert, Client, Outcome, SyncClient, Token
    from linestop.errors import (
        InputError,
        LinestopError,
        NotFound,
        PermissionDenied,
        Refused,
        RunFailed,
        TimedOut,
        Unreachable,
    )
    from linestop.sandbox.tools.decorator import Context, ToolFailed, ToolUnknown, tool

_HOMES = {
    "Alert": "linestop.client",
    "Client": "linestop.client",
    "Outcome": "linestop.client",
    "SyncClient": "linestop.client",
    "Token": "linestop.client",
    "Context": "linestop.sandbox.tools.decorator",
    "ToolFailed": "linestop.sandbox.tools.decorator",
    "ToolUnknown": "linestop.sandbox.tools.decorator",
    "tool": "linestop.sandbox.tools.decorator",
    "InputError": "linestop.errors",
    "LinestopError": "linestop.errors",
    "NotFound": "linestop.errors",
    "PermissionDenied": "linestop.errors",
    "Refused": "linestop.errors",
    "RunFailed": "linestop.errors",
    "TimedOut": "linestop.errors",
    "Unreachable": "linestop.errors",
}
"""The module that defines each public name."""

__all__ = [
    "Alert",
    "Client",
    "Context",
    "InputError",
    "LinestopError",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "Refused",
    "RunFailed",
    "SyncClient",
    "TimedOut",
    "Token",
    "ToolFailed",
    "ToolUnknown",
    "Unreachable",
    "errors",
    "tool",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the value can have any type
    """Import a public name on its first use."""
    if name == "errors":
        return importlib.import_module("linestop.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'linestop' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names of the module, including public names that are not imported yet."""
    return sorted({*globals(), *__all__})
