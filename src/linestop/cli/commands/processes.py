"""Commands that run linestop, and look after what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from linestop.cli.options import Bytes, WholeNumber, common_options, implemented_by, json_option, nats_option

ROLES: Final = ("planner", "validator", "approver", "budget", "executor", "recorder")
CREDENTIALS: Final = (*ROLES, "operator", "client", "watcher", "fork", "bootstrap")
DEV_WORKER: Final = "dev"
RUN_RETENTION_DAYS: Final = 90
RUNS_DAYS_MAX: Final = 90
"""How long the log keeps a run."""

_NAME = click.option("--name", metavar="NAME", help="Name of this worker; by default this host's, the first free one.")


@click.command()
@json_option
@implemented_by("demo:demo")
def demo() -> None:
    """Three short stories on real parts: a refund that survives a kill, a loop that is ended, a stopped run.

    Needs no key and no configuration. The models are scripts behind real HTTP; prices are examples. With --json
    nobody is asked: every event and every result is a line on stdout.
    """


@click.command()
@click.option("--port", type=WholeNumber(0, 65_535), help="Port of the broker; 0 takes a free one, and keeps it.")
@click.option("--name", default=DEV_WORKER, show_default=True, help="Name of this worker.")
@json_option
@implemented_by("processes:dev")
def dev() -> None:
    """Run everything on this machine until Ctrl-C: broker, all actors, scripted models, the folder's agents.

    Works in an empty folder. State is kept in .linestop, so the next `linestop dev` goes on where this ended.
    With --json one line on stdout says when it is ready, and where.
    """


@click.command()
@nats_option
@_NAME
@click.option("--no-deploy", is_flag=True, help="Leave the deployed agents as they are.")
@json_option
@implemented_by("processes:up")
def up() -> None:
    """Run all actors in one process against an outside broker, with the credentials of the state folder.

    With --json one line on stdout says when it is ready, and where.
    """


@click.command()
@click.argument("role", type=click.Choice(ROLES))
@nats_option
@_NAME
@json_option
@implemented_by("processes:actor")
def actor() -> None:
    """Run one ROLE until told to end. Start it as often as you like: the broker shares the work out.

    With --json one line on stdout says when it is ready, and where.
    """


@click.command()
@nats_option
@json_option
@click.option("--no-code", is_flag=True, help="Run none of the folder's Python: leave out tools and agents.")
@implemented_by("doctor:doctor")
def doctor() -> None:
    """Check this machine and this project: one line a check; exit code 1 if one fails, 8 if only the broker is away.

    To look at tools and agents it imports the folder's Python, as `agents`, `tools` and `deploy` do: use --no-code in a
    folder that you do not trust.
    """


@click.command()
@click.option("--worker", metavar="NAME", help="Also check that the worker of that name is alive.")
@click.option("--role", type=click.Choice(ROLES), help="The same for this host's `linestop actor ROLE`.")
@nats_option
@json_option
@implemented_by("doctor:health")
def health() -> None:
    """Say whether the broker answers and stores, and whether every role has a worker; for health checks.

    With --worker or --role it says whether that worker of this state folder works, whatever others do.
    """


@click.group()
def bus() -> None:
    """Set up an outside broker."""


@bus.command("init")
@click.option(
    "--nats", metavar="URL", help="Where it listens [LINESTOP_NATS, else linestop.toml, else nats://127.0.0.1:4222]."
)
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), default="1", help="Copies of every stream.")
@click.option(
    "--copy",
    "copies",
    type=(click.Choice(CREDENTIALS), click.Path(path_type=Path, file_okay=False)),
    multiple=True,
    metavar="NAME FOLDER",
    help="Also write that credential into a folder, for a process that is to have no other; may be repeated.",
)
@click.option(
    "--config-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a whole configuration for a server in a container there, connect to nobody, and end.",
)
@click.option(
    "--disk",
    type=Bytes(),
    metavar="SIZE",
    help="What is free on the broker's disk, such as 200GiB; half of it is used.",
)
@json_option
@implemented_by("bus:init")
def init() -> None:
    """Write the credential files, print the server's configuration, create streams and consumers.

    The first time, the server does not know the credentials yet: start it with the configuration that is
    printed, and run this again. May be repeated: consumers are brought up to date, streams only compared.
    """


@bus.command("plan")
@click.option("--runs-per-day", type=WholeNumber(min=1), required=True, help="Runs a day.")
@click.option("--turns", type=WholeNumber(min=1), required=True, help="Turns of a run, each with one tool call.")
@click.option(
    "--days", type=WholeNumber(min=1), default=RUN_RETENTION_DAYS, show_default=True, help="Days they are kept."
)
@click.option(
    "--runs-days", type=WholeNumber(min=1, max=RUNS_DAYS_MAX), metavar="N",
    help="Days that RUNS keeps them, if fewer [keep.runs_days of linestop.toml].",
)  # fmt: skip
@click.option(
    "--text-bytes", type=WholeNumber(min=0), default=1_000, show_default=True,
    help="Bytes of a call's arguments, of its result, and of a run's answer, each.",
)  # fmt: skip
@click.option(
    "--long-bytes", type=WholeNumber(min=0), default=0, show_default=True,
    help="Bytes a run in texts of more than 16 KiB.",
)  # fmt: skip
@click.option("--disk", type=Bytes(), metavar="SIZE", help="Plan for a disk with so much free, such as 200GiB.")
@json_option
@implemented_by("bus:plan")
def plan() -> None:
    """Print what so many runs a day need: each stream, the archive, memory, and for how many days it is enough.

    The figures are measured (docs/performance.md). It asks no broker: it takes the sizes that were chosen for the state
    folder, or those that set-up would choose from the disk.
    """


@bus.command("rotate")
@click.option(
    "--keep-days", "days", type=WholeNumber(min=1, max=RUNS_DAYS_MAX), metavar="N",
    help="Days that RUNS is to keep [keep.runs_days of linestop.toml].",
)  # fmt: skip
@common_options
@implemented_by("rotate:rotate")
def rotate() -> None:
    """Say which sealed and archived runs may leave the log of an outside broker early, and print the commands for it.

    Nothing of an open run ever leaves, nor what the archive does not have. It changes nothing itself: the commands take
    the broker's administrator. `linestop dev` does the same for its own broker, every hour.
    """


@click.group()
def recorder() -> None:
    """Look after the archive of all runs."""


@recorder.command("status")
@common_options
@implemented_by("recorder:status")
def status() -> None:
    """Say how far the archive is, whether its recorder runs or not."""


@recorder.command("snapshot")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@common_options
@implemented_by("recorder:snapshot")
def snapshot() -> None:
    """Copy the archive into the file TARGET, which any program may open with DuckDB."""


@recorder.command("rebuild")
@common_options
@implemented_by("recorder:rebuild")
def rebuild() -> None:
    """Read the whole log into the archive again; no recorder may run here meanwhile.

    Runs that have left the log stay as they are.
    """


@click.group()
def dead() -> None:
    """Look at what could not be handled, and send it again."""


@dead.command("ls")
@common_options
@implemented_by("dead_letters:ls")
def ls() -> None:
    """List dead letters, oldest first."""


@dead.command("show")
@click.argument("dead_letter_seq", metavar="LETTER", type=WholeNumber(min=1))
@common_options
@implemented_by("dead_letters:show")
def show() -> None:
    """Show one dead LETTER whole."""


@dead.command("requeue")
@click.argument("dead_letter_seq", metavar="LETTER", type=WholeNumber(min=1))
@common_options
@implemented_by("dead_letters:requeue")
def requeue() -> None:
    """Send the message of a dead LETTER again, or let its role look at the run again; the letter stays."""
