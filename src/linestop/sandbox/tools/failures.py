"""How a tool says that it failed, in a way the runtime can act on.

Anything else that a tool raises leaves open whether it took effect, unless its contract is safe to repeat or says
``raises_before_effect``. So do the errors below that this library raises in a tool (``WorkspaceError``,
``EgressFailed``): only the tool knows what it had done before.
"""

from __future__ import annotations

from linestop.schemas.start_deadline import TOO_LATE
from linestop.schemas.tool_contracts import ErrorType


class ToolFailed(Exception):  # noqa: N818 - an outcome, recorded as executor.finished
    """Raise it in a tool to fail with a reason the runtime understands.

    ``type``: ``transient`` (try again later), ``rate_limit`` (the same, ``retry_after_s`` if known),
    ``invalid`` (the model should mend the arguments), ``permanent``. ``retry_safe``: nothing took effect,
    so trying again cannot repeat anything. Not for a call whose fate is open: that is ``ToolUnknown``.
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


class ToolUnknown(Exception):  # noqa: N818 - see ToolFailed
    """Raise it in a tool that cannot say whether it took effect, e.g. a request without an answer.

    Recorded as ``unknown``, so that the probe or a person finds out, unless the contract is safe to repeat.
    """


class NotBegun(ToolFailed):
    """Raised when this worker is too busy to begin a call: nothing took effect, and the attempt costs no try."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="transient", retry_safe=True)


class StartedTooLate(NotBegun):
    """Raised by ``ctx.require_fresh()`` when ``start_by`` has passed or the run was stopped: the tool asked first."""

    def __init__(self, message: str = TOO_LATE) -> None:
        super().__init__(message)


class WorkspaceError(ToolFailed):
    """Raised for a path, size or kind of file that a workspace refuses."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="invalid", retry_safe=True)


class EgressFailed(ToolFailed):
    """Raised when an allowed request got no complete answer; not when it was refused (``EgressDenied``)."""


class EgressTooLate(StartedTooLate, EgressFailed):
    """Raised when ``start_by`` had passed, or the run was stopped, before a tool's first request could leave."""


class EgressDenied(EgressFailed):
    """Raised by the egress guard for a request that must not be made; names the host and the rule."""
