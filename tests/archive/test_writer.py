"""The archive, on a real server and a real database: every event once, whatever dies when."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import duckdb
import pytest
import structlog
import structlog.testing
from tests.archive.paged_log import PagedLog
from tests.run_logs import SCENARIOS, Message
from tests.small_disk import fill

from linestop.actors.recorder import Recorder
from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.query_socket import QueryRequest, ask_recorder
from linestop.archive.refusals import ArchiveInUse, ArchiveUnusable, refusals_named
from linestop.archive.writer import Archive
from linestop.archive.writer_process import Writer
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.interfaces import StoredMessage
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams.create_streams import set_up
from linestop.errors import ConfigError, InputError, RetryableError
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.schemas.broker_defaults import ARCHIVE_RETRY_S
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import RunId, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

PROCESS = Path(__file__).parent / "archive_process.py"
OPEN_IT = """\
import sys; from pathlib import Path; from linestop.archive.duckdb_file import ArchiveFile
ArchiveFile(Path(sys.argv[1]))
"""
TABLES = ("events", "runs", "calls")
ROLES = ("validator", "budget", "planner", "approver", "executor", "recorder")


@pytest.fixture(scope="module")
def logs() -> list[list[Message]]:
    """Logs of whole runs, as the roles wrote them."""
    return [SCENARIOS[name]() for name in ("approved", "stopped", "in doubt", "out of turns")]


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A separate server for each test, since the archive stores the whole log."""
    async with EmbeddedServer(tmp_path / "bus") as server:
        async with await connect(server.credential("bootstrap"), name="test") as bootstrap:
            (await set_up(bootstrap)).require_no_differences()
        yield server


async def store_messages(server: EmbeddedServer, messages: Sequence[tuple[str, bytes]]) -> None:
    """Store messages in the run log, each as the role in its subject."""
    opened = {role: await connect(server.credential(role), name=role) for role in ROLES}  # type: ignore[arg-type]
    for subject, payload in messages:
        wire = JetStream(opened[subject.split(".")[3]]).wire
        await wire.request(subject, payload)
    for connection in opened.values():
        await connection.close()


def mixed(logs: Sequence[list[Message]]) -> list[tuple[str, bytes]]:
    """Several runs at once: their messages alternate, each run under its own name."""
    named: list[list[tuple[str, bytes]]] = [[(subject, payload) for subject, payload, _ in log] for log in logs]
    longest = max(len(log) for log in named)
    return [log[i] for i in range(longest) for log in named if i < len(log)]


def renamed(messages: Sequence[Message], run: str) -> list[Message]:
    """The same log under another run's name: its chain is broken, but every message must be stored."""
    return [(subject.replace(".r1.", f".{run}."), payload, seq) for subject, payload, seq in messages]


@asynccontextmanager
async def archiving(server: EmbeddedServer, path: Path) -> AsyncGenerator[Archive]:
    """A recorder's archive at work."""
    archive = Archive(path)
    async with await connect(server.credential("recorder"), name="archive") as connection:
        stream = JetStream(connection)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive.run, stream.log())
            try:
                yield archive
            finally:
                tasks.cancel_scope.cancel()


async def set_aside(folder: Path) -> Path:
    """Wait until an archive is set aside; return it."""
    while not (found := await anyio.to_thread.run_sync(lambda: list(folder.glob("a-*.duckdb")))):  # noqa: ASYNC110 - a file appears
        await anyio.sleep(0.01)
    (path,) = found
    return path


async def archived(server: EmbeddedServer, path: Path, seq: int) -> None:
    """Archive until everything up to ``seq`` is stored."""
    async with archiving(server, path) as archive:
        with anyio.fail_after(30):
            await archive.wait_until_stored(seq)


async def reached(archive: Writer, seq: int) -> None:
    """Wait until a writer in another process has stored everything up to ``seq``."""
    while (await archive.reach()).watermark < seq:  # noqa: ASYNC110 - another process stores it
        await anyio.sleep(0.05)


