"""Old runs move from the database to Parquet files: read as before, and complete whatever fails in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from tests.run_logs import SCENARIOS, Message

from linestop.archive import parquet_files
from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.requests import RunQuery
from linestop.bus.interfaces import StoredMessage
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import RunId, TenantId
from linestop.schemas.verify.export_bundle import read_bundle

LATER = datetime(2099, 1, 1, tzinfo=UTC)
KEY = (TenantId("t"), RunId("r1"))


@pytest.fixture
def archive(tmp_path: Path) -> Generator[ArchiveFile]:
    """An archive with one sealed run and, after it, an open one."""
    file = ArchiveFile(tmp_path / "a.duckdb")
    file.store(stored(whole()))
    file.store([StoredMessage(subject="runs.t.open.validator.opened.1", payload=b"{}", seq=len(whole()) + 1)])
    yield file
    file.close()


def whole() -> list[Message]:
    """The log of a run that paid, as the roles wrote it."""
    return SCENARIOS["approved"]()


def stored(log: list[Message]) -> list[StoredMessage]:
    """The log in the form that an archive stores."""
    return [StoredMessage(subject=subject, payload=payload, seq=n) for n, (subject, payload, _) in enumerate(log, 1)]


def count(archive: ArchiveFile, table: str = "events") -> int:
    """The rows of a table of the database."""
    status = archive.status()
    return int(getattr(status, table))


def messages(archive: ArchiveFile) -> list[tuple[str, bytes]]:
    """The run's log as the archive returns it, without sequences."""
    return [(subject, payload) for subject, payload, _ in archive.log_of(KEY)]


def expected_messages() -> list[tuple[str, bytes]]:
    """The expected log."""
    return [(subject, payload) for subject, payload, _ in whole()]


def test_a_sealed_run_moves_and_is_read_as_before(archive: ArchiveFile, tmp_path: Path) -> None:
    """Every byte is the same, and DuckDB can read the files; an open run stays."""
    assert archive.move_old(LATER) == 1
    assert archive.move_old(LATER) == 0
    assert (count(archive), count(archive, "runs"), count(archive, "calls")) == (1, 1, 0)
    assert messages(archive) == expected_messages()
    assert archive.subject_at(3) == whole()[2][0]
    (batch,) = (tmp_path / "a-old").iterdir()
    sealed = fold_messages(*KEY, whole()).sealed
    assert sealed is not None
    assert batch.name == f"{sealed.at.astimezone(UTC):%Y-%m-%d}-{len(whole())}"
    for table, rows in (("events", len(whole())), ("runs", 1), ("calls", 3)):
        with duckdb.connect() as other:
            assert other.execute(f"SELECT count(*) FROM '{batch / f'{table}.parquet'}'").fetchall() == [(rows,)]
    assert {file.stat().st_mode & 0o077 for file in (batch, *batch.iterdir())} == {0}
    assert archive.reach().oldest_open_seq == len(whole()) + 1


def test_runs_sealed_after_the_limit_stay(archive: ArchiveFile) -> None:
    """And so does the run of the last message, by which the archive recognises its log."""
    sealed = fold_messages(*KEY, whole()).sealed
    assert sealed is not None
    assert archive.move_old(sealed.at) == 0
    assert archive.move_old(sealed.at + timedelta(microseconds=1)) == 1


def test_the_last_message_of_the_log_stays(tmp_path: Path) -> None:
    """Otherwise the archive would not recognise its own log."""
    file = ArchiveFile(tmp_path / "a.duckdb")
    file.store(stored(whole()))
    assert file.move_old(LATER) == 0
    file.close()


def test_a_late_fact_of_a_run_that_moved_is_folded_on_all_of_it(archive: ArchiveFile, tmp_path: Path) -> None:
    """It is read together with the rest, moves as well, and is stored once."""
    archive.move_old(LATER)
    late = StoredMessage(subject=f"runs.t.r1.recorder.amended.{len(whole()) + 1}", payload=b"{}", seq=len(whole()) + 2)
    archive.store([late])
    archive.store([StoredMessage(subject="runs.t.open.validator.opened.2", payload=b"{}", seq=late.seq + 1)])
    assert messages(archive) == [*expected_messages(), (late.subject, late.payload)]
    assert archive.move_old(LATER) == 1
    assert messages(archive) == [*expected_messages(), (late.subject, late.payload)]
    assert len(list((tmp_path / "a-old").iterdir())) == 2


Step = tuple[Any, str]
STEPS: dict[str, Step] = {
    "writing": (ArchiveFile, "_execute"),
    "syncing": (parquet_files, "_sync"),
    "renaming": (Path, "rename"),
}


@pytest.mark.parametrize(
    ("step", "at"),
    [
        *(("writing", at) for at in (0, 2, 3, 5, 6, 8, 9)),
        ("syncing", 0),
        ("syncing", 3),
        ("syncing", 4),
        ("renaming", 0),
    ],
)
def test_whatever_fails_at_each_step_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, at: int
) -> None:
    """After a full disk or a kill the run is read as before: at once, after a restart, and after the next attempt."""
    path = tmp_path / "a.duckdb"
    archive = ArchiveFile(path)
    archive.store(stored(whole()))
    archive.store([StoredMessage(subject="runs.t.open.validator.opened.1", payload=b"{}", seq=len(whole()) + 1)])
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(OSError, match="No space"):
            archive.move_old(LATER)
    assert messages(archive) == expected_messages()
    archive.close()
    copied = tmp_path / "copy"
    shutil.copytree(tmp_path, copied, ignore=shutil.ignore_patterns("copy"))
    for folder in (tmp_path, copied):
        again = ArchiveFile(folder / "a.duckdb")
        assert messages(again) == expected_messages()
        again.move_old(LATER)
        assert messages(again) == expected_messages()
        assert again.status().events == 1
        again.close()


def test_a_rebuild_keeps_runs_that_were_removed_from_the_log(archive: ArchiveFile) -> None:
    """Runs whose beginning was removed from the log stay complete, in the database and in the files."""
    half = len(whole()) // 2
    archive.reset(first_seq=half)
    assert archive.watermark == half - 1
    archive.store([message for message in stored(whole()) if message.seq >= half])
    assert messages(archive) == expected_messages()
    assert fold_messages(*KEY, whole()).sealed is not None
    assert archive.reach().oldest_open_seq == 0


def test_a_run_and_the_list_of_runs_are_exported_as_lines(archive: ArchiveFile, tmp_path: Path) -> None:
    """From the database and the files together, newest runs first."""
    archive.export(RunQuery(before_seq=10_000, limit=5), tmp_path / "list")
    pairs = [msgspec.json.decode(line) for line in (tmp_path / "list").read_bytes().splitlines()]
    archive.move_old(LATER)
    archive.export(RunQuery(before_seq=10_000, limit=5), tmp_path / "again")
    assert (tmp_path / "list").read_bytes() == (tmp_path / "again").read_bytes()
    assert pairs == [["t", "open"], ["t", "r1"]]
    archive.export(RunQuery(tenant="t", run="r1"), tmp_path / "log")
    bundle = read_bundle((tmp_path / "log").read_bytes().splitlines())
    assert [(subject, payload) for subject, payload, _ in bundle.messages] == expected_messages()
