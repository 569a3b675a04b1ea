"""The last look before a call begins: whether it still may, asked right before its first byte leaves.

A start is stored, and then a connection is made, a prompt is written, a thread begins: meanwhile a stop may be heard.
The process that performs says how to find out, in a context variable, since between the two lie an SDK and its HTTP
client. Nothing waits here: what the process knows is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime

from linestop import clock

IS_STOPPED: ContextVar[Callable[[], bool]] = ContextVar("is_stopped", default=bool)
"""Whether the run of the call that is being performed was stopped, as far as this process has heard."""

TOO_LATE = "the call was not begun by its start_by and may no longer begin; it can be started again"
STOPPED_FIRST = "the run was stopped before the call began, so it was not begun"


def reason_not_to_begin(start_by: datetime | None) -> str:
    """Why the call that is being performed may not begin any more, in the middle of a sentence; empty if it may."""
    if IS_STOPPED.get()():
        return STOPPED_FIRST
    return TOO_LATE if start_by is not None and clock.now() >= start_by else ""
