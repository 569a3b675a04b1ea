"""Whether the embedded server can store: it goes on without, and one of its streams may stay broken.

A stream that once failed to write ("no space left on device") refuses every later message in silence, also when there
is room again, until the server is restarted (nats-server 2.15.1). Its health check names that stream. It is asked
over the server's system account, so no port is opened for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import msgspec
import structlog

from linestop.bus.connection import Connection, connect
from linestop.bus.credentials import Credential
from linestop.bus.disk_space import disk_full_message, free_bytes, is_full
from linestop.bus.nkeys import new_seed
from linestop.bus.permission_table import CredentialName
from linestop.errors import LinestopError
from linestop.schemas.defaults import DISK_FULL_BYTES

LOG = structlog.get_logger("linestop.server")
SYSTEM_ACCOUNT: Final = "$SYS"
SUPERVISOR: Final = "supervisor"
HEALTH: Final = "$SYS.REQ.SERVER.PING.HEALTHZ"
CHECK_EVERY_S: Final = 1.0
RESTART_PAUSE_MIN_S: Final = 2.0
RESTART_PAUSE_MAX_S: Final = 300.0
"""A disk that is broken, not full, fails again after each restart: each one waits twice as long as the one before.
Room that somebody has made since is a reason to try at once."""

RESET_PAUSE_AFTER_S: Final = 600.0
_STUCK: Final = re.compile(r"JetStream (?:stream|consumer) '\S+ > (?P<stream>[^' ]+).*?' write error: (?P<why>.*)")


class _Health(msgspec.Struct, frozen=True):
    status: str = ""
    error: str = ""


class _Reply(msgspec.Struct, frozen=True):
    data: _Health = _Health()


class StuckStream(msgspec.Struct, frozen=True):
    """A stream that failed to write and stays so, and what the server says of it."""

    stream: str
    why: str


def new_supervisor(url: str) -> Credential:
    """Make a user of the system account, for this start of the server only."""
    return Credential(url=url, user=cast("CredentialName", SUPERVISOR), seed=new_seed())


def read_stuck_stream(payload: bytes) -> StuckStream | None:
    """Read a health check's answer; None if every stream can be written to."""
    match = _STUCK.search(msgspec.json.decode(payload, type=_Reply).data.error)
    return StuckStream(match["stream"], match["why"]) if match else None


class StoreWatch:
    """Looks whether the server can store, says when it cannot, and has it started again when it could.

    Args:
        who: A user of the system account.
        directory: The state folder, for the space on its disk.
        say: Told a sentence for people when the disk is full, and before a restart.
        restart: Ends the server and returns; its supervisor starts it again.
    """

    def __init__(
        self,
        user: Credential,
        directory: Path,
        *,
        report: Callable[[str], None],
        restart: Callable[[], Awaitable[None]],
    ) -> None:
        self._user = user
        self._directory = directory
        self._report = report
        self._restart = restart
        self._pause_s = RESTART_PAUSE_MIN_S
        self._restarted_at = -RESET_PAUSE_AFTER_S
        self._free_at_restart = 0
        self._disk_full_reported = False

    async def run(self) -> None:
        """Look for ever; ends by cancellation."""
        while True:
            try:
                async with await connect(self._user, name="linestop supervisor") as connection:
                    while True:
                        await asyncio.sleep(CHECK_EVERY_S)
                        await self.check(connection)
            except (LinestopError, msgspec.DecodeError) as error:
                # The server is away or busy; who starts it again is another's task.
                LOG.debug("store_not_looked_at", why=str(error))
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self, connection: Connection) -> None:
        """Say that the disk is full, once; or start the server again where a stream is stuck and there is room."""
        full = is_full(self._directory)
        if full and not self._disk_full_reported:
            self._report(disk_full_message(self._directory))
        self._disk_full_reported = full
        if full or free_bytes(self._directory) >= self._free_at_restart + DISK_FULL_BYTES:
            self._pause_s = RESTART_PAUSE_MIN_S
        if full:
            self._free_at_restart = 0
            return
        stuck = read_stuck_stream((await connection.request(HEALTH)).data)
        since_s = time.monotonic() - self._restarted_at
        if stuck is None or since_s < self._pause_s:
            return
        self._pause_s = (
            RESTART_PAUSE_MIN_S if since_s > RESET_PAUSE_AFTER_S else min(2 * self._pause_s, RESTART_PAUSE_MAX_S)
        )
        self._report(
            f"The stream {stuck.stream} could not be written to ({stuck.why}) and stays so until nats-server is "
            "started again; there is space, so that is done now."
        )
        await self._restart()
        self._restarted_at, self._free_at_restart = time.monotonic(), free_bytes(self._directory)