def table(path: Path, name: str) -> list[tuple[Any, ...]]:
    """All rows of a table, in a fixed order."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


async def test_every_event_is_stored_once_in_order_and_unchanged(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]]
) -> None:
    """The rows hold exactly the log, and runs and calls agree with the fold."""
    path, log = tmp_path / "a.duckdb", logs[0]
    await store_messages(bus, [(subject, payload) for subject, payload, _ in log])
    await archived(bus, path, len(log))
    rows = query(path, "SELECT seq, subject, payload, raw, ignored FROM events ORDER BY seq")
    assert rows == [(n, subject, payload.decode(), None, "") for n, (subject, payload, _) in enumerate(log, 1)]
    run = fold_messages(TenantId("t"), RunId("r1"), log)
    assert run.sealed is not None
    assert query(path, "SELECT status, agent, cost_micros, tokens, turns, calls, events, answer FROM runs") == [
        ("completed", "a", run.spent_micros, run.tokens, run.turn, 3, run.n, run.sealed.answer)
    ]
    calls = {call.call: (call.tool, call.fate, len(call.effects)) for call in run.calls.values()}
    assert {row[0]: row[1:] for row in query(path, "SELECT call, tool, fate, attempts FROM calls")} == calls
    assert query(path, "SELECT sum(cost_micros) FROM events") == [(run.spent_micros,)]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_kill_around_the_commit_loses_and_doubles_nothing(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]], moment: str
) -> None:
    """SIGKILL when a batch is written, before its commit or after it: every message is there once."""
    path, everything = tmp_path / "a.duckdb", mixed([logs[0], renamed(logs[1], "r2")])
    half = len(everything) // 2
    await store_messages(bus, everything[:half])
    credential = bus.credential("recorder")
    command = [sys.executable, str(PROCESS), credential.url, credential.seed, str(path), moment]
    async with await anyio.open_process(command, stdin=None, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(30):
            assert b"written" in await process.stdout.receive()
        process.send_signal(signal.SIGKILL)
    assert query(path, "SELECT count(*) FROM events") == [(half if moment == "after" else 0,)]
    await store_messages(bus, everything[half:])
    await archived(bus, path, len(everything))
    found = query(path, "SELECT seq, subject FROM events ORDER BY seq")
    assert found == [(n, subject) for n, (subject, _) in enumerate(everything, 1)]
    whole = tmp_path / "b.duckdb"
    await rebuilt(bus, whole)
    assert [table(path, name) for name in TABLES] == [table(whole, name) for name in TABLES]


async def rebuilt(server: EmbeddedServer, path: Path) -> None:
    """Rebuild the archive from the log."""
    async with await connect(server.credential("operator"), name="rebuild") as connection:
        await Archive(path).rebuild(JetStream(connection).log())


async def test_a_rebuild_gives_the_same_tables(bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]]) -> None:
    """Batches stored as they arrived give the same as one reading of the whole log."""
    path = tmp_path / "a.duckdb"
    everything = mixed([log if i == 0 else renamed(log, f"r{i + 1}") for i, log in enumerate(logs)])
    async with archiving(bus, path) as archive:
        for start in range(0, len(everything), 20):
            await store_messages(bus, everything[start : start + 20])
        with anyio.fail_after(30):
            await archive.wait_until_stored(len(everything))
    before = [table(path, name) for name in TABLES]
    assert len(before[0]) == len(everything)
    await rebuilt(bus, path)
    assert [table(path, name) for name in TABLES] == before


async def test_a_message_that_is_not_an_event_is_stored_raw_with_the_reason(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]]
) -> None:
    """Bytes that are not JSON, JSON that is not an event, and an unknown subject: all are stored, and break nothing."""
    path = tmp_path / "a.duckdb"
    strange = [
        ("runs.t.r9.planner.proposed.1", b"\xff\x00 no JSON"),
        ("runs.t.r9.planner.dreamt.2", b'{"id": "1", "prev": "2"}'),
        ("runs.t.r9.planner.NO-EVENT.x", b"{}"),
        ("runs.t.r9.planner.proposed.3", b'{"cost_micros": 1' + b"0" * 30 + b"}"),
        ("runs.t.r9.planner.proposed.4", b"[" * 50 + b"]" * 50),
    ]
    await store_messages(bus, [*strange, *((subject, payload) for subject, payload, _ in logs[0])])
    await archived(bus, path, len(strange) + len(logs[0]))
    rows = query(path, "SELECT subject, raw, ignored FROM events WHERE run <> 'r1' ORDER BY seq")
    assert [(subject, raw) for subject, raw, _ in rows] == strange
    assert all(why for _, _, why in rows)
    assert query(path, "SELECT payload->>'id' FROM events WHERE event = 'dreamt'") == [("1",)]
    assert query(path, "SELECT status FROM runs WHERE run = 'r1'") == [("completed",)]


async def test_a_recorder_of_a_process_archives_in_another_process(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]]
) -> None:
    """A process with the recorder has a writer process; when it drains, the last events are stored first."""
    path = tmp_path / "a.duckdb"
    archive = Writer(path, bus.credential("recorder"))
    backend = await JetStreamBackend.open({"recorder": bus.credential("recorder")}, name="host")
    try:
        async with ActorProcess(backend, [Recorder()], ProcessSettings(worker="w#1"), archive=archive).running():
            with anyio.fail_after(30):
                assert (await archive.reach()).watermark == 0
            await store_messages(bus, [(subject, payload) for subject, payload, _ in logs[0]])
    finally:
        await backend.aclose()
    assert query(path, "SELECT count(*) FROM events WHERE run = 'r1'") == [(len(logs[0]),)]


async def test_an_archive_on_a_full_disk_continues_once_there_is_room(
    bus: EmbeddedServer, small_disk: Path, logs: list[list[Message]]
) -> None:
    """The recorder works on meanwhile, one sentence names the file and the remedy, and no event is lost or doubled."""
    path, (first, *others) = small_disk / "a.duckdb", [renamed(log, f"r{n}") for n, log in enumerate(logs)]
    messages = sum(map(len, [first, *others]))
    archive = Writer(path, bus.credential("recorder"))
    with structlog.testing.capture_logs() as logged, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive.run)
            await store_messages(bus, [(subject, payload) for subject, payload, _ in first])
            await reached(archive, len(first))
            fill(small_disk / "other-data")
            await store_messages(bus, [(subject, payload) for log in others for subject, payload, _ in log])
            while not logged:  # noqa: ASYNC110 - another process logs it
                await anyio.sleep(0.05)
            # The next attempt fails too, and is not reported.
            await anyio.sleep(1.5 * ARCHIVE_RETRY_S)
            (small_disk / "other-data").unlink()
            await reached(archive, messages)
            tasks.cancel_scope.cancel()
    assert [line["event"] for line in logged] == ["archive_interrupted", "archive_continues"]
    assert logged[0]["sentence"].startswith(f"Archiving is paused. There is no space for the archive {path} (")
    assert "No space left on device" in logged[0]["sentence"]
    assert query(path, "SELECT count(*), count(DISTINCT seq) FROM events") == [(messages, messages)]


async def test_an_archive_that_is_removed_under_its_recorder_is_written_again(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to a removed file would be lost, and nobody may be told that it is archived."""
    monkeypatch.setattr("linestop.archive.writer.ARCHIVE_RETRY_S", 0.05)
    path, log = tmp_path / "a.duckdb", logs[0]
    await store_messages(bus, [(subject, payload) for subject, payload, _ in log])
    with structlog.testing.capture_logs() as logged:
        async with archiving(bus, path) as archive:
            with anyio.fail_after(30):
                await archive.wait_until_stored(len(log))
                path.unlink()
                with pytest.raises(ArchiveUnusable, match=f"{path} was removed or replaced while"):
                    await archive.reach()
                while not path.exists():  # noqa: ASYNC110 - a file appears
                    await anyio.sleep(0.01)
                await archive.wait_until_stored(len(log))
    assert "was removed or replaced" in logged[0]["sentence"]
    assert query(path, "SELECT count(*) FROM events") == [(len(log),)]


