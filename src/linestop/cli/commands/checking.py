"""Commands that check and export runs, and print schemas."""

from __future__ import annotations

from pathlib import Path

import click

from linestop.cli import completion
from linestop.cli.options import common_options, implemented_by, json_option


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option(
    "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="An exported log; no broker is asked."
)
@click.option("--key", "keys", multiple=True, metavar="ID=HEX", help="Trust this key for checkpoints; repeatable.")
@common_options
@implemented_by("runs.log_check:verify")
def verify() -> None:
    """Check that the log of RUN is complete and follows the rules; exit code 9 if it is broken.

    The people whose signatures count are those of the project (`people` in linestop.toml). The recorder's
    checkpoint counts if its public key is in the state folder (credentials/checkpoint.pub) or given with --key.
    """


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write; it must not exist yet.",
)
@common_options
@implemented_by("runs.log_check:export")
def export() -> None:
    """Write the log of RUN and its proof to a file, which `linestop verify RUN --file` checks without a broker.

    The file holds the run's events as they are stored, and long arguments and answers: protect it like the log.
    """


@click.command()
@click.argument("what", type=click.Choice(["events", "asyncapi", "tasks", "control"]), default="events")
@json_option
@implemented_by("schema:schema")
def schema() -> None:
    """Print JSON Schemas of events, tasks or control messages, or one AsyncAPI 3.1 document of everything."""
