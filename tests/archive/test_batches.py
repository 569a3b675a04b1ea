"""When the archive commits, on a virtual clock: every second, at once if a batch is full, again after a failure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import duckdb
import pytest
import structlog.testing
from tests.archive.paged_log import PagedLog
from tests.run_logs import SCENARIOS

from linestop.archive import writer
from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.refusals import ArchiveUnusable
from linestop.archive.writer import LAST_BATCH_WITHIN_S, Archive
from linestop.bus.interfaces import StoredMessage
from linestop.schemas.broker_defaults import ARCHIVE_BATCH_EVERY_S, ARCHIVE_MOVE_EVERY_S, ARCHIVE_RETRY_S
from linestop.testing.virtual_time import run_virtual

LOG = [(subject, payload) for subject, payload, _ in SCENARIOS["approved"]()]


class NoSocket:
    """Takes the place of the query socket, which waits for threads."""

    def __init__(self, *_: object) -> None:
        """Listen nowhere."""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Do nothing."""
        yield


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QuerySocket", NoSocket)


class OnThisThread(Archive):
    """Writes on the loop's own thread, because a virtual clock does not wait for another."""

    async def _in_thread(self, work: Callable[..., Any], *args: object) -> Any:
        await anyio.lowlevel.checkpoint()
        return work(*args)


class Commits:
    """The moment, the first and the last sequence of every commit; ``failures`` attempts fail before that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, failures: int = 0) -> None:
        self.seen: list[tuple[float, int, int]] = []
        self.failures = failures
        store = ArchiveFile.store

        def counted(file: ArchiveFile, messages: Sequence[StoredMessage]) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError(28, "No space left on device")
            store(file, messages)
            self.seen.append((anyio.current_time(), messages[0].seq, messages[-1].seq))

        monkeypatch.setattr(ArchiveFile, "store", counted)

    def seconds(self, began: float) -> list[tuple[float, int, int]]:
        """The commits, with their moments counted from ``began``."""
        return [(round(at - began, 3), first, last) for at, first, last in self.seen]


@asynccontextmanager
async def archiving(log: PagedLog, path: Path) -> AsyncGenerator[Archive]:
    """An archive at work."""
    archive = OnThisThread(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(archive.run, log.as_log)
        await archive.wait_until_stored(0)
        await anyio.wait_all_tasks_blocked()
        yield archive
        tasks.cancel_scope.cancel()


def stored(path: Path) -> list[tuple[int, str, bytes]]:
    """Every stored message, in order."""
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute("SELECT seq, subject, payload FROM events ORDER BY seq").fetchall()
    return [(seq, subject, payload.encode()) for seq, subject, payload in found]


def expected() -> list[tuple[int, str, bytes]]:
    """The whole log, each message once."""
    return [(seq, subject, payload) for seq, (subject, payload) in enumerate(LOG, 1)]


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on a virtual clock."""
    run_virtual(main)


def test_what_came_within_a_second_is_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it came: each batch leaves when its second is over, and a second without events has none."""
    path, log, commits = tmp_path / "a.duckdb", PagedLog(), Commits(monkeypatch)

    async def main() -> None:
        began = anyio.current_time()
        async with archiving(log, path):
            for index in range(8):
                await anyio.sleep(ARCHIVE_BATCH_EVERY_S / 10)
                log.append(LOG[index : index + 1])
            await anyio.sleep(ARCHIVE_BATCH_EVERY_S * 2.25)
            log.append(LOG[8:])
            await anyio.sleep(ARCHIVE_BATCH_EVERY_S)
            assert commits.seconds(began) == [(ARCHIVE_BATCH_EVERY_S, 1, 8), (4 * ARCHIVE_BATCH_EVERY_S, 9, len(LOG))]

    run(main)
    assert stored(path) == expected()


def test_full_batches_leave_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of several batches is stored without a pause, in order; a batch ends with the page that fills it."""
    monkeypatch.setattr(writer, "BATCH_MESSAGES_MAX", 5)
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:16]), Commits(monkeypatch)

    async def main() -> None:
        async with archiving(log, path):
            assert [(first, last) for _, first, last in commits.seen] == [(1, 6), (7, 12), (13, 16)]
            assert len({at for at, _, _ in commits.seen}) == 1

    run(main)


