"""The last check before a call or request begins: whether it still may, right before its first byte is sent.

A start is stored, and then a connection is made, a prompt is written, a thread begins: meanwhile a stop may arrive.
The performing process sets the check in a context variable, since an SDK and its HTTP client lie in between. Nothing
waits here: only the present knowledge of the process counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime

from linestop import clock

IS_STOPPED: ContextVar[Callable[[], bool]] = ContextVar("is_stopped", default=bool)
"""Whether the run of the present call or request was stopped, as far as this process knows."""

TOO_LATE = "the call missed its start_by and was not made; a new attempt can be started"
STOPPED_FIRST = "the run was stopped before the call began, so it was not begun"


def reason_not_to_begin(start_by: datetime | None) -> str:
    """Return why the present call or request may not begin any more, as a part of a sentence; empty if it may."""
    if IS_STOPPED.get()():
        return STOPPED_FIRST
    return TOO_LATE if start_by is not None and clock.now() >= start_by else ""
