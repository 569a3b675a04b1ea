"""The embedded server of ``linestop dev``: one nats-server on loopback, started again when it crashes.

``<dir>`` contains all its files and belongs to one process at a time::

    lock           locked by that process and by its server
    port           the port of the first start, reused so that credential files stay valid
    nats.conf      mode 0600
    nats.log
    credentials/   the credentials that may connect (see ``credentials``)
    jetstream/     the streams
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, cast

import msgspec

from linestop.bus.access.credential_permissions import DEFAULT_ACCESS, AccessOptions
from linestop.bus.access.credentials import (
    Credential,
    credential_path,
    ensure_credentials,
    load_credential,
    logins,
    logins_by_credential,
    write_private,
)
from linestop.bus.access.nkeys import new_seed
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import LOG_FILE, PORT_FILE
from linestop.bus.server.nats_accounts import STREAMS_ACCOUNT, accounts_section
from linestop.bus.server.nats_config import Listen, SyncInterval, server_config
from linestop.bus.server.process import NatsProcess, free_port, port_is_free
from linestop.bus.server.store_health import SYSTEM_ACCOUNT, StoreWatch, new_supervisor
from linestop.bus.stores.signed_checkpoints import ensure_checkpoint_key
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.errors import ConfigError, PermissionDenied, Unreachable
from linestop.schemas.broker_defaults import BROKER_CRASH_WINDOW_S, BROKER_CRASHES_MAX

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 5.0
LOCK_WAIT_S: Final = 2.0
"""How long a new start waits for the lock, because a server outlives a killed parent by a moment."""

LOCK_FILE: Final = "lock"
PORT_TRIES_MAX: Final = 5
ADMIN: Final = "administrator"
ADMIN_WITHIN_S: Final = 10.0


ServerEventKind = Literal["started", "recovering", "crashed", "stuck", "restarted", "gave_up", "stopped"]
"""``stuck``: the server runs but cannot store: the disk is full, or a stream is broken and the server is restarted."""


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the server's state; ``sentence`` is for people."""

    kind: ServerEventKind
    sentence: str
    exit_code: int = 0


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run the server.

    ``port`` 0 means any free one, and the same one at each start. ``sync_interval`` is how much a power failure may
    lose; a crash of the server alone loses nothing.
    """

    port: int = 0
    sync_interval: SyncInterval = "1s"
    sizes: StreamSizes = DEFAULT_SIZES
    access: AccessOptions = DEFAULT_ACCESS


DEFAULT_OPTIONS: Final = ServerOptions()


def _ignore(_event: ServerEvent) -> None:
    """Ignore the event: the default listener."""


class EmbeddedServer:
    """A supervised nats-server; use it as an async context manager, or ``start`` and ``stop``.

    Args:
        directory: Its directory, created if missing. Only one process at a time may use it.
        options: How to run the server.
        on_event: Called with each event of the server, on the event loop.
    """

    def __init__(
        self,
        directory: Path,
        options: ServerOptions = DEFAULT_OPTIONS,
        *,
        on_event: Callable[[ServerEvent], None] = _ignore,
    ) -> None:
        self.directory = directory.resolve()
        self.options = options
        self._on_event = on_event
        self._lock: int | None = None
        self._process: NatsProcess | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._restarting = False
        self._credentials: Mapping[CredentialName, Credential] = {}
        self._supervisor = new_supervisor("")

    @property
    def url(self) -> str:
        """The address at which the server listens."""
        return f"nats://127.0.0.1:{self._running().port}"

    @property
    def pid(self) -> int:
        """The server's process id, 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    def credential(self, name: CredentialName) -> Credential:
        """Return the credential of a role, client or person at this server."""
        self._running()
        return self._credentials[name]

    @contextlib.asynccontextmanager
    async def administrator(self) -> AsyncGenerator[Connection]:
        """Connect as a user with all rights on the streams; the server accepts this user only until the block ends.

        Raises:
            Unreachable: if the server does not accept the user in time.
        """
        process = self._running()
        user = Credential(url=self.url, user=cast("CredentialName", ADMIN), seed=new_seed())
        self._write_config(process.port, administrator=user)
        process.reload()
        try:
            async with await _connect_when_accepted(user) as connection:
                yield connection
        finally:
            self._write_config(process.port)
            process.reload()
            # While the server reads its configuration, requests of others get no reply: wait until that is over.
            await _wait_until_refused(user)

    async def start(self) -> None:
        """Start the server, return when it is ready, and restart it after crashes until ``stop``.

        Raises:
            ConfigError: if another process uses the directory, its credentials belong to an outside broker, or the
                server does not start.
            Unreachable: if the server is not ready in time.
        """
        assert self._process is None, "an embedded server is started once"
        _refuse_folder_of_outside_broker(self.directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = await _take_lock(self.directory)
        try:
            self._process = await self._first_start()
        except BaseException:
            self._release()
            raise
        self._report_event("started", f"nats-server listens on {self.url}.")
        watch = StoreWatch(self._supervisor, self.directory, report=self._report_stuck, restart=self._restart)
        self._tasks = (
            asyncio.create_task(self._supervise(), name="nats-server supervisor"),
            asyncio.create_task(watch.run(), name="nats-server store watch"),
        )

    async def stop(self) -> None:
        """End the server and release the directory; harmless if the server is not running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = ()
        if self._process is not None:
            await self._process.stop()
            self._process = None
            self._report_event("stopped", "nats-server has ended.")
        self._release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _running(self) -> NatsProcess:
        if self._process is None:
            raise ConfigError(f"the embedded server in {self.directory} is not running: start it first.")
        return self._process

    async def _first_start(self) -> NatsProcess:
        """Start on the configured, the stored or any free port; only another free port is tried after a failure."""
        stored = _stored_port(self.directory)
        for attempt in range(PORT_TRIES_MAX):
            chosen = self.options.port or (stored if attempt == 0 else 0)
            if chosen and not port_is_free(chosen):
                if self.options.port:
                    raise ConfigError(f"port {chosen} is in use: choose another, or 0 for any free one.")
                chosen = 0
            process = self._configure(chosen or free_port())
            try:
                await process.start(on_progress=self._report_recovering)
            except ConfigError as error:
                if self.options.port or "address already in use" not in str(error):
                    raise
                continue
            write_private(self.directory / PORT_FILE, str(process.port).encode())
            return process
        raise ConfigError(f"no free port was found in {PORT_TRIES_MAX} attempts: name one that is free.")

    def _configure(self, port: int) -> NatsProcess:
        assert self._lock is not None, "the lock is taken before anything is written"
        url = f"nats://127.0.0.1:{port}"
        self._credentials = ensure_credentials(self.directory, url)
        self._supervisor = new_supervisor(url)
        ensure_checkpoint_key(self.directory / "credentials")
        self._write_config(port)
        # The server inherits the lock: if it outlives this process, no other process opens its streams until it ends.
        return NatsProcess(self._config_file, self._log_file, port=port, inherit=(self._lock,))

    def _write_config(self, port: int, *, administrator: Credential | None = None) -> None:
        listen = Listen(
            port=port,
            store_dir=self.directory / "jetstream",
            file_store_bytes_max=self.options.sizes.total,
            sync_interval=self.options.sync_interval,
            log_file=self._log_file,
        )
        section = accounts_section(logins_by_credential(self._credentials), self.options.access)
        section[SYSTEM_ACCOUNT] = {"users": logins(self._supervisor)}
        if administrator is not None:
            section[STREAMS_ACCOUNT]["users"] = logins(administrator)
        write_private(self._config_file, server_config(listen, section))

    @property
    def _config_file(self) -> Path:
        return self.directory / "nats.conf"

    @property
    def _log_file(self) -> Path:
        return self.directory / LOG_FILE

    async def _supervise(self) -> None:
        """Start the server again whenever it ends by itself, a limited number of times a minute."""
        process = self._running()
        crashes: deque[float] = deque(maxlen=BROKER_CRASHES_MAX)
        while True:
            code = await process.wait()
            now = time.monotonic()
            if self._restarting:
                self._restarting = False
                await self._start_again(process)
                continue
            crashes.append(now)
            self._report_event("crashed", f"nats-server ended by itself (exit code {code}).", code)
            if len(crashes) == BROKER_CRASHES_MAX and now - crashes[0] < BROKER_CRASH_WINDOW_S:
                reason = process.last_error()
                self._report_event(
                    "gave_up",
                    f"nats-server ended {BROKER_CRASHES_MAX} times within {BROKER_CRASH_WINDOW_S:g} s and is not "
                    f"started again: {reason}; see {process.log_file}.",
                    code,
                )
                return
            recent = sum(1 for at in crashes if now - at < BROKER_CRASH_WINDOW_S)
            await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (recent - 1)))
            await self._start_again(process)

    async def _start_again(self, process: NatsProcess) -> None:
        # A failed start leaves an ended process: the next turn of the loop counts it as a crash.
        with contextlib.suppress(ConfigError, Unreachable):
            await process.start(on_progress=self._report_recovering)
            self._report_event("restarted", f"nats-server listens on {self.url} again.")

    async def _restart(self) -> None:
        """End the server on purpose: it is started again, and this does not count as a crash."""
        self._restarting = True
        await self._running().stop()

    def _report_stuck(self, sentence: str) -> None:
        self._report_event("stuck", sentence)

    def _report_recovering(self, sentence: str) -> None:
        self._report_event("recovering", sentence)

    def _report_event(
        self,
        kind: ServerEventKind,
        sentence: str,
        code: int = 0,
    ) -> None:
        self._on_event(ServerEvent(kind=kind, sentence=sentence, exit_code=code))

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


async def _connect_when_accepted(user: Credential) -> Connection:
    """Connect as soon as the server accepts the user."""
    deadline = time.monotonic() + ADMIN_WITHIN_S
    while True:
        try:
            return await connect(user, name="linestop administrator")
        except PermissionDenied:
            if time.monotonic() > deadline:
                raise Unreachable(f"nats-server did not read its new configuration in {ADMIN_WITHIN_S:g} s.") from None
        await asyncio.sleep(0.05)


async def _wait_until_refused(user: Credential) -> None:
    """Wait until the server refuses the user again."""
    deadline = time.monotonic() + ADMIN_WITHIN_S
    while time.monotonic() < deadline:
        try:
            await (await connect(user, name="linestop administrator")).close()
        except PermissionDenied:
            return
        await asyncio.sleep(0.05)
    raise Unreachable(f"nats-server did not read its new configuration in {ADMIN_WITHIN_S:g} s.")


def _refuse_folder_of_outside_broker(directory: Path) -> None:
    """Refuse a folder with credentials that no embedded server has written: they would name this server from then on.

    Raises:
        ConfigError: the folder has credentials, and none of the files that every embedded server writes before them.
    """
    if (directory / LOCK_FILE).exists() or (directory / PORT_FILE).exists():
        return
    paths = [credential_path(directory, name) for name in CREDENTIALS]
    if outside := next((path for path in paths if path.exists()), None):
        raise ConfigError(
            f"The state folder {directory} belongs to the broker at {load_credential(outside).url}, which "
            "`linestop dev` did not start: run `linestop up` for that broker, or name another folder for "
            "`linestop dev`, with LINESTOP_DIR or `dir` in linestop.toml."
        )


async def _take_lock(directory: Path) -> int:
    """Lock the directory for this process and return the locked descriptor."""
    path = directory / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES} or time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(
                    f"linestop dev already runs here (process {holder} uses {directory}); end it with Ctrl-C there and "
                    "start it again to load changed files, or choose another directory."
                ) from None
            await asyncio.sleep(0.05)
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor


def _stored_port(directory: Path) -> int:
    try:
        return int((directory / PORT_FILE).read_text())
    except (OSError, ValueError):
        return 0
