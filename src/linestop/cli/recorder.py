"""``recorder``: the commands about the archive of all runs: ``status``, ``snapshot``, ``rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from linestop.archive.duckdb_file import ArchiveFile, ArchiveStatus
from linestop.archive.query_socket import QueryRequest, ask_recorder
from linestop.archive.writer import ARCHIVE_FILE, Archive
from linestop.cli import broker_client
from linestop.cli.output import printing, wording
from linestop.client import Client
from linestop.errors import NotFound

MIB: Final = 1024 * 1024


def status(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Show how far the archive has read the log, whether or not its recorder runs."""
    path = _archive_path(options["directory"])

    async def work() -> ArchiveStatus:
        status = await ask_recorder(path, QueryRequest(want="status"))
        return status if status is not None else _status_offline(path, None)

    _print(anyio.run(work), as_json=options["as_json"])


def snapshot(target: Path, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Copy the archive to the file TARGET, which any program may open with DuckDB."""
    path, request = _archive_path(options["directory"]), QueryRequest(want="snapshot", path=str(target.absolute()))

    async def work() -> ArchiveStatus:
        status = await ask_recorder(path, request)
        return status if status is not None else _status_offline(path, target)

    status = msgspec.structs.replace(anyio.run(work), path=str(target), bytes=target.stat().st_size)
    _print(status, as_json=options["as_json"])


def rebuild(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Empty the archive and read the whole log into it again; no recorder may run here at the same time."""
    directory: Path = options["directory"]

    async def work(client: Client) -> ArchiveStatus:
        return await Archive(directory / ARCHIVE_FILE).rebuild(client.bus.log())

    _print(broker_client.with_client(directory, work), as_json=options["as_json"])


def _archive_path(directory: Path) -> Path:
    """The archive of a state directory.

    Raises:
        NotFound: there is no archive.
    """
    path = directory / ARCHIVE_FILE
    if not path.is_file():
        raise NotFound(f"There is no archive in '{directory}': a recorder creates it (`linestop dev`), or name --dir.")
    return path


def _status_offline(path: Path, target: Path | None) -> ArchiveStatus:
    """Open an archive that no recorder has open, and copy it if a target is given."""
    file = ArchiveFile(path)
    try:
        if target is not None:
            file.snapshot(target)
        return file.status()
    finally:
        file.close()


def _print(status: ArchiveStatus, *, as_json: bool) -> None:
    if as_json:
        printing.print_json(status)
        return
    printing.print_text(
        f"{status.path}: {wording.counted(status.events, 'event')} of {wording.counted(status.runs, 'run')} "
        f"with {wording.counted(status.calls, 'call')}"
    )
    printing.print_text(f"read up to sequence {status.watermark} of the run log; {status.bytes / MIB:.1f} MiB")