def test_a_batch_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that reaches the limit ends its batch."""
    monkeypatch.setattr(writer, "BATCH_BYTES_MAX", 1)
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:7]), Commits(monkeypatch)

    async def main() -> None:
        async with archiving(log, path):
            assert [(first, last) for _, first, last in commits.seen] == [(1, 3), (4, 6), (7, 7)]

    run(main)


def test_the_next_batch_is_read_while_one_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So an archive that catches up waits for the broker or for the disk, not for one after the other."""
    monkeypatch.setattr(writer, "BATCH_MESSAGES_MAX", 3)
    log, commits = PagedLog(LOG[:6]), Commits(monkeypatch)
    page = log.page

    async def slow_page(*, after_seq: int) -> list[StoredMessage]:
        await anyio.sleep(1)
        return await page(after_seq=after_seq)

    class Slow(OnThisThread):
        async def _in_thread(self, work: Callable[..., Any], *args: object) -> Any:
            await anyio.sleep(1 if getattr(work, "__name__", "") == "counted" else 0)
            return await super()._in_thread(work, *args)

    async def main() -> None:
        began, archive = anyio.current_time(), Slow(tmp_path / "a.duckdb")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive.run, log.as_log)
            await archive.wait_until_stored(6)
            tasks.cancel_scope.cancel()
        assert commits.seconds(began) == [(2, 1, 3), (3, 4, 6)]

    monkeypatch.setattr(log, "page", slow_page)
    run(main)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_batch_that_failed_is_stored_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """A full disk costs nothing but delay: the same messages are read again, and each is stored once."""
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:9]), Commits(monkeypatch, failures=failures)

    async def main() -> None:
        began = anyio.current_time()
        async with archiving(log, path) as archive:
            log.append(LOG[9:])
            await archive.wait_until_stored(len(LOG))
            assert commits.seconds(began) == [(failures * ARCHIVE_RETRY_S, 1, len(LOG))]

    run(main)
    assert stored(path) == expected()


def test_old_runs_that_cannot_be_moved_are_reported_every_hour_and_pause_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For instance on a full disk: the runs stay in the database, and new events are archived as before."""
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:9]), Commits(monkeypatch)

    def refuse(*_: object) -> int:
        raise ArchiveUnusable("There is no space.")

    monkeypatch.setattr(ArchiveFile, "move_old", refuse)

    async def main() -> None:
        archive = OnThisThread(path, database_days=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive.run, log.as_log)
            await anyio.sleep(ARCHIVE_MOVE_EVERY_S + 1.5)
            log.append(LOG[9:])
            await archive.wait_until_stored(len(LOG))
            tasks.cancel_scope.cancel()

    with structlog.testing.capture_logs() as logged:
        run(main)
    assert [line["event"] for line in logged] == ["archive_not_moved"] * 2
    assert logged[0]["sentence"] == "Old runs stay in the archive's database until the next try. There is no space."
    assert len(commits.seen) == 2


def test_a_failure_while_the_next_batch_is_read_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are read again."""
    monkeypatch.setattr(writer, "BATCH_MESSAGES_MAX", 3)
    path, log = tmp_path / "a.duckdb", PagedLog(LOG)
    Commits(monkeypatch, failures=2)

    async def main() -> None:
        async with archiving(log, path) as archive:
            await archive.wait_until_stored(len(LOG))

    run(main)
    assert stored(path) == expected()


def test_a_stop_stores_what_came_since_the_last_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for the next start to see how a run ended."""
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:9]), Commits(monkeypatch)

    async def main() -> None:
        async with archiving(log, path):
            await anyio.sleep(ARCHIVE_BATCH_EVERY_S / 2)
            log.append(LOG[9:])

    run(main)
    assert [(first, last) for _, first, last in commits.seen] == [(1, 9), (10, len(LOG))]
    assert stored(path) == expected()


def test_a_stop_without_a_broker_leaves_the_rest_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits a bounded time, and the next start stores the rest once."""
    path, log, commits = tmp_path / "a.duckdb", PagedLog(LOG[:9]), Commits(monkeypatch)

    async def silent(seq: int) -> None:
        del seq
        await anyio.sleep_forever()

    async def main() -> None:
        async with archiving(log, path):
            log.append(LOG[9:])
            monkeypatch.setattr(log, "message_at", silent)
            stopped = anyio.current_time()
        assert anyio.current_time() - stopped == pytest.approx(LAST_BATCH_WITHIN_S)

    async def again() -> None:
        async with archiving(PagedLog(LOG), path):
            pass

    run(main)
    assert [(first, last) for _, first, last in commits.seen] == [(1, 9)]
    run(again)
    assert stored(path) == expected()
