"""The command about workers."""

from __future__ import annotations

import click

from linestop.cli.options import common_options, implemented_by


@click.command()
@common_options
@implemented_by("workers:workers")
def workers() -> None:
    """List the workers: role, name, host, version, last beat, clock against the broker's, and what each one holds.

    A worker shows every 2 s that it lives; one that missed three of these beats is presumed dead. A role that no worker
    does is named below the table.
    """