@pytest.mark.parametrize("at", [12_500, 270_000])
def test_a_damaged_archive_is_named_and_not_taken_for_one_in_use(
    tmp_path: Path, logs: list[list[Message]], at: int
) -> None:
    """DuckDB's own message has the word "block" in it."""
    path = tmp_path / "a.duckdb"
    file = ArchiveFile(path)
    for n in range(40):
        file.store(
            [
                StoredMessage(subject=subject.replace(".r1.", f".r{n}."), payload=payload, seq=n * len(logs[0]) + seq)
                for seq, (subject, payload, _) in enumerate(logs[0], 1)
            ]
        )
    file.close()
    with path.open("r+b") as opened:
        opened.seek(at)
        opened.write(b"damaged" * 100)
    with pytest.raises((ArchiveUnusable, ConfigError), match=r"[Ii]f the file is damaged"), refusals_named(path):
        ArchiveFile(path).log_of((TenantId("t"), RunId("r1")))


def test_a_snapshot_without_space_leaves_nothing_behind(
    small_disk: Path, tmp_path: Path, logs: list[list[Message]]
) -> None:
    """Neither the unfinished copy nor its write-ahead log; the sentence names the remedy."""
    file = ArchiveFile(tmp_path / "a.duckdb")
    file.store(
        [StoredMessage(subject=subject, payload=payload, seq=n) for n, (subject, payload, _) in enumerate(logs[0], 1)]
    )
    fill(small_disk / "other-data")
    with pytest.raises(ArchiveUnusable, match="There is no space for the archive"), refusals_named(file.path):
        file.snapshot(small_disk / "copy.duckdb")
    assert list(small_disk.iterdir()) == [small_disk / "other-data"]
    (small_disk / "other-data").unlink()
    file.snapshot(small_disk / "copy.duckdb")
    assert query(small_disk / "copy.duckdb", "SELECT count(*) FROM events") == [(len(logs[0]),)]
    file.close()


