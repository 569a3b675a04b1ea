"""Commands about kill switches."""

from __future__ import annotations

import click

from linestop.cli.options import common_options, implemented_by


@click.group()
def switch() -> None:
    """Close and open kill switches, which keep work from starting.

    A SWITCH is `all`, `tenant:NAME`, `agent:NAME`, `user:NAME` or `tool:NAME`. While one is closed, every
    process refuses new runs of what it names, and stops a run before its next start of a call or request that it
    names, within about 2 s. A closed tool is not given to new runs.
    """


@switch.command()
@click.argument("switches", metavar="SWITCH...", nargs=-1, required=True)
@common_options
@implemented_by("runs.stop_runs:close")
def close() -> None:
    """Close each SWITCH: within about 2 s, nothing that it names can start any more."""


@switch.command("open")
@click.argument("switches", metavar="SWITCH...", nargs=-1, required=True)
@common_options
@implemented_by("runs.stop_runs:open_switches")
def open_() -> None:
    """Open each SWITCH again."""


@switch.command("list")
@common_options
@implemented_by("runs.stop_runs:list_switches")
def list_() -> None:
    """List the closed kill switches."""
