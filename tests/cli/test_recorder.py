"""``linestop recorder``: the archive, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import duckdb
import msgspec
import pytest
from tests.stack import stack

from linestop.archive.duckdb_file import ArchiveFile
from linestop.cli.main import run
from linestop.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker]


async def command(*arguments: str) -> int:
    """Run a command as a process of its own would, beside the event loop."""
    return await anyio.to_thread.run_sync(run, ["recorder", *arguments])


async def test_an_archive_is_rebuilt_shown_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a recorder at work the commands open the archive themselves."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.duckdb"
    async with stack(tmp_path) as system:
        where = ["--dir", str(system.directory)]
        assert await command("status", *where) == 1
        assert "There is no archive" in capfd.readouterr().err
        async with Client.connect(system.directory) as client:
            submitted = await client.submit("desk", "look")
            await client.outcome(submitted.run, timeout_s=20)
        assert await command("rebuild", *where) == 0
        rebuilt = capfd.readouterr().out
        assert "of 1 run with 1 call" in rebuilt
        assert await command("snapshot", str(copy), "--json", *where) == 0
        status = msgspec.json.decode(capfd.readouterr().out)
        assert (status["path"], status["bytes"]) == (str(copy), copy.stat().st_size)
        assert await command("status", *where) == 0
        assert capfd.readouterr().out.splitlines()[0] == rebuilt.splitlines()[0]
    assert _query(copy, "SELECT run, status FROM runs") == [(submitted.run, "completed")]
    assert _query(copy, "SELECT count(*) FROM events") == [(status["events"],)]


async def test_a_rebuild_beside_a_recorder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While another process has the archive open, the sentence names the remedy."""
    monkeypatch.chdir(tmp_path)
    async with stack(tmp_path) as system:
        path = system.directory / "archive.duckdb"
        ArchiveFile(path).close()
        holder = f"import duckdb; c = duckdb.connect({str(path)!r}); print('open', flush=True); input()"
        async with await anyio.open_process([sys.executable, "-c", holder]) as process:
            assert process.stdout is not None
            await process.stdout.receive()
            assert await command("rebuild", "--dir", str(system.directory)) == 1
            process.kill()
    assert "is open in another process" in capfd.readouterr().err


def _query(path: Path, sql: str) -> Sequence[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


async def test_a_command_that_opens_the_archive_ends_quietly(tmp_path: Path) -> None:
    """What the database finds at the end of the process is printed past every handler of ours."""
    ArchiveFile(tmp_path / "archive.duckdb").close()
    show = [sys.executable, "-m", "linestop.cli.main", "recorder", "status", "--dir", str(tmp_path)]
    done = await anyio.run_process(show, cwd=tmp_path)
    assert done.stderr == b""
    assert b"0 events of 0 runs" in done.stdout
