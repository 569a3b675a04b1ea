"""Whether a call that was started may still begin; kept apart because it must cost no import."""

from __future__ import annotations

from datetime import UTC, datetime

from linestop.schemas.model import ModelFailed

NOT_BEGUN = "The worker was too busy to begin the call by its start_by; nothing was asked."


def require_fresh(start_by: datetime | None) -> None:
    """Let a call go on that may still begin.

    Raises:
        ModelFailed: ``cancelled``, not begun and not billed, when ``start_by`` has passed.
    """
    if start_by is not None and datetime.now(UTC) >= start_by:
        raise ModelFailed("cancelled", NOT_BEGUN, begun=False)
