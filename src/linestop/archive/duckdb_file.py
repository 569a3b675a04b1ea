"""The archive's DuckDB file: opened by one process, written in transactions, read to fold runs again.

Everything here blocks, so it runs in a thread. While a writer has the file open, no other process can even read it;
others get a snapshot, which the writer makes (``snapshot``).

A batch and the watermark (the last stored stream sequence) are written in one transaction, so a message that is
delivered again after a crash is recognised by its sequence.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec

from linestop.archive.columns import CALLS, EVENTS, META, RUNS, TABLES, VERSION, S, Table
from linestop.archive.parquet_files import RUNS_MAX, OldRuns
from linestop.archive.refusals import ArchiveInUse, ArchiveUnusable, identity_of, require_usable_path
from linestop.archive.requests import ArchiveStatus, Reach, RunQuery
from linestop.archive.row_sources import EventSource, call_source, changed_calls, event_source
from linestop.bus.access.credentials import write_private
from linestop.bus.interfaces import StoredMessage
from linestop.errors import ConfigError, InputError
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunId, RunSubject, TenantId, parse_run_event
from linestop.schemas.text.text_size import tokens_not_estimated
from linestop.schemas.verify.export_bundle import write_bundle

SETTINGS: Final[Mapping[str, str | bool | int | float | list[str]]] = {
    "memory_limit": "256MB",
    # One thread stores as fast as two, and leaves the other cores to the actors.
    "threads": 1,
    # With DuckDB's 16 MB storing takes 1.6 times the CPU, because each checkpoint writes the last group of rows again;
    # a start after a kill reads 64 MB in about half a second.
    "checkpoint_threshold": "64MB",
}
"""DuckDB's settings."""

EVENTS_FOLDED_MAX: Final = 30_000
"""Events of open runs that stay folded in memory between batches, about 3 KB each; any other run is read again."""

DATABASE_MARK: Final = (8, b"DUCK")
"""The position and the bytes that identify a DuckDB file."""

Key = tuple[TenantId, RunId]


