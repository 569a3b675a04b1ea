"""All errors of linestop, one tree, split by what the caller should do.

::

    LinestopError
    ├── RetryableError     do the same again, later
    │   ├── Unreachable        the broker does not answer
    │   ├── TimedOut           your deadline passed; the operation continues
    │   └── Conflict           the run's head moved: load, decide again
    ├── InputError         change the input
    │   ├── ConfigError        a file or an environment variable
    │   ├── NotFound           no such run, agent, tool, approval
    │   └── TooLarge           over a documented size
    ├── Refused            ask a person: a grant, a limit or a kill switch must change
    │   └── PermissionDenied   the credential may not do this
    ├── RunFailed          check the run: it ended without the requested answer
    └── Defect             report it: linestop broke its own rule

An expected outcome of a run (a refusal, a stop, an expired approval) is an event, never an exception.
``code`` is stable and safe to match on; the message names the thing, the limit and the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class LinestopError(Exception):
    """Base of all; never raised itself."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class RetryableError(LinestopError):
    """Raised when the same request may succeed later without any change."""

    code: ClassVar[str] = "retry"


class Unreachable(RetryableError):
    """Raised when the broker does not answer within the deadline; not when it refuses."""

    code: ClassVar[str] = "unreachable"
    exit_code: ClassVar[int] = 8


class TimedOut(RetryableError):
    """Raised when the caller's own deadline passed; the broker can be reached, and the operation continues."""

    code: ClassVar[str] = "timed_out"
    exit_code: ClassVar[int] = 10


class Conflict(RetryableError):
    """Raised by an append when the run's head is not the one named; load the run and decide again."""

    code: ClassVar[str] = "conflict"


class InputError(LinestopError):
    """Raised when the input is invalid; sending it again will not help."""

    code: ClassVar[str] = "input"
    exit_code: ClassVar[int] = 2


class ConfigError(InputError):
    """Raised for a configuration file or variable; names the key and the file."""

    code: ClassVar[str] = "config"


class NotFound(InputError):
    """Raised when a run, agent, tool or approval of that name does not exist."""

    code: ClassVar[str] = "not_found"
    exit_code: ClassVar[int] = 1


class TooLarge(InputError):
    """Raised when an input is over a documented size; the message names the size and the limit."""

    code: ClassVar[str] = "too_large"


class Refused(LinestopError):
    """Raised when a person must first change a grant, a limit or a kill switch."""

    code: ClassVar[str] = "refused"


class PermissionDenied(Refused):
    """Raised when the broker refuses a credential; names the subject and the credential."""

    code: ClassVar[str] = "permission"


class RunFailed(LinestopError):
    """Raised if an answer is required of a run that ended without one; not while the run is still open."""

    code: ClassVar[str] = "run_failed"
    exit_code: ClassVar[int] = 3


class Defect(LinestopError):
    """Raised when linestop finds that it broke one of its own rules; please report it."""

    code: ClassVar[str] = "defect"
