"""Whether a call that was started may still begin; kept apart because it must cost no import."""

from __future__ import annotations

from datetime import UTC, datetime

from linestop.schemas.model import ModelFailed


def require_fresh(start_by: datetime | None) -> None:
    """Let a call go on that may still begin.

    Raises:
        ModelFailed: ``cancelled``, not billed, when ``start_by`` has passed.
    """
    if start_by is not None and datetime.now(UTC) >= start_by:
        raise ModelFailed("cancelled", "The call was not begun by its start_by and may no longer begin.")
