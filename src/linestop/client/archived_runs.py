"""Runs whose events were removed from RUNS: read from the archive in the state directory, if there is one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
import msgspec

from linestop.archive.requests import ARCHIVE_FILE, RunQuery
from linestop.bus.interfaces import Log, StoredMessage
from linestop.schemas.subjects import RunId, TenantId
from linestop.schemas.verify.export_bundle import read_bundle


class RunArchive:
    """The archive in a state directory; it is empty where there is no such directory."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / ARCHIVE_FILE if directory is not None else None

    async def load(
        self, log: Log, tenant: TenantId, run: RunId, *, after_seq: int = 0, leader: bool = False
    ) -> list[StoredMessage]:
        """The messages of a run, from the log and from the archive."""
        in_log = await log.load(tenant, run, after_seq=after_seq, leader=leader)
        if after_seq or (in_log and in_log[0].subject.endswith(".1")):
            return in_log
        lines = await self._export(RunQuery(tenant=tenant, run=run))
        seqs_in_log = {message.seq for message in in_log}
        archived = [
            StoredMessage(subject=subject, payload=payload, seq=seq)
            for subject, payload, seq in read_bundle(lines).messages
            if seq not in seqs_in_log
        ]
        return sorted([*archived, *in_log], key=lambda message: message.seq)

    async def newest(self, *, before_seq: int, limit: int) -> list[tuple[TenantId, RunId]]:
        """The newest runs that began before this stream sequence, newest first."""
        if limit <= 0:
            return []
        lines = await self._export(RunQuery(before_seq=before_seq, limit=limit))
        pairs = [msgspec.json.decode(line, type=tuple[str, str]) for line in lines]
        return [(TenantId(tenant), RunId(run)) for tenant, run in pairs]

    async def _export(self, query: RunQuery) -> Sequence[bytes]:
        path = self._path
        if path is None or not path.is_file():
            return []
        # Imported here: they load a database, which only runs that were removed from the log need.
        from linestop.archive.duckdb_file import ArchiveFile  # noqa: PLC0415
        from linestop.archive.query_socket import QueryRequest, ask_recorder  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="linestop-") as folder:
            target = Path(folder) / "lines"
            if await ask_recorder(path, QueryRequest(want="runs", path=str(target), runs=query)) is None:

                def read() -> None:
                    file = ArchiveFile(path)
                    try:
                        file.export(query, target)
                    finally:
                        file.close()

                await anyio.to_thread.run_sync(read)
            return target.read_bytes().splitlines()
