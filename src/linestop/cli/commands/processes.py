"""Commands that run, check and maintain linestop's processes, broker and archive."""

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
"""The longest time that the log keeps a run."""

_NAME = click.option("--name", metavar="NAME", help="Name of this worker; by default this host's first free name.")


@click.command()
@json_option
@implemented_by("demo:demo")
def demo() -> None:
    """Three short stories on real parts: a refund that survives a kill, a loop that is ended, a stopped run.

    Needs no key and no configuration. The models are scripts behind real HTTP; prices are examples. With --json
    no question is asked: every event and every result is a line on stdout.
    """


@click.command()
@click.option("--port", type=WholeNumber(0, 65_535), help="Port of the broker; 0 chooses a free one and keeps it.")
@click.option("--name", default=DEV_WORKER, show_default=True, help="Name of this worker.")
@json_option
@implemented_by("serving.processes:dev")
def dev() -> None:
    """Run everything on this machine until Ctrl-C: broker, all actors, scripted models, the folder's agents.

    Works in an empty folder. State is stored in .linestop, so the next `linestop dev` continues where this one ended.
    With --json a line on stdout reports when and where it is ready.
    """


@click.command()
@nats_option
@_NAME
@click.option("--no-deploy", is_flag=True, help="Leave the deployed agents as they are.")
@json_option
@implemented_by("serving.processes:up")
def up() -> None:
    """Run all actors in one process against an outside broker, with the credentials of the state folder.

    With --json a line on stdout reports when and where it is ready.
    """


@click.command()
@click.argument("roles", metavar="ROLE...", type=click.Choice(ROLES), nargs=-1, required=True)
@nats_option
@_NAME
@json_option
@implemented_by("serving.processes:actor")
def actor() -> None:
    """Run one ROLE or several until SIGINT or SIGTERM. Start any number of processes: the broker distributes the work.

    The roles are planner, validator, approver, budget, executor and recorder. Three processes are recommended: the
    planner, which reads untrusted text; the executor, whose tools hold secrets; and the four others together.
    With --json a line on stdout reports when and where it is ready.
    """


@click.command()
@nats_option
@json_option
@click.option("--no-code", is_flag=True, help="Import no Python of the folder: skip tools and agents.")
@implemented_by("doctor.checks:doctor")
def doctor() -> None:
    """Check this machine and this project, one line per check; exit code 1 if one fails, 8 if only the broker does.

    To check tools and agents it imports the folder's Python, as `agents`, `tools` and `deploy` do: use --no-code in a
    folder that you do not trust.
    """


@click.command()
@click.option("--worker", metavar="NAME", help="Check only that the worker with this name is alive, and the broker.")
@click.option("--role", type=click.Choice(ROLES), help="The same for this host's workers that have this role.")
@nats_option
@json_option
@implemented_by("doctor.checks:health")
def health() -> None:
    """Check that the broker answers and stores, and that every role has a worker; for health checks.

    With --worker or --role, check that worker of this state folder instead of all workers.
    """


@click.group()
def bus() -> None:
    """Set up an outside broker."""


@bus.command("init")
@click.option(
    "--nats",
    metavar="URL",
    help="Address of the broker [LINESTOP_NATS, else linestop.toml, else nats://127.0.0.1:4222].",
)
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), default="1", help="Copies of every stream.")
@click.option(
    "--copy",
    "copies",
    type=(click.Choice(CREDENTIALS), click.Path(path_type=Path, file_okay=False)),
    multiple=True,
    metavar="NAME FOLDER",
    help="Also write that credential to a folder, for a process that must have no other; may be repeated.",
)
@click.option(
    "--config-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a complete configuration for a server in a container to this file, and end.",
)
@click.option(
    "--disk",
    type=Bytes(),
    metavar="SIZE",
    help="Free space on the broker's disk, such as 200GiB; half of it is used.",
)
@json_option
@implemented_by("bus_setup.set_up:init")
def init() -> None:
    """Write the credential files, print the server's configuration, create streams and consumers.

    The first time, the server does not know the credentials yet: start it with the printed configuration, and
    run this again. May be repeated: consumers are updated, streams are only compared.
    """


@bus.command("plan")
@click.option("--runs-per-day", type=WholeNumber(min=1), required=True, help="Runs per day.")
@click.option("--turns", type=WholeNumber(min=1), required=True, help="Turns per run, each with one tool call.")
@click.option(
    "--days",
    type=WholeNumber(min=1),
    default=RUN_RETENTION_DAYS,
    show_default=True,
    help="Days for which runs are kept.",
)
@click.option(
    "--runs-days", type=WholeNumber(min=1, max=RUNS_DAYS_MAX), metavar="N",
    help="Days for which RUNS keeps them, if fewer [keep.runs_days in linestop.toml].",
)  # fmt: skip
@click.option(
    "--text-bytes", type=WholeNumber(min=0), default=1_000, show_default=True,
    help="Bytes each of a call's arguments, a call's result and a run's answer.",
)  # fmt: skip
@click.option(
    "--long-bytes", type=WholeNumber(min=0), default=0, show_default=True,
    help="Bytes per run in texts of more than 16 KiB.",
)  # fmt: skip
@click.option("--disk", type=Bytes(), metavar="SIZE", help="Plan for a disk with this free space, such as 200GiB.")
@json_option
@implemented_by("bus_setup.set_up:plan")
def plan() -> None:
    """Print the space that a number of runs per day needs: streams, archive, memory, and days until a stream is full.

    The figures are measured (docs/performance.md). No broker is asked: the stream sizes are those chosen for the state
    folder, or those that set-up would choose for the disk.
    """


@bus.command("rotate")
@click.option(
    "--keep-days", "days", type=WholeNumber(min=1, max=RUNS_DAYS_MAX), metavar="N",
    help="Days for which RUNS keeps runs [keep.runs_days in linestop.toml].",
)  # fmt: skip
@common_options
@implemented_by("bus_setup.removable_runs:rotate")
def rotate() -> None:
    """Show which sealed and archived runs may be removed early from an outside broker's log, and print the commands.

    Open runs and unarchived runs are never removed. This command changes nothing: the printed ones need the
    broker's administrator. `linestop dev` removes old runs from its own broker every hour.
    """


@click.group()
def recorder() -> None:
    """Manage the archive of all runs."""


@recorder.command("status")
@common_options
@implemented_by("recorder:status")
def status() -> None:
    """Show how far the archive has read the log, whether or not its recorder runs."""


@recorder.command("snapshot")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@common_options
@implemented_by("recorder:snapshot")
def snapshot() -> None:
    """Copy the archive to the file TARGET, which any program may open with DuckDB."""


@recorder.command("rebuild")
@common_options
@implemented_by("recorder:rebuild")
def rebuild() -> None:
    """Read the whole log into the archive again; no recorder may run here at the same time.

    Archived runs that were removed from the log stay in the archive.
    """


@click.group()
def dead() -> None:
    """Show messages that could not be handled, and send them again."""


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
    """Show one dead LETTER in full."""


@dead.command("requeue")
@click.argument("dead_letter_seq", metavar="LETTER", type=WholeNumber(min=1))
@common_options
@implemented_by("dead_letters:requeue")
def requeue() -> None:
    """Send the message of a dead LETTER again, or make its role process the run again; the dead letter stays."""
