"""Old runs outside the database: one folder of Parquet files for each moved batch, which never changes again.

``<archive>-old/<day>-<last sequence>/`` contains ``events``, ``runs`` and ``calls`` of runs that were sealed on one
day, with the columns of the database's tables; any program that reads Parquet may read them. A batch is written under
a temporary name, synced and renamed. Then the rows in the files are deleted from the database, and no others. If a
process dies in between, the batch either does not exist yet, or its rows are also in the database. Then the next
attempt first deletes the rows that are already in files, and moves the rest as another batch. So a reader of both
counts each event once, by its sequence.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

TABLES_MOVED: Final = ("events", "runs", "calls")
UNFINISHED: Final = ".unfinished"
RUNS_MAX: Final = 10_000
"""Runs of one batch: a day with more runs has several batches."""

Query = Callable[..., list[tuple[Any, ...]]]


def old_folder(archive: Path) -> Path:
    """Return the folder of an archive's old runs, beside the archive."""
    return archive.with_name(f"{archive.stem}-old")


class OldRuns:
    """The Parquet files of one archive; ``query`` runs a statement on its database."""

    def __init__(self, archive: Path, query: Query) -> None:
        self.folder = old_folder(archive)
        self._query = query

    def write(self, day: str, last_seq: int) -> Path:
        """Write the runs that the table ``moving`` names as a new batch; return its folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.folder / UNFINISHED
        # Left behind by a process that died while it wrote.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        for table in TABLES_MOVED:
            file = unfinished / f"{table}.parquet"
            order = "seq" if table == "events" else "tenant, run"
            self._query(
                f"COPY (SELECT t.* FROM {table} t SEMI JOIN moving USING (tenant, run) ORDER BY {order}) "  # noqa: S608 - our names
                f"TO {_quoted(file)} (FORMAT parquet, COMPRESSION zstd)"
            )
            file.chmod(0o600)
            _sync(file)
        _sync(unfinished)
        final = self._free_folder(f"{day}-{last_seq}")
        unfinished.rename(final)
        _sync(self.folder)
        return final

    def batches_with_moving_runs(self, day: str) -> list[Path]:
        """Return the batches of a day with runs of the table ``moving``, which an earlier attempt did not delete."""
        batches = [each for each in sorted(self.folder.glob(f"{day}-*")) if _is_complete(each)]
        if not batches:
            return []
        found = self._query(
            "SELECT DISTINCT old.filename FROM "  # noqa: S608 - our names
            f"read_parquet({_files(batches, 'runs')}, filename = true) old SEMI JOIN moving USING (tenant, run)"
        )
        names = {Path(str(file)).parent.name for (file,) in found}
        return [batch for batch in batches if batch.name in names]

    def delete(self, batches: list[Path]) -> None:
        """Delete the rows of these batches from the database and from the table ``moving``, inside a transaction.

        An event that arrived later stays, and with it the rows of its run and its calls.
        """
        self._query(
            "DELETE FROM events WHERE (tenant, run) IN (SELECT tenant, run FROM moving) "  # noqa: S608 - our names
            f"AND (subject, seq) IN (SELECT subject, seq FROM read_parquet({_files(batches, 'events')}))"
        )
        self._query(
            "CREATE OR REPLACE TEMP TABLE moved AS SELECT tenant, run FROM moving "  # noqa: S608 - our names
            f"SEMI JOIN read_parquet({_files(batches, 'runs')}) old USING (tenant, run, last_seq) WHERE (tenant, run) "
            "NOT IN (SELECT tenant, run FROM events SEMI JOIN moving USING (tenant, run))"
        )
        for table in ("calls", "runs", "moving"):
            self._query(f"DELETE FROM {table} WHERE (tenant, run) IN (SELECT tenant, run FROM moved)")  # noqa: S608 - our names

    def _free_folder(self, name: str) -> Path:
        """Return an unused folder for a batch of this name: an existing batch is never changed or reused."""
        path, further = self.folder / name, 1
        while path.exists():
            further += 1
            path = self.folder / f"{name}-{further}"
        return path

    def events(self, *, where: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """Return events as (subject, payload, raw, seq), in order; each once, also if it is in several batches."""
        if not self._has_batches():
            return []
        files = _quoted(self.folder / "*-*" / "events.parquet")
        sql = (
            "SELECT subject, any_value(payload), any_value(raw), seq FROM "  # noqa: S608 - our names
            f"read_parquet({files}) WHERE {where} GROUP BY subject, seq ORDER BY seq"
        )
        return self._query(sql, values)

    def runs(self, *, before_seq: int, limit: int) -> list[tuple[str, str, int]]:
        """Return the newest runs that began before a sequence: tenant, run and first sequence."""
        if not self._has_batches():
            return []
        files = _quoted(self.folder / "*-*" / "runs.parquet")
        sql = (
            "SELECT tenant, run, min(first_seq) AS first FROM "  # noqa: S608 - our names
            f"read_parquet({files}) WHERE first_seq < ? GROUP BY tenant, run ORDER BY first DESC LIMIT ?"
        )
        return [(str(tenant), str(run), int(first)) for tenant, run, first in self._query(sql, [before_seq, limit])]

    def bytes(self) -> int:
        """Return the size of all files in bytes."""
        return sum(file.stat().st_size for file in self.folder.glob("*/*.parquet")) if self.folder.is_dir() else 0

    def _has_batches(self) -> bool:
        return any(self.folder.glob("*-*/events.parquet")) if self.folder.is_dir() else False


def _is_complete(batch: Path) -> bool:
    return all((batch / f"{table}.parquet").is_file() for table in TABLES_MOVED)


def _files(batches: list[Path], table: str) -> str:
    return "[" + ", ".join(_quoted(batch / f"{table}.parquet") for batch in batches) + "]"


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
