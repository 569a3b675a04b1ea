"""The state of the recorder's archive, whether or not a recorder has it open."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec

from linestop.archive.duckdb_file import ArchiveFile
from linestop.archive.query_socket import QueryRequest, ask_recorder
from linestop.archive.refusals import refusals_named
from linestop.archive.requests import ARCHIVE_FILE, ArchiveStatus
from linestop.bus.disk_space import MIB
from linestop.cli.output import printing, wording
from linestop.errors import NotFound


def read_status(directory: Path) -> ArchiveStatus:
    """The state of the archive, from its recorder or from the file.

    Raises:
        NotFound: there is no archive.
    """
    return _ask(_archive_path(directory), QueryRequest(want="status"), None)


def copy_archive(directory: Path, target: Path) -> ArchiveStatus:
    """Copy the archive to ``target`` and return the state of the copy.

    Raises:
        NotFound: there is no archive.
    """
    path = _archive_path(directory)
    status = _ask(path, QueryRequest(want="snapshot", path=str(target.absolute())), target)
    return msgspec.structs.replace(status, path=str(target), bytes=target.stat().st_size)


def _ask(path: Path, request: QueryRequest, target: Path | None) -> ArchiveStatus:
    """Ask the recorder; without one, open the file."""

    async def work() -> ArchiveStatus:
        status = await ask_recorder(path, request)
        return status if status is not None else _status_offline(path, target)

    return anyio.run(work)


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
    with refusals_named(path):
        file = ArchiveFile(path)
        try:
            if target is not None:
                file.snapshot(target)
            return file.status()
        finally:
            file.close()


def print_status(status: ArchiveStatus, *, as_json: bool) -> None:
    """Print the state of an archive."""
    if as_json:
        printing.print_json(status)
        return
    printing.print_text(
        f"{status.path}: {wording.counted(status.events, 'event')} of {wording.counted(status.runs, 'run')} "
        f"with {wording.counted(status.calls, 'call')}"
    )
    printing.print_text(f"read up to sequence {status.watermark} of the run log; {status.bytes / MIB:.1f} MiB")