class ArchiveFile:
    """An open archive. It must not be used by two threads at the same time."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            ArchiveInUse: another process has the file open.
            ConfigError: DuckDB cannot open the file.
        """
        self.path = path
        require_usable_path(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._connection = duckdb.connect(str(path), config=dict(SETTINGS))
        except duckdb.Error as error:
            if "Could not set lock" in str(error):
                raise ArchiveInUse(
                    f"The archive {path} is open in another process: ask that recorder for a snapshot "
                    "(`linestop recorder snapshot`; if it does not answer, again in some seconds), or stop it first."
                ) from None
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ConfigError(
                f"The archive {path} cannot be opened ({reason}): if the file is damaged or of "
                "another DuckDB, move it away, and `linestop recorder rebuild` rebuilds it from the log."
            ) from None
        self._folds: OrderedDict[Key, Run] = OrderedDict()
        self._old = OldRuns(path, self._query_old)
        self._make_tables()
        self._restrict_access()
        self._identity = identity_of(path)
        self.watermark = self._meta("watermark")

    def close(self) -> None:
        """Write everything into the file itself and close it."""
        self._connection.close()

    def require_in_place(self) -> None:
        """Check that the path still names the file that is open.

        Raises:
            ArchiveUnusable: it was removed or replaced: what is written is lost when the file is closed.
        """
        if identity_of(self.path) != self._identity:
            raise ArchiveUnusable(
                f"The archive {self.path} was removed or replaced while its recorder had it open. A new one is written "
                "from what the log still has."
            )

    # --- writing -----------------------------------------------------------------------------------------

    def store(self, messages: Sequence[StoredMessage]) -> None:
        """Add the messages after the watermark, in order, and the rows derived from them; all or nothing."""
        new_messages = [message for message in messages if message.seq > self.watermark]
        if not new_messages:
            return
        self._connection.begin()
        try:
            rows, changed = self._fold(new_messages)
            self._append(EVENTS, rows)
            self._append(RUNS, changed)
            self._append(
                CALLS, [call_source(run, call) for run in changed for call in changed_calls(run, self.watermark)]
            )
            self._set_meta("watermark", new_messages[-1].seq)
            self._connection.commit()
        except BaseException:
            # The folds contain events that the file does not.
            self._folds.clear()
            # A commit that failed has ended the transaction.
            with contextlib.suppress(duckdb.TransactionException):
                self._connection.rollback()
            raise
        self.watermark = new_messages[-1].seq
        self._restrict_access()
        self._trim_folds()

    def reset(self, *, first_seq: int = 1) -> None:
        """Delete the messages from ``first_seq`` on, so that they are read from the log again; older ones stay."""
        self._folds.clear()
        self._connection.begin()
        if first_seq > 1 and self.has_current_version():
            for table in ("calls", "runs"):
                reread_runs = "(SELECT tenant, run FROM runs WHERE last_seq >= ?)"
                self._execute(f"DELETE FROM {table} WHERE (tenant, run) IN {reread_runs}", [first_seq])  # noqa: S608 - our names
            self._execute("DELETE FROM events WHERE seq >= ?", [first_seq])
            self.watermark = min(self.watermark, first_seq - 1)
            self._set_meta("watermark", self.watermark)
            self._connection.commit()
            return
        for name in ("meta", *(table.name for table in TABLES)):
            self._execute(f"DROP TABLE IF EXISTS {name}")
        self._connection.commit()
        self._make_tables()
        self.watermark = 0

    def _fold(self, messages: Sequence[StoredMessage]) -> tuple[list[EventSource], list[Run]]:
        """Apply the messages to the folds of their runs; return the sources of the rows, and the changed runs."""
        with tokens_not_estimated():
            subjects = [_subject_of(message) for message in messages]
            changed = self._folded_runs(subjects)
            return [
                _apply(changed, message, subject) for message, subject in zip(messages, subjects, strict=True)
            ], list(changed.values())

    def _append(self, table: Table[S], sources: Sequence[S]) -> None:
        """Add the rows of these sources; a row replaces one with the same key."""
        if sources:
            names = [column.name for column in table.columns]
            with self._connection.appender(table.name, columns=names, action=table.action) as appender:
                appender.append_rows(table.rows(sources))

    # --- reading -----------------------------------------------------------------------------------------

    def subject_at(self, seq: int) -> str | None:
        """Return the subject of the message with this sequence, None if it is not in the archive."""
        found = self._execute("SELECT subject FROM events WHERE seq = ?", [seq])
        found = found or self._old.events(where="seq = ?", values=[seq])
        return str(found[0][0]) if found else None

    def status(self) -> ArchiveStatus:
        """Return the state of the archive."""
        counts = [int(self._execute(f"SELECT count(*) FROM {table}")[0][0]) for table in ("events", "runs", "calls")]  # noqa: S608 - our names
        return ArchiveStatus(
            path=str(self.path),
            watermark=self.watermark,
            events=counts[0],
            runs=counts[1],
            calls=counts[2],
            bytes=sum(file.stat().st_size for file in self._files() if file.exists()) + self._old.bytes(),
        )

    def snapshot(self, path: Path) -> None:
        """Copy the present archive into a new file that any process may open; replaces ``path`` atomically.

        Raises:
            InputError: ``path`` is the archive itself, or another file that a snapshot must not replace.
        """
        target = path.absolute()
        require_usable_path(target)
        if target.exists() and (target.samefile(self.path) or not _is_replaceable(target)):
            raise InputError(f"A snapshot cannot replace {path}, which is not a snapshot: name another file.")
        unfinished = target.with_name(f".{target.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        name = str(self._execute("SELECT current_database()")[0][0]).replace('"', '""')
        quoted = str(unfinished).replace("'", "''")
        try:
            self._execute(f"ATTACH '{quoted}' AS snapshot_copy")
            unfinished.chmod(0o600)
            self._execute(f'COPY FROM DATABASE "{name}" TO snapshot_copy')
            self._execute("DETACH snapshot_copy")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._execute("DETACH snapshot_copy")
            for file in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
                file.unlink(missing_ok=True)
            raise
        os.replace(unfinished, target)  # noqa: PTH105 - atomic

    def _folded_runs(self, subjects: Sequence[RunSubject | None]) -> dict[Key, Run]:
        """Return the runs of these subjects as they are folded so far; those that are not in memory are read."""
        runs: dict[Key, Run] = {}
        firsts = {(each.tenant, each.run): each for each in reversed(subjects) if each is not None}
        known = self._known_runs([key for key in firsts if key not in self._folds])
        for key, first in firsts.items():
            run = self._folds.get(key)
            if run is None:
                run = self._folds[key] = Run(*key)
                # A run whose first event comes now is not read, unless another message of its name was stored.
                for subject, payload, seq in self.log_of(key) if first.n > 1 or key in known else ():
                    # An event that failed to fold the first time fails again; its row contains the reason.
                    with contextlib.suppress(Exception):
                        run.apply(subject, payload, seq)
            self._folds.move_to_end(key)
            runs[key] = run
        return runs

    def _known_runs(self, keys: Sequence[Key]) -> set[Key]:
        """Return those of these runs that have a row."""
        if not keys:
            return set()
        sql = (
            "SELECT tenant, run FROM runs SEMI JOIN (SELECT unnest(?) AS tenant, unnest(?) AS run) USING (tenant, run)"
        )
        found = self._execute(sql, [[tenant for tenant, _ in keys], [run for _, run in keys]])
        return {(TenantId(tenant), RunId(run)) for tenant, run in found}

    def log_of(self, key: Key) -> list[tuple[str, bytes, int]]:
        """Return the messages of a run, in order: subject, payload and sequence."""
        first = self._execute("SELECT first_seq FROM runs WHERE tenant = ? AND run = ?", list(key))
        where, values = "tenant = ? AND run = ?", list(key)
        sql = f"SELECT subject, payload, raw, seq FROM events WHERE seq >= ? AND {where} ORDER BY seq"  # noqa: S608 - our names
        found = self._execute(sql, [first[0][0] if first else 0, *values])
        if not found or (first and found[0][3] > first[0][0]) or not first:
            # The run, or its beginning, was moved out of the database.
            seen = {row[3] for row in found}
            old = [row for row in self._old.events(where=where, values=values) if row[3] not in seen]
            found = sorted([*old, *found], key=lambda row: row[3])
        return [
            (str(subject), raw if raw is not None else payload.encode(), int(seq))
            for subject, payload, raw, seq in found
        ]

    def export(self, want: RunQuery, path: Path) -> None:
        """Write the log of a run, or the list of runs, as lines into a new file that only its owner may read."""
        if want.run:
            lines = write_bundle(self.log_of((TenantId(want.tenant), RunId(want.run))))
        else:
            sql = "SELECT tenant, run, first_seq FROM runs WHERE first_seq < ? ORDER BY first_seq DESC LIMIT ?"
            found = {(t, r): int(first) for t, r, first in self._old.runs(before_seq=want.before_seq, limit=want.limit)}
            found |= {(str(t), str(r)): int(first) for t, r, first in self._execute(sql, [want.before_seq, want.limit])}
            newest = sorted(found.items(), key=lambda each: -each[1])[: want.limit]
            lines = (msgspec.json.encode(key) + b"\n" for key, _ in newest)
        write_private(path, b"".join(lines))

    def reach(self) -> Reach:
        """Return the watermark, and the first sequence of the oldest open run."""
        found = self._execute("SELECT min(first_seq) FROM runs WHERE sealed_at IS NULL")
        return Reach(watermark=self.watermark, oldest_open_seq=int(found[0][0] or 0))

    def move_old(self, before: datetime) -> int:
        """Move the runs of the oldest day to Parquet files; return their number, 0 if none is old enough.

        Runs that were sealed before ``before`` are old enough.
        """
        cut = before.astimezone(UTC).replace(tzinfo=None)
        # The last message of the log stays: it shows that the archive belongs to this log (``subject_at``).
        self._execute("DROP TABLE IF EXISTS moving")
        self._execute(
            "CREATE TEMP TABLE moving AS WITH old AS (SELECT tenant, run, last_seq, sealed_at::DATE AS day FROM runs "
            "WHERE sealed_at < ? AND last_seq < ?) SELECT * FROM old WHERE day = (SELECT min(day) FROM old) "
            "ORDER BY last_seq LIMIT ?",
            [cut, self.watermark, RUNS_MAX],
        )
        count, day = self._execute("SELECT count(*), min(day) FROM moving")[0]
        if count:
            self._delete_moved(self._old.batches_with_moving_runs(f"{day:%Y-%m-%d}"))
        ((remaining, last_seq),) = self._execute("SELECT count(*), max(last_seq) FROM moving")
        if remaining:
            self._delete_moved([self._old.write(f"{day:%Y-%m-%d}", int(last_seq))])
        ((remaining,),) = self._execute("SELECT count(*) FROM moving")
        self._execute("DROP TABLE moving")
        return int(count) - int(remaining)

    def _delete_moved(self, batches: list[Path]) -> None:
        """Delete the rows that these batches contain, all or nothing."""
        if not batches:
            return
        self._connection.begin()
        try:
            self._old.delete(batches)
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise

    def _trim_folds(self) -> None:
        """Drop the folds of ended runs, and then the oldest until at most ``EVENTS_FOLDED_MAX`` events remain."""
        for key in [key for key, run in self._folds.items() if run.sealed]:
            del self._folds[key]
        events = sum(len(run.entries) for run in self._folds.values())
        while events > EVENTS_FOLDED_MAX:
            _, run = self._folds.popitem(last=False)
            events -= len(run.entries)

    # --- the file ----------------------------------------------------------------------------------------

    def _make_tables(self) -> None:
        self._connection.begin()
        self._execute(f"CREATE TABLE IF NOT EXISTS meta ({META})")
        for table in TABLES:
            self._execute(f"CREATE TABLE IF NOT EXISTS {table.name} ({table.sql})")
            present = self._execute("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table.name])
            for column in table.columns:
                if (column.name,) not in present:
                    self._execute(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type}")
        if not self._meta("version"):
            self._set_meta("version", VERSION)
        self._connection.commit()

    def _files(self) -> tuple[Path, Path]:
        """Return the file and its write-ahead log."""
        return self.path, self.path.with_name(f"{self.path.name}.wal")

    def _restrict_access(self) -> None:
        """Let only the owner read: the database creates files with the umask's mode, the second one repeatedly."""
        for file in self._files():
            # The file may not exist, or belong to another user, who then chooses its mode.
            with contextlib.suppress(OSError):
                file.chmod(0o600)

    def has_current_version(self) -> bool:
        """Whether the tables have the present version."""
        return self._meta("version") == VERSION

    def _meta(self, name: str) -> int:
        found = self._execute("SELECT value FROM meta WHERE name = ?", [name])
        return int(found[0][0]) if found else 0

    def _set_meta(self, name: str, value: int) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, value])

    def _query_old(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self._execute(sql, values)

    def _execute(self, sql: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement to its end: an unread result would block the next."""
        rows: list[tuple[Any, ...]] = self._connection.execute(sql, values or []).fetchall()
        return rows


def _subject_of(message: StoredMessage) -> RunSubject | None:
    try:
        return parse_run_event(message.subject)
    except InputError:
        return None


def _apply(runs: dict[Key, Run], message: StoredMessage, subject: RunSubject | None) -> EventSource:
    """Apply a message to its run; return the source of its row."""
    if subject is None:
        return event_source(message, None, None, ignored="its subject is not that of an event")
    try:
        entry = runs[subject.tenant, subject.run].apply(message.subject, message.payload, message.seq)
    except Exception as error:  # noqa: BLE001 - the archive stores every message of a log
        return event_source(message, subject, None, ignored=f"it cannot be folded: {type(error).__name__}: {error}")
    return event_source(message, subject, entry)


def _is_replaceable(target: Path) -> bool:
    """Whether the target is an older snapshot or an empty file, not a device or a file of another program."""
    if not target.is_file():
        return False
    at, mark = DATABASE_MARK
    with target.open("rb") as file:
        head = file.read(at + len(mark))
    return not head or head[at:] == mark
