"""Runs whose log has left RUNS: they are read from the archive beside the state folder, if there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio.to_thread
import msgspec

from linestop.archive.requests import RunQuery
from linestop.bus.interfaces import Log, StoredMessage
from linestop.schemas.subjects import RunId, TenantId
from linestop.schemas.verify.export_bundle import read_bundle

ARCHIVE_NAME: Final = "archive.duckdb"


class LeftRuns:
    """The archive of a state folder; None where there is no such folder."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / ARCHIVE_NAME if directory is not None else None

    async def load(
        self, log: Log, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """The messages of a run: from the log, and what has left it from the archive."""
        found = await log.load(tenant, run, after_seq=after_seq, leader=leader)
        if after_seq or (found and found[0].subject.endswith(".1")):
            return found
        lines = await self._ask(RunQuery(tenant=tenant, run=run))
        kept = {message.seq for message in found}
        old = [
            StoredMessage(subject=subject, payload=payload, seq=seq)
            for subject, payload, seq in read_bundle(lines).messages
            if seq not in kept
        ]
        return sorted([*old, *found], key=lambda message: message.seq)

    async def newest(self, *, before_seq: int, limit: int) -> list[tuple[TenantId, RunId]]:
        """The runs that began last of those that began before a sequence, the last one first."""
        if limit <= 0:
            return []
        lines = await self._ask(RunQuery(before_seq=before_seq, limit=limit))
        pairs = [msgspec.json.decode(line, type=tuple[str, str]) for line in lines]
        return [(TenantId(tenant), RunId(run)) for tenant, run in pairs]

    async def _ask(self, wanted: RunQuery) -> Sequence[bytes]:
        path = self._path
        if path is None or not path.is_file():
            return []
        # Imported here: they load a database, which is needed for runs that have left the log alone.
        from linestop.archive.duckdb_file import ArchiveFile  # noqa: PLC0415
        from linestop.archive.query_socket import QueryRequest, ask_recorder  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="linestop-") as folder:
            target = Path(folder) / "lines"
            if await ask_recorder(path, QueryRequest(want="runs", path=str(target), runs=wanted)) is None:

                def read() -> None:
                    file = ArchiveFile(path)
                    try:
                        file.export(wanted, target)
                    finally:
                        file.close()

                await anyio.to_thread.run_sync(read)
            return target.read_bytes().splitlines()
