"""The recorder's archive: writes every event of the run log into DuckDB, as the only writer.

Once a second it reads what the log has beyond the archive, and commits it as one batch together with the last stream
sequence (the watermark); a full batch is committed at once, while the next is read. The watermark is the only record
of progress, so a message is stored exactly once, whatever is killed when: no consumer and no acknowledgement can
disagree with it. Messages are stored strictly in stream order, because runs are folded on the way.

The file can be rebuilt from the log at any time; events that were removed from the log exist only in the archive.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, cast

import anyio
import anyio.to_thread
import structlog

from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.parquet_files import old_folder
from linestop.archive.query_socket import QueryReply, QueryRequest, QuerySocket
from linestop.archive.refusals import ArchiveInUse, refusals_named
from linestop.archive.requests import ArchiveStatus, Reach, RunQuery
from linestop.bus.interfaces import Log, StoredMessage
from linestop.errors import InputError, LinestopError
from linestop.schemas.broker_defaults import ARCHIVE_BATCH_EVERY_S, ARCHIVE_MOVE_EVERY_S, ARCHIVE_RETRY_S

T = TypeVar("T")
Batch = list[StoredMessage]

LOG = structlog.get_logger("linestop.archive")
BATCH_MESSAGES_MAX: Final = 5_000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
LAST_BATCH_WITHIN_S: Final = 1.0
"""How long a stop waits for the events since the last batch; those that are not stored then are stored next time."""


class _LogReplaced(Exception):
    """Raised when the archive was made from another log."""


class Archive:
    """Writes one archive file. ``run`` is one task of the recorder's process."""

    def __init__(self, path: Path, *, database_days: int = 0) -> None:
        self.path = path
        self._database_days = database_days
        self._file: ArchiveFile | None = None
        self._limiter: anyio.CapacityLimiter | None = None
        self._changed = anyio.Event()
        self._reported = ""

    async def run(self, log: Log) -> None:
        """Archive without end. If another process has the file open, wait until it closes the file."""
        while True:
            try:
                await self._open()
                async with QuerySocket(self.path, self.handle_query).open():
                    await self._follow(log)
            except* _LogReplaced:
                await self._set_aside()
            except* Exception as group:  # noqa: BLE001 - reported
                self._report(group)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close()
            await anyio.sleep(ARCHIVE_RETRY_S)

    async def rebuild(self, log: Log) -> ArchiveStatus:
        """Read the whole log into the file again; runs that were removed from the log stay as they are.

        Raises:
            ArchiveInUse: a recorder has the file open.
        """
        await self._open()
        try:
            first = await log.page(after_seq=0)
            await self._in_thread(partial(self._open_file.reset, first_seq=first[0].seq if first else 1))
            await self._store_new(log)
            return await self.status()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def snapshot(self, path: Path) -> None:
        """Copy the archive between two batches to ``path``.

        Raises:
            InputError: ``path`` must not be replaced, for instance because it is the archive itself.
        """
        await self._in_thread(self._open_file.snapshot, path)

    async def handle_query(self, request: QueryRequest) -> QueryReply:
        """Handle a request of another process. The reply has the status afterwards, or the reach if that was requested.

        Raises:
            InputError: the path of a snapshot or an export must not be replaced.
        """
        if request.want == "reach":
            return QueryReply(reach=await self.reach())
        if request.want == "snapshot":
            await self.snapshot(Path(request.path))
        elif request.runs is not None:
            await self.export(request.runs, Path(request.path))
        return QueryReply(status=await self.status())

    async def status(self) -> ArchiveStatus:
        """Return the state of the archive."""
        return await self._in_thread(self._open_file.status)

    async def reach(self) -> Reach:
        """Return the watermark and the first sequence of the oldest open run; wait until the archive is open."""
        await self.wait_until_stored(0)
        await self._in_thread(self._open_file.require_in_place)
        return await self._in_thread(self._open_file.reach)

    async def export(self, want: RunQuery, path: Path) -> None:
        """Write the log of a run, or the list of runs, to a new file that only its owner may read."""
        await self._in_thread(self._open_file.export, want, path)

    async def move_old(self) -> int:
        """Move the runs that are old enough from the database to Parquet files; return their number."""
        before = datetime.now(UTC) - timedelta(days=self._database_days)
        moved = 0
        while some := await self._in_thread(self._open_file.move_old, before):
            moved += some
        return moved

    async def wait_until_stored(self, seq: int) -> None:
        """Wait until everything up to this stream sequence is stored."""
        while self._file is None or self._file.watermark < seq:
            await self._changed.wait()

    # --- following the log -------------------------------------------------------------------------------

    async def _follow(self, log: Log) -> None:
        async with anyio.create_task_group() as tasks:
            if self._database_days:
                tasks.start_soon(self._move_old)
            try:
                while True:
                    await self._store_new(log)
                    if self._reported:
                        self._reported = ""
                        LOG.info("archive_continues", path=str(self.path), sentence=f"{self.path} is written again.")
                    await anyio.sleep(ARCHIVE_BATCH_EVERY_S)
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(LAST_BATCH_WITHIN_S, shield=True):
                    await self._store_new(log)
                raise

    async def _move_old(self) -> None:
        while True:
            try:
                if moved := await self.move_old():
                    LOG.info("archive_moved", runs=moved)
            except LinestopError as error:
                sentence = f"Old runs stay in the archive's database until the next try. {error}"
                LOG.warning("archive_not_moved", path=str(self.path), sentence=sentence)
            except Exception:
                LOG.exception("archive_not_moved", path=str(self.path))
            await anyio.sleep(ARCHIVE_MOVE_EVERY_S)

    async def _store_new(self, log: Log) -> None:
        """Store the messages that the archive lacks, batch by batch; each next one is read while one is stored."""
        await self._require_same_log(log)
        batch, is_full = await _read_batch(log, after_seq=self._open_file.watermark)
        while is_full:
            batch, is_full = await self._store_and_read(log, batch)
        await self._store(batch)

    async def _store_and_read(self, log: Log, batch: Batch) -> tuple[Batch, bool]:
        """Store a batch and read the one after it at the same time."""
        found: tuple[Batch, bool] = [], False
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._store, batch)
                found = await _read_batch(log, after_seq=batch[-1].seq)
        except ExceptionGroup as group:
            # One of the two failed, and the other was cancelled.
            raise group.exceptions[0] from None
        return found

    async def _require_same_log(self, log: Log) -> None:
        """Check that the log has the archive's last message; if it left the log, compare the log's first one.

        Raises:
            _LogReplaced: the archive was made from another log or by another version.
        """
        await self._in_thread(self._open_file.require_in_place)
        if not await self._in_thread(self._open_file.has_current_version):
            raise _LogReplaced
        if not (seq := self._open_file.watermark):
            return
        logged = await log.message_at(seq)
        if logged is None:
            logged = next(iter(await log.page(after_seq=0)), None)
        if logged is not None and logged.seq <= seq:
            known = await self._in_thread(self._open_file.subject_at, logged.seq)
            if known is not None and known != logged.subject:
                raise _LogReplaced

    async def _store(self, messages: Batch) -> None:
        if messages:
            await self._in_thread(self._open_file.store, messages)
            self._notify()

    def _report(self, error: Exception) -> None:
        """Log why nothing is archived, once for each reason; what is not committed is read from the log again."""
        if isinstance(error, ExceptionGroup):
            self._report(cast("ExceptionGroup[Exception]", error).exceptions[0])
            return
        if self._reported == (text := str(error)):
            return
        self._reported = text
        if isinstance(error, ArchiveInUse):
            sentence = f"Another recorder writes {self.path}; this one waits and does its other work."
            LOG.warning("archive_in_use", path=str(self.path), sentence=sentence)
        elif isinstance(error, LinestopError):
            LOG.warning("archive_interrupted", error=text, sentence=f"Archiving is paused. {text}")
        else:
            LOG.error("archive_failed", path=str(self.path), exc_info=error)

    # --- the file, in a thread ---------------------------------------------------------------------------

    @property
    def _open_file(self) -> ArchiveFile:
        if self._file is None:
            raise InputError(f"The archive {self.path} is not open.")
        return self._file

    async def _open(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)
        self._file = await self._in_thread(ArchiveFile, self.path)
        self._notify()

    def _notify(self) -> None:
        """Wake the tasks that wait for the archive to be open, or for a sequence."""
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await self._in_thread(file.close)

    async def _set_aside(self) -> None:
        """Rename a file that belongs to another log, so that a new one begins."""
        await self._close()
        timestamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        old = self.path.with_name(f"{self.path.stem}-{timestamp}{self.path.suffix}")
        await anyio.Path(self.path).rename(old)
        if await (folder := anyio.Path(old_folder(self.path))).exists():
            await folder.rename(old_folder(old))
        LOG.warning("archive_set_aside", path=str(old), reason="it was made from another log or by another version")

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking work, one piece at a time. A cancellation waits for it, so that a commit is finished."""

        def work_on_file() -> T:
            with refusals_named(self.path):
                return work(*args)

        return await anyio.to_thread.run_sync(work_on_file, limiter=self._limiter)


async def _read_batch(log: Log, *, after_seq: int) -> tuple[Batch, bool]:
    """Read the next messages, up to the bounds of a batch; return whether they fill one."""
    batch: Batch = []
    size = 0
    while len(batch) < BATCH_MESSAGES_MAX and size < BATCH_BYTES_MAX:
        page = await log.page(after_seq=batch[-1].seq if batch else after_seq)
        if not page:
            return batch, False
        batch += page
        size += sum(len(message.payload) for message in page)
    return batch, True
