"""Old runs outside the database: one folder of Parquet files for each batch that was moved, never changed again.

``<archive>-old/<day>-<last sequence>/`` holds ``events``, ``runs`` and ``calls`` of runs that were sealed on one day,
with the columns of the database's tables; any program that reads Parquet may read them. A batch is written under
another name, synced, and gets its own by a rename. What is deleted from the database is then read from the files: a row
goes because a file holds it, and for no other reason. Whatever dies in between: the batch is not there yet, or it is
there and in the database, too; then the next try first deletes what files hold already, and moves the rest as another
batch. So a reader of both takes each event once, by its sequence.
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
"""Runs of one batch: a day with more takes several."""

Query = Callable[..., list[tuple[Any, ...]]]


def old_folder(archive: Path) -> Path:
    """Where the old runs of an archive are, beside it."""
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
        # Left by a process that died while it wrote.
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
        """The batches of a day that hold some of the table ``moving`` already: a try before did not delete it."""
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
        """Delete from the database, and from the table ``moving``, what these batches hold; inside a transaction.

        An event that came since stays, and with it the rows of its run and its calls.
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
        """Where a batch of this name goes: a batch that is there is never changed, nor taken for this one."""
        path, further = self.folder / name, 1
        while path.exists():
            further += 1
            path = self.folder / f"{name}-{further}"
        return path

    def events(self, *, where: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """Events as (subject, payload, raw, seq), in order; of a run in several batches each of them once."""
        if not self._has_batches():
            return []
        files = _quoted(self.folder / "*-*" / "events.parquet")
        sql = (
            "SELECT subject, any_value(payload), any_value(raw), seq FROM "  # noqa: S608 - our names
            f"read_parquet({files}) WHERE {where} GROUP BY subject, seq ORDER BY seq"
        )
        return self._query(sql, values)

    def runs(self, *, before_seq: int, limit: int) -> list[tuple[str, str, int]]:
        """The runs that ended before a sequence and began last: tenant, run and where each began."""
        if not self._has_batches():
            return []
        files = _quoted(self.folder / "*-*" / "runs.parquet")
        sql = (
            "SELECT tenant, run, min(first_seq) AS first FROM "  # noqa: S608 - our names
            f"read_parquet({files}) WHERE first_seq < ? GROUP BY tenant, run ORDER BY first DESC LIMIT ?"
        )
        return [(str(tenant), str(run), int(first)) for tenant, run, first in self._query(sql, [before_seq, limit])]

    def bytes(self) -> int:
        """How much space they take."""
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
