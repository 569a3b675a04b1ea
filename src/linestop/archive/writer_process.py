"""The archive's writer in a process of its own, so that neither its CPU time nor its commits delay a run.

``Writer`` belongs to the process with the recorder. It starts the writer, sends it one line with what it needs,
prints its log events as its own, and starts it again if it ends. The writer stores what is left and ends when its
standard input closes, so also when the process with the recorder is killed. It has a lower priority than the actors:
an archive that waits costs nothing but delay, because the log keeps what is not archived yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
import structlog
from anyio.streams.buffered import BufferedByteReceiveStream

from linestop.archive.query_socket import ask_reach
from linestop.archive.requests import Reach
from linestop.bus.access.credentials import Credential
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.errors import LinestopError
from linestop.schemas.broker_defaults import ARCHIVE_RETRY_S

LOG = structlog.get_logger("linestop.archive")
NICENESS: Final = 10
REACH_RETRY_S: Final = 0.25
ENDS_WITHIN_S: Final = 5.0
"""How long a writer may take to store the rest and close its file before it is killed."""

LOG_LINE_BYTES_MAX: Final = 1024 * 1024


class WriterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer needs; ``database_days`` as in ``Archive``."""

    path: str
    database_days: int
    credential: Credential


class Writer:
    """Keeps one archive's writer running. ``run`` is one task of the recorder's process."""

    def __init__(self, path: Path, credential: Credential, *, database_days: int = 0) -> None:
        self.path = path
        self._settings = WriterSettings(path=str(path), database_days=database_days, credential=credential)

    async def run(self) -> None:
        """Archive without end. When cancelled, return after the writer has stored what is left and has ended."""
        while True:
            try:
                await self._run_writer()
            except Exception:
                # No process can be started, or the writer's output is unreadable: neither may end the recorder.
                LOG.exception("archive_writer_failed", path=str(self.path))
            LOG.warning(
                "archive_writer_ended", path=str(self.path), sentence="The archive's writer ended; it restarts."
            )
            await anyio.sleep(ARCHIVE_RETRY_S)

    async def reach(self) -> Reach:
        """Return the watermark and the first sequence of the oldest open run; wait until the archive is open."""
        while (found := await ask_reach(self.path)) is None:  # noqa: ASYNC110 - another process opens it
            await anyio.sleep(REACH_RETRY_S)
        return found

    async def _run_writer(self) -> None:
        # Without -P, a file in the working directory could take the place of a module of the library.
        command = [sys.executable, "-P", "-m", "linestop.archive.writer_process"]
        # A session of its own: Ctrl-C in a terminal reaches the process with the recorder, which then ends this one.
        process = await anyio.open_process(command, stdin=subprocess.PIPE, stderr=None, start_new_session=True)
        assert process.stdin is not None
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        try:
            await process.stdin.send(msgspec.json.encode(self._settings) + b"\n")
            await _log_events(lines)
        except anyio.BrokenResourceError:
            # It ended before it had read its settings.
            return
        finally:
            with anyio.CancelScope(shield=True):
                await process.stdin.aclose()
                with anyio.move_on_after(ENDS_WITHIN_S):
                    await _log_events(lines)
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                await process.aclose()


async def _log_events(lines: BufferedByteReceiveStream) -> None:
    """Log the writer's events until it ends."""
    try:
        while True:
            event: dict[str, Any] = msgspec.json.decode(await lines.receive_until(b"\n", LOG_LINE_BYTES_MAX))
            LOG.log(int(event.pop("level_number")), str(event.pop("event")), **event)
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError):
        return


async def _serve(settings: WriterSettings) -> None:
    """Archive until standard input closes."""
    # Imported here: only the writer loads the database.
    from linestop.archive.writer import Archive  # noqa: PLC0415

    archive = Archive(Path(settings.path), database_days=settings.database_days)
    async with await connect(settings.credential, name="archive") as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(archive.run, JetStream(connection).log())
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        tasks.cancel_scope.cancel()


def main() -> None:
    """Run as the writer: settings on standard input, log events on standard output."""
    settings = msgspec.json.decode(sys.stdin.readline(), type=WriterSettings)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level_number,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    os.nice(NICENESS)
    try:
        anyio.run(_serve, settings, backend_options={"use_uvloop": True})
    except* LinestopError as group:
        LOG.warning("archive_interrupted", error=str(group.exceptions[0]))


if __name__ == "__main__":
    main()
