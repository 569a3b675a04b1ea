"""Watches whether the embedded server can store: it runs on if it cannot, and a stream may stay broken.

A stream that once failed to write ("no space left on device") drops every later message without a reply, even after
space was freed, until the server is restarted (nats-server 2.15.1). The server's health check names that stream. The
check uses the server's system account, so it needs no open port.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import msgspec

from linestop.bus.access.credentials import Credential
from linestop.bus.access.nkeys import new_seed
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import disk_full_message, free_bytes, is_full
from linestop.errors import LinestopError
from linestop.logger import Logger
from linestop.schemas.broker_defaults import DISK_FULL_BYTES

LOG = Logger("linestop.server")
SYSTEM_ACCOUNT: Final = "$SYS"
SUPERVISOR: Final = "supervisor"
HEALTH: Final = "$SYS.REQ.SERVER.PING.HEALTHZ"
CHECK_EVERY_S: Final = 1.0
RESTART_PAUSE_MIN_S: Final = 2.0
RESTART_PAUSE_MAX_S: Final = 300.0
"""A disk that is broken, not full, fails again after each restart, so each restart waits twice as long as the one
before. If space was freed since the last restart, the next one does not wait."""

RESET_PAUSE_AFTER_S: Final = 600.0
_STUCK: Final = re.compile(r"JetStream (?:stream|consumer) '\S+ > (?P<stream>[^' ]+).*?' write error: (?P<why>.*)")


class _Health(msgspec.Struct, frozen=True):
    status: str = ""
    error: str = ""


class _Reply(msgspec.Struct, frozen=True):
    data: _Health = _Health()


class StuckStream(msgspec.Struct, frozen=True):
    """A stream that failed to write and stays broken, and the server's reason."""

    stream: str
    why: str


def new_supervisor(url: str) -> Credential:
    """Create a user of the system account, for this start of the server only."""
    return Credential(url=url, user=cast("CredentialName", SUPERVISOR), seed=new_seed())


def read_stuck_stream(payload: bytes) -> StuckStream | None:
    """Read the reply of a health check; None if every stream can be written to."""
    match = _STUCK.search(msgspec.json.decode(payload, type=_Reply).data.error)
    return StuckStream(match["stream"], match["why"]) if match else None


class StoreWatch:
    """Checks whether the server can store, reports a full disk, and restarts a stuck server once there is space.

    Args:
        user: A user of the system account.
        directory: The state folder, for the space on its disk.
        report: Called with a sentence for people when the disk is full, and before a restart.
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
        """Check every second until cancelled."""
        while True:
            try:
                async with await connect(self._user, name="linestop supervisor") as connection:
                    while True:
                        await asyncio.sleep(CHECK_EVERY_S)
                        await self.check(connection)
            except (LinestopError, msgspec.DecodeError) as error:
                # The server is away or busy; its supervisor starts it again.
                LOG.debug("store_not_checked", why=str(error))
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self, connection: Connection) -> None:
        """Report a full disk, once; or restart the server if a stream is stuck and there is space."""
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
            f"The stream {stuck.stream} could not be written to ({stuck.why}) and stays broken until nats-server is "
            "started again; there is space, so it is started again now."
        )
        await self._restart()
        self._restarted_at, self._free_at_restart = time.monotonic(), free_bytes(self._directory)
