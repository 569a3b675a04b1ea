"""Commands that set up and plan an outside broker: ``bus init``, ``bus plan``, ``bus rotate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from linestop.cli.commands.processes import ROLES
from linestop.cli.options import Bytes, RunsDays, WholeNumber, common_options, json_option, runs_days_max

if TYPE_CHECKING:
    from linestop.bus.access.rights import CredentialName
    from linestop.client import Client
    from linestop.runtime.housekeeping.log_rotation import Cut

CREDENTIALS: Final = (*ROLES, "operator", "client", "watcher", "fork", "bootstrap")
URL_DEFAULT: Final = "nats://127.0.0.1:4222"


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
def init(
    *,
    nats: str | None,
    replicas: str,
    copies: tuple[tuple[CredentialName, Path], ...],
    config_file: Path | None,
    disk: int | None,
    as_json: bool,
) -> None:
    """Write the credential files, print the server's configuration, create streams and consumers.

    The first time, the server does not know the credentials yet: start it with the printed configuration, and
    run this again. May be repeated: consumers are updated, streams are only compared.
    """
    import anyio

    from linestop.bus.access.credentials import credential_path, ensure_credentials
    from linestop.bus.server.outside_broker import bus_init
    from linestop.bus.stores.signed_checkpoints import ensure_checkpoint_key
    from linestop.bus.streams.create_streams import BusLayout
    from linestop.cli.bus_setup import set_up
    from linestop.cli.output import printing
    from linestop.config.project_file import load_project

    project = load_project().with_broker(nats)
    url = project.broker_url(credential_path(project.directory, "bootstrap")) or URL_DEFAULT
    set_up.refuse_folder_of_dev(project.directory)
    first = not credential_path(project.directory, "bootstrap").exists()
    space = set_up.sizes_for_streams(project.directory, url, disk, first=first, container=config_file is not None)
    credentials = ensure_credentials(project.directory, url, keep_passwords=True)
    ensure_checkpoint_key(project.directory / "credentials")
    set_up.copy_credentials(project.directory, credentials, copies)
    if config_file is not None:
        set_up.write_config(config_file, url, credentials, space)
        click.echo(
            f"{config_file} is a configuration for nats-server; run this command again once the server listens.",
            err=True,
        )
        return
    layout = BusLayout(sizes=space, replicas=int(replicas))
    result = anyio.run(lambda: bus_init(url, project.directory, layout=layout))
    if as_json:
        printing.print_json(result)
    elif result.set_up is None or result.passwords:
        set_up.print_config(result)
    set_up.report_set_up(result, project, url, is_first=first)


@bus.command("plan")
@click.option("--runs-per-day", type=WholeNumber(min=1), required=True, help="Runs per day.")
@click.option("--turns", type=WholeNumber(min=1), required=True, help="Turns per run, each with one tool call.")
@click.option(
    "--days",
    type=WholeNumber(min=1),
    default=runs_days_max,
    show_default="as long as RUNS can",
    help="Days for which runs are kept.",
)
@click.option(
    "--runs-days",
    type=RunsDays(),
    metavar="N",
    help="Days for which RUNS keeps them, if fewer [keep.runs_days in linestop.toml].",
)
@click.option(
    "--text-bytes",
    type=WholeNumber(min=0),
    default=1_000,
    show_default=True,
    help="Bytes each of a call's arguments, a call's result and a run's answer.",
)
@click.option(
    "--long-bytes",
    type=WholeNumber(min=0),
    default=0,
    show_default=True,
    help="Bytes per run in texts of more than 16 KiB.",
)
@click.option("--disk", type=Bytes(), metavar="SIZE", help="Plan for a disk with this free space, such as 200GiB.")
@json_option
def plan(
    *,
    runs_per_day: int,
    turns: int,
    days: int,
    runs_days: int | None,
    text_bytes: int,
    long_bytes: int,
    disk: int | None,
    as_json: bool,
) -> None:
    """Print the space that a number of runs per day needs: streams, archive, memory, and days until a stream is full.

    The figures are measured (docs/performance.md). No broker is asked: the stream sizes are those chosen for the state
    folder, or those that set-up would choose for the disk.
    """
    from linestop.bus.streams.stream_sizes import ExpectedLoad, plan_sizes
    from linestop.cli.bus_setup.space_plan import print_plan, sizes_to_plan_for
    from linestop.cli.output import printing
    from linestop.config.project_file import load_project

    project = load_project()
    keep = project.config.keep
    space, sizes_source = sizes_to_plan_for(project, disk)
    load = ExpectedLoad(
        runs_per_day=runs_per_day,
        turns=turns,
        text_bytes=text_bytes,
        long_bytes=long_bytes,
        days=days,
        runs_days=runs_days or keep.runs_days,
    )
    load_plan = plan_sizes(load, space)
    if as_json:
        printing.print_json(load_plan)
    else:
        print_plan(load, load_plan, sizes_source=sizes_source, archive_days=keep.archive_days)


@bus.command("rotate")
@click.option(
    "--keep-days",
    "days",
    type=RunsDays(),
    metavar="N",
    help="Days for which RUNS keeps runs [keep.runs_days in linestop.toml].",
)
@common_options
def rotate(*, days: int | None, directory: Path, tenant: str, as_json: bool) -> None:
    """Show which sealed and archived runs may be removed early from an outside broker's log, and print the commands.

    Open runs and unarchived runs are never removed. This command changes nothing: the printed ones need the
    broker's administrator. `linestop dev` removes old runs from its own broker every hour.
    """
    from linestop.archive.requests import ARCHIVE_FILE
    from linestop.cli import broker_client
    from linestop.cli.bus_setup import removable_runs
    from linestop.config.project_file import load_project
    from linestop.runtime.housekeeping.log_rotation import find_cut

    del tenant
    removable_runs.refuse_broker_of_dev(directory)
    keep_days = days or load_project().config.keep.runs_days

    async def work(client: Client) -> Cut:
        return await find_cut(client.bus, await removable_runs.reach_of(directory / ARCHIVE_FILE), keep_days)

    cut = broker_client.with_client(directory, work, as_="operator")
    removable_runs.print_cut(cut, keep_days, as_json=as_json)
