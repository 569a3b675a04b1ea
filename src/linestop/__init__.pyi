from linestop.client import Alert as Alert
from linestop.client import Client as Client
from linestop.client import Outcome as Outcome
from linestop.client import SyncClient as SyncClient
from linestop.client import Token as Token
from linestop.errors import InputError as InputError
from linestop.errors import LinestopError as LinestopError
from linestop.errors import NotFound as NotFound
from linestop.errors import PermissionDenied as PermissionDenied
from linestop.errors import Refused as Refused
from linestop.errors import RunFailed as RunFailed
from linestop.errors import TimedOut as TimedOut
from linestop.errors import Unreachable as Unreachable
from linestop.sandbox.tools.decorator import Context as Context
from linestop.sandbox.tools.decorator import ToolFailed as ToolFailed
from linestop.sandbox.tools.decorator import ToolUnknown as ToolUnknown
from linestop.sandbox.tools.decorator import tool as tool

from . import errors as errors

__all__: list[str]  # noqa: PYI035 - computed from the imports above
