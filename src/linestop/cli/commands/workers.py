"""The command about workers."""

from __future__ import annotations

import click

from linestop.cli.options import common_options, implemented_by


@click.command()
@common_options
@implemented_by("workers:workers")
def workers() -> None:
    """List the workers: role, name, state, host, version, last heartbeat, clock offset from the broker, and work held.

    A worker sends a heartbeat every 2 s; one that missed three is presumed dead. Roles without a worker are named
    below the table.
    """