def test_one_absurd_payload_does_not_block_the_other_rows(tmp_path: Path, logs: list[list[Message]]) -> None:
    """Figures beyond a column, text that only the database refuses, times at the end of the range: all are stored."""
    strange = [
        b'{"id":"1","prev":"2","at":"9999-12-31T23:59:59.999999Z","by":"x","why":"\\u0000"}',
        b'{"id":"1","prev":"2","x":"\\ud800"}',
        b'{"id":"1","prev":"2","x":1e999}',
    ]
    messages = [
        StoredMessage(subject=f"runs.t.r9.approver.paused.{n}", payload=payload, seq=n)
        for n, payload in enumerate(strange, 1)
    ]
    good = [
        StoredMessage(
            subject=subject, payload=payload.replace(b'"cost_micros":200', b'"cost_micros":2' + b"0" * 25), seq=n
        )
        for n, (subject, payload, _) in enumerate(logs[0], len(strange) + 1)
    ]
    file = ArchiveFile(tmp_path / "a.duckdb")
    file.store([*messages, *good])
    assert file.status().events == len(strange) + len(good)
    file.close()
    assert query(file.path, "SELECT max(cost_micros) FROM events") == [(2**63 - 1,)]


def test_a_repeated_delivery_changes_nothing(tmp_path: Path, logs: list[list[Message]]) -> None:
    """Storing old messages again, alone or before new ones, adds only the new ones."""
    messages = [
        StoredMessage(subject=subject, payload=payload, seq=n) for n, (subject, payload, _) in enumerate(logs[0], 1)
    ]
    file = ArchiveFile(tmp_path / "a.duckdb")
    for batch in (messages[:5], messages[:5], messages[2:9], messages):
        file.store(batch)
    assert (file.status().events, file.watermark) == (len(messages), len(messages))
    file.close()


