"""The errors by which a tool reports its failure, so that the runtime can act on it.

Any other error of a tool leaves open whether the call took effect, unless its contract is safe to repeat or has
``raises_before_effect``. The same holds for the errors below that this library raises in a tool (``WorkspaceError``,
``EgressFailed``): only the tool knows what it had done before.
"""

from __future__ import annotations

from linestop.schemas.start_deadline import TOO_LATE
from linestop.schemas.tool_contracts import ErrorType


class ToolFailed(Exception):
    """Raised by a tool to fail for a reason that the runtime understands.

    ``type``: ``transient`` (try again later), ``rate_limit`` (the same, ``retry_after_s`` if known),
    ``invalid`` (the model should correct the arguments), ``permanent``. ``retry_safe``: nothing took effect,
    so trying again cannot repeat anything. Not for a call whose outcome is unknown: that is ``ToolUnknown``.
    """

    def __init__(
        self,
        message: str,
        *,
        type: ErrorType = "permanent",  # noqa: A002 - the name of the field in the event
        retry_safe: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.type: ErrorType = type
        self.retry_safe = retry_safe
        self.retry_after_s = retry_after_s


class ToolUnknown(Exception):
    """Raised by a tool that cannot tell whether it took effect, e.g. after a request without a response.

    The call is recorded as ``unknown``, and the probe or a person resolves it, unless the contract is safe to repeat.
    """


class NotBegun(ToolFailed):
    """Raised when this worker is too busy to begin a call: nothing took effect, and no try is used up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="transient", retry_safe=True)


class StartedTooLate(NotBegun):
    """Raised by ``ctx.require_fresh()`` when ``start_by`` has passed or the run was stopped: nothing took effect."""

    def __init__(self, message: str = TOO_LATE) -> None:
        super().__init__(message)


class WorkspaceError(ToolFailed):
    """Raised for a path, size or kind of file that a workspace refuses."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="invalid", retry_safe=True)


class EgressFailed(ToolFailed):
    """Raised when an allowed request got no complete response; not when it was refused (``EgressDenied``)."""


class EgressTooLate(StartedTooLate, EgressFailed):
    """Raised when ``start_by`` had passed, or the run was stopped, before a tool's first request could leave."""


class EgressDenied(EgressFailed):
    """Raised by the egress guard for a request that must not be made; names the host and the rule."""
