"""``recorder``: look after the archive of all runs: ``status``, ``snapshot``, ``rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import anyio
import msgspec

from linestop.archive.duckdb_file import ArchiveFile, ArchiveStatus
from linestop.archive.query_socket import DoorRequest, ask
from linestop.archive.writer import ARCHIVE_FILE, Archive
from linestop.cli import output
from linestop.client import Client
from linestop.errors import NotFound

MIB: Final = 1024 * 1024


def status(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Say how far the archive is, whether its recorder runs or not."""
    path = _path(options["directory"])

    async def work() -> ArchiveStatus:
        found = await ask(path, DoorRequest(want="status"))
        return found if found is not None else _offline(path, None)

    _print(anyio.run(work), as_json=options["as_json"])


def snapshot(target: Path, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Copy the archive into the file TARGET, which any program may open with DuckDB."""
    path, request = _path(options["directory"]), DoorRequest(want="snapshot", path=str(target.absolute()))

    async def work() -> ArchiveStatus:
        found = await ask(path, request)
        return found if found is not None else _offline(path, target)

    found = msgspec.structs.replace(anyio.run(work), path=str(target), bytes=target.stat().st_size)
    _print(found, as_json=options["as_json"])


def rebuild(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Empty the archive and read the whole log into it again; no recorder may run here meanwhile."""
    directory: Path = options["directory"]

    async def work(client: Client) -> ArchiveStatus:
        return await Archive(directory / ARCHIVE_FILE).rebuild(client.bus.log())

    _print(output.with_client(directory, work), as_json=options["as_json"])


def _path(directory: Path) -> Path:
    """The archive of a state directory.

    Raises:
        NotFound: there is none.
    """
    path = directory / ARCHIVE_FILE
    if not path.is_file():
        raise NotFound(f"There is no archive in '{directory}': a recorder makes it (`linestop dev`), or name --dir.")
    return path


def _offline(path: Path, target: Path | None) -> ArchiveStatus:
    """Look into an archive that no recorder has open, and copy it if a target is given."""
    file = ArchiveFile(path)
    try:
        if target is not None:
            file.snapshot(target)
        return file.status()
    finally:
        file.close()


def _print(found: ArchiveStatus, *, as_json: bool) -> None:
    if as_json:
        output.say_json(found)
        return
    output.say(f"{found.path}: {found.events} events of {found.runs} runs with {found.calls} calls")
    output.say(f"up to sequence {found.watermark} of the run log, {found.bytes / MIB:.1f} MiB")