def test_a_batch_is_stored_completely_or_not_at_all(
    tmp_path: Path, logs: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure at the end of a batch leaves neither rows nor watermark, and the next attempt is complete."""
    messages = [
        StoredMessage(subject=subject, payload=payload, seq=n) for n, (subject, payload, _) in enumerate(logs[0], 1)
    ]
    file = ArchiveFile(tmp_path / "a.duckdb")
    file.store(messages[:4])
    with monkeypatch.context() as patch:
        patch.setattr(file, "_set_meta", _fail)
        with pytest.raises(OSError, match="no space"):
            file.store(messages[4:])
    assert (file.status().events, file.watermark) == (4, 4)
    file.store(messages[4:])
    file.close()
    assert query(file.path, "SELECT status, events FROM runs") == [("completed", len(messages))]


def _fail(name: str, value: int) -> None:
    raise OSError(f"no space for {name} {value}")


async def test_other_processes_get_a_snapshot_and_never_the_file(
    bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]]
) -> None:
    """The recorder replies through a socket that only its owner may use; any process may open a copy."""
    path, copy = tmp_path / "a.duckdb", tmp_path / "it's a copy.duckdb"
    await store_messages(bus, [(subject, payload) for subject, payload, _ in logs[0]])
    async with archiving(bus, path) as archive:
        with anyio.fail_after(30):
            await archive.wait_until_stored(len(logs[0]))
        assert (path.with_name("a.sock").stat().st_mode & 0o777) == 0o600
        status = await ask_recorder(path, QueryRequest(want="status"))
        assert status is not None
        assert (status.watermark, status.runs) == (len(logs[0]), 1)
        await ask_recorder(path, QueryRequest(want="snapshot", path=str(copy)))
        with pytest.raises(RetryableError, match="cannot replace") as refused:
            await ask_recorder(path, QueryRequest(want="snapshot", path=str(path)))
        assert not str(refused.value).endswith("..")
        done = await anyio.run_process([sys.executable, "-c", OPEN_IT, str(path)], check=False)
        assert ArchiveInUse.__name__ in done.stderr.decode()
        assert "ask that recorder for a snapshot" in done.stderr.decode()
        assert query(copy, "SELECT count(*) FROM events") == [(len(logs[0]),)]
    assert await ask_recorder(path, QueryRequest(want="status")) is None
    assert [table(path, name) for name in TABLES] == [table(copy, name) for name in TABLES]


def test_a_snapshot_replaces_a_snapshot_and_nothing_else(tmp_path: Path) -> None:
    """A target named by mistake is neither overwritten nor, if it is a pipe or a device, removed."""
    file, copy, notes, pipe = (tmp_path / name for name in ("a.duckdb", "copy.duckdb", "notes.txt", "pipe"))
    notes.write_text("what somebody wrote")
    os.mkfifo(pipe)
    archive = ArchiveFile(file)
    try:
        for _ in range(2):
            archive.snapshot(copy)
        for wrong in (notes, pipe, file, tmp_path):
            with pytest.raises(InputError, match="cannot replace"):
                archive.snapshot(wrong)
    finally:
        archive.close()
    assert notes.read_text() == "what somebody wrote"
    assert pipe.is_fifo()
    assert query(copy, "SELECT count(*) FROM events") == [(0,)]


@pytest.mark.parametrize("length", [5, 60])
async def test_an_archive_of_another_log_is_set_aside(
    length: int, bus: EmbeddedServer, tmp_path: Path, logs: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the broker's store was created again, sequences mean other events; the old archive is renamed.

    This happens whether the new log is shorter or longer than the old one.
    """
    monkeypatch.setattr("linestop.archive.writer.ARCHIVE_RETRY_S", 0.01)
    path = tmp_path / "a.duckdb"
    file = ArchiveFile(path)
    file.store(
        [StoredMessage(subject=f"runs.t.old.planner.started.{n}", payload=b"{}", seq=n) for n in range(1, length + 1)]
    )
    file.close()
    await store_messages(bus, [(subject, payload) for subject, payload, _ in logs[0]])
    async with archiving(bus, path) as archive:
        with anyio.fail_after(30):
            await set_aside(tmp_path)
            await archive.wait_until_stored(len(logs[0]))
    assert query(path, "SELECT run FROM runs") == [("r1",)]
    assert query(await set_aside(tmp_path), "SELECT count(*) FROM events") == [(length,)]


@pytest.mark.parametrize("length", [3, len(SCENARIOS["approved"]())])
async def test_a_log_that_is_replaced_under_a_running_archive_is_noticed(
    length: int, tmp_path: Path, logs: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection outlives the broker's store: whether the new log is shorter or not, a new archive begins."""
    monkeypatch.setattr("linestop.archive.writer.ARCHIVE_RETRY_S", 0.01)
    monkeypatch.setattr("linestop.archive.writer.ARCHIVE_BATCH_EVERY_S", 0.01)
    path = tmp_path / "a.duckdb"
    log = PagedLog((subject.replace(".r1.", ".old."), payload) for subject, payload, _ in logs[0])
    archive = Archive(path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(archive.run, log.as_log)
        with anyio.fail_after(30):
            await archive.wait_until_stored(len(logs[0]))
            log.messages.clear()
            log.append((subject, payload) for subject, payload, _ in logs[0][:length])
            await set_aside(tmp_path)
            await archive.wait_until_stored(length)
        tasks.cancel_scope.cancel()
    assert query(path, "SELECT run, count(*) FROM events GROUP BY run") == [("r1", length)]


def test_only_its_owner_may_read_the_archive_and_its_copies(tmp_path: Path) -> None:
    """It holds prompts, arguments and results; an existing folder stays as it is."""
    path, copy = tmp_path / "new" / "archive.duckdb", tmp_path / "copy.duckdb"
    before = os.umask(0o022)
    try:
        archive = ArchiveFile(path)
        try:
            archive.store([StoredMessage(subject="runs.t.r.validator.opened.1", payload=b"{}", seq=1)])
            archive.snapshot(copy)
            files = [copy, *path.parent.iterdir()]
            assert path.with_name("archive.duckdb.wal") in files
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            assert archive.status().bytes == sum(file.stat().st_size for file in files if file != copy)
        finally:
            archive.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_file_that_duckdb_cannot_open_is_named_in_a_sentence(tmp_path: Path) -> None:
    """The sentence holds DuckDB's reason, and how the archive is rebuilt."""
    path = tmp_path / "archive.duckdb"
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(ConfigError, match=r"The archive .*archive\.duckdb cannot be opened \(IO Error: .*rebuild"):
        ArchiveFile(path)


def test_a_folder_with_a_backslash_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """DuckDB would open another path."""
    with pytest.raises(ConfigError, match="reads the backslash in that path as a slash"):
        ArchiveFile(tmp_path / "a\\b" / "archive.duckdb")
