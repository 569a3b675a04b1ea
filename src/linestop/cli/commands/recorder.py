"""Commands about the archive of all runs: ``recorder status``, ``recorder snapshot``, ``recorder rebuild``."""

from __future__ import annotations

from pathlib import Path

import click

from linestop.cli.options import common_options


@click.group()
def recorder() -> None:
    """Manage the archive of all runs."""


@recorder.command("status")
@common_options
def status(*, directory: Path, tenant: str, as_json: bool) -> None:
    """Show how far the archive has read the log, whether or not its recorder runs."""
    from linestop.cli import archive_status

    del tenant
    archive_status.print_status(archive_status.read_status(directory), as_json=as_json)


@recorder.command("snapshot")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@common_options
def snapshot(target: Path, *, directory: Path, tenant: str, as_json: bool) -> None:
    """Copy the archive to the file TARGET, which any program may open with DuckDB."""
    from linestop.cli import archive_status

    del tenant
    archive_status.print_status(archive_status.copy_archive(directory, target), as_json=as_json)


@recorder.command("rebuild")
@common_options
def rebuild(*, directory: Path, tenant: str, as_json: bool) -> None:
    """Read the whole log into the archive again; no recorder may run here at the same time.

    Archived runs that were removed from the log stay in the archive.
    """
    from linestop.archive.requests import ARCHIVE_FILE
    from linestop.archive.writer import Archive
    from linestop.cli import archive_status, broker_client

    del tenant
    archive = Archive(directory / ARCHIVE_FILE)
    rebuilt = broker_client.with_client(directory, lambda client: archive.rebuild(client.bus.log()))
    archive_status.print_status(rebuilt, as_json=as_json)
