"""The columns of the archive: names and types stay, files written before are read, and one line adds a column."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import duckdb
import pytest
from tests.run_logs import SCENARIOS

from linestop.archive import columns, duckdb_file
from linestop.archive.columns import CALLS, EVENTS, RUNS, TABLES, Column, Table
from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.row_sources import EventSource
from linestop.bus.interfaces import StoredMessage
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import RunId, TenantId

WRITTEN_BEFORE: Final[dict[str, str]] = {
    "meta": "name VARCHAR PRIMARY KEY, value BIGINT NOT NULL",
    "events": (
        "seq BIGINT NOT NULL, tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, role VARCHAR NOT NULL, "
        "event VARCHAR NOT NULL, n BIGINT NOT NULL, said_at TIMESTAMP, cost_micros BIGINT NOT NULL, "
        "ignored VARCHAR NOT NULL, subject VARCHAR NOT NULL, payload JSON, raw BLOB"
    ),
    "runs": (
        "tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, status VARCHAR NOT NULL, phase VARCHAR NOT NULL, "
        "agent VARCHAR NOT NULL, agent_digest VARCHAR NOT NULL, model VARCHAR NOT NULL, user_id VARCHAR NOT NULL, "
        "key VARCHAR NOT NULL, thread VARCHAR NOT NULL, labels JSON NOT NULL, parent_run VARCHAR NOT NULL, "
        "dry_run BOOLEAN NOT NULL, opened_at TIMESTAMP, sealed_at TIMESTAMP, updated_at TIMESTAMP, "
        "cost_micros BIGINT NOT NULL, held_micros BIGINT NOT NULL, tokens BIGINT NOT NULL, turns BIGINT NOT NULL, "
        "calls BIGINT NOT NULL, events BIGINT NOT NULL, wait_s DOUBLE NOT NULL, cause VARCHAR NOT NULL, "
        "why VARCHAR NOT NULL, stopped_by VARCHAR NOT NULL, stop_code VARCHAR NOT NULL, task VARCHAR, answer VARCHAR, "
        "first_seq BIGINT NOT NULL, last_seq BIGINT NOT NULL, PRIMARY KEY (tenant, run)"
    ),
    "calls": (
        "tenant VARCHAR NOT NULL, run VARCHAR NOT NULL, call VARCHAR NOT NULL, tool VARCHAR NOT NULL, "
        "tier VARCHAR NOT NULL, verdict VARCHAR NOT NULL, stage VARCHAR NOT NULL, fate VARCHAR NOT NULL, "
        "attempts BIGINT NOT NULL, effect_key VARCHAR NOT NULL, args VARCHAR, proposal_n BIGINT NOT NULL, "
        "gate_n BIGINT NOT NULL, cost_micros BIGINT NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP, "
        "duration_s DOUBLE, error_type VARCHAR NOT NULL, error VARCHAR NOT NULL, answer_is_error BOOLEAN NOT NULL, "
        "PRIMARY KEY (tenant, run, call)"
    ),
}
"""The tables as version 1 of the archive began."""

LOG: Final = [
    StoredMessage(subject=subject, payload=payload, seq=n)
    for n, (subject, payload, _) in enumerate(SCENARIOS["approved"](), 1)
]


def read(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def stored(path: Path, messages: list[StoredMessage]) -> None:
    """Open the archive, add the messages and close it."""
    file = ArchiveFile(path)
    assert file.has_current_version()
    file.store(messages)
    file.close()


def test_the_tables_of_version_1_keep_their_columns_in_order() -> None:
    """Queries and files depend on them. A column that was added later comes on top and allows NULL."""
    for table in TABLES:
        first = {column.split()[0]: column for column in WRITTEN_BEFORE[table.name].split(", PRIMARY")[0].split(", ")}
        now = {column.name: f"{column.name} {column.type}" for column in table.columns}
        assert {name: now.get(name) for name in first} == first
        assert [name for name in now if name in first] == list(first)
        assert all("NOT NULL" not in line for name, line in now.items() if name not in first)


def test_a_file_written_before_is_read_and_continued(tmp_path: Path) -> None:
    """A file with the tables of then and a row in each: the rows stay, and the log is stored on top of them."""
    path = tmp_path / "a.duckdb"
    with duckdb.connect(str(path)) as connection:
        for name, fields in WRITTEN_BEFORE.items():
            connection.execute(f"CREATE TABLE {name} ({fields})").fetchall()
        connection.execute("INSERT INTO meta VALUES ('version', 1), ('watermark', 1)").fetchall()
        event = (1, "t", "r1", "validator", "opened", 1, None, 0, "", LOG[0].subject, LOG[0].payload.decode(), None)
        connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * 12)})", list(event)).fetchall()
        run = fold_messages(TenantId("t"), RunId("r1"), [(LOG[0].subject, LOG[0].payload, 1)])
        (row,) = RUNS.rows([run])
        connection.execute(f"INSERT INTO runs VALUES ({', '.join('?' * len(row))})", list(row)).fetchall()
    stored(path, LOG)
    assert read(path, "SELECT seq, payload::VARCHAR FROM events ORDER BY seq") == [
        (message.seq, message.payload.decode()) for message in LOG
    ]
    assert read(path, "SELECT status, events, first_seq FROM runs") == [("completed", len(LOG), 1)]
    assert read(path, "SELECT count(*) FROM calls") == [(3,)]


def test_one_line_adds_a_column_to_new_and_existing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of the table: rows that were stored before have no value in it, all others have theirs."""
    path, fresh = tmp_path / "a.duckdb", tmp_path / "b.duckdb"
    stored(path, LOG[:4])
    line: Column[EventSource] = Column("bytes", "BIGINT", lambda of: len(of.message.payload))
    more = Table[EventSource](name="events", columns=(*EVENTS.columns[:3], line, *EVENTS.columns[3:]))
    monkeypatch.setattr(duckdb_file, "EVENTS", more)
    monkeypatch.setattr(duckdb_file, "TABLES", (more, RUNS, CALLS))
    stored(path, LOG)
    stored(fresh, LOG)
    sizes = [(len(message.payload), message.subject) for message in LOG]
    assert read(fresh, "SELECT bytes, subject FROM events ORDER BY seq") == sizes
    empty = [(None, subject) for _, subject in sizes[:4]]
    assert read(path, "SELECT bytes, subject FROM events ORDER BY seq") == [*empty, *sizes[4:]]


def test_a_figure_beyond_a_column_is_stored_as_its_limit() -> None:
    """In every integer column, in both directions."""
    limit = columns.INTEGER_MAX
    wide: list[Column[None]] = [
        Column("low", "BIGINT", lambda _: -(10**30)),
        Column("high", "BIGINT NOT NULL", lambda _: 10**30),
    ]
    text: Column[None] = Column("text", "VARCHAR", lambda _: "x")
    assert Table[None](name="x", columns=(*wide, text)).rows([None]) == [(-limit, limit, "x")]
