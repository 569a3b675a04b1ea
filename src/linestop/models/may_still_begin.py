"""Checks that a started model request may still begin; a separate module, so that importing it is cheap."""

from __future__ import annotations

from datetime import datetime

from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.start_deadline import reason_not_to_begin


def require_fresh(start_by: datetime | None) -> None:
    """Return if the request may still begin.

    Raises:
        ModelFailed: ``cancelled``, not begun and not billed: ``start_by`` has passed, or the run was stopped.
    """
    if reason := reason_not_to_begin(start_by):
        raise ModelFailed("cancelled", f"{reason[0].upper()}{reason[1:]}.", begun=False)
