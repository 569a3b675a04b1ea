"""``bus init`` and ``bus plan``: set up an outside broker like the embedded one, and plan its disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import click

from linestop.bus.access.credentials import (
    Credential,
    credential_path,
    ensure_credentials,
    logins_by_credential,
    write_credential,
    write_private,
)
from linestop.bus.access.permission_table import CredentialName
from linestop.bus.disk_space import GIB, format_bytes, free_bytes, is_broker_directory
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.outside_broker import PORT_DEFAULT, InitResult, bus_init, is_loopback
from linestop.bus.stores.signed_checkpoints import copy_checkpoint_key, ensure_checkpoint_key
from linestop.bus.streams import stream_names, stream_sizes
from linestop.bus.streams.create_streams import BusLayout
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.bus.streams.stream_sizes import ExpectedLoad, local_sizes, sizes_for, store_sizes, stored_sizes
from linestop.cli.output import printing
from linestop.config.project_file import load_project
from linestop.errors import ConfigError, Unreachable

URL_DEFAULT: Final = "nats://127.0.0.1:4222"
MONITOR_PORT: Final = 8222
STORE_DIR: Final = Path("/jetstream")
"""Where the volume for the streams is mounted in the server's container."""

CHECKERS: Final[tuple[CredentialName, ...]] = ("operator", "client", "watcher")
"""Credentials of people, who get the public half of the recorder's key to check its checkpoints."""

Copies = tuple[tuple[CredentialName, Path], ...]


def init(nats: str | None, replicas: str, copies: Copies, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Write the credential files, print the server's configuration, create streams and consumers."""
    project = load_project().with_broker(nats)
    url = project.broker_url(credential_path(project.directory, "bootstrap")) or URL_DEFAULT
    if is_broker_directory(project.directory):
        # Its credentials would name the other broker from then on, and their users would lose this one.
        raise ConfigError(
            f"The state folder {project.directory} belongs to the broker of `linestop dev`: name another one for "
            "an outside broker, with LINESTOP_DIR or `dir` in linestop.toml."
        )
    config_file: Path | None = options["config_file"]
    first = not credential_path(project.directory, "bootstrap").exists()
    space = _space(project.directory, url, options["disk"], first=first, container=config_file is not None)
    credentials = ensure_credentials(project.directory, url, keep_passwords=True)
    ensure_checkpoint_key(project.directory / "credentials")
    for name, folder in copies:
        write_credential(folder / f"{name}.json", credentials[name])
        if name in CHECKERS or name == "recorder":
            copy_checkpoint_key(project.directory / "credentials", folder, signs=name == "recorder")
    if config_file is not None:
        _write_config(config_file, url, credentials, space)
        click.echo(
            f"{config_file} is a configuration for nats-server; run this command again once the server listens.",
            err=True,
        )
        return
    layout = BusLayout(sizes=space, replicas=int(replicas))

    async def work() -> InitResult:
        return await bus_init(url, project.directory, layout=layout)

    result = anyio.run(work)
    if options["as_json"]:
        printing.print_json(result)
    elif result.set_up is None or result.passwords:
        click.echo(result.server_config, nl=False)
    if result.set_up is not None:
        created, updated = len(result.set_up.created), ", ".join(result.set_up.updated) or "none"
        click.echo(f"{created} streams and consumers created; updated: {updated}.", err=True)
        click.echo("".join(f"warning: {sentence}\n" for sentence in result.set_up.outdated), err=True, nl=False)
        result.set_up.require_no_differences()
        click.echo(f"{url} is ready.", err=True)
        return
    click.echo(f"Credential files are in {project.directory / 'credentials'}.", err=True)
    if first and not result.reachable:
        # The first of two steps: no server is running yet, and nothing failed.
        click.echo(f"Next: {result.next_step}", err=True)
        return
    failure = ConfigError if result.reachable else Unreachable
    raise failure(f"The broker is not set up yet: {result.next_step}")


def plan(disk: int | None, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Print the space that a number of runs a day needs, stream by stream, and whether it fits."""
    project = load_project()
    directory, keep = project.directory, project.config.keep
    space = stored_sizes(directory)
    if disk is not None:
        space, space_source = sizes_for(disk), f"the sizes that `bus init --disk` would choose for {format_bytes(disk)}"
    elif space is not None:
        space_source = f"the sizes that were chosen for {directory}"
    elif is_broker_directory(directory) or credential_path(directory, "bootstrap").exists():
        space, space_source = DEFAULT_SIZES, f"the sizes of {directory}, made by an older linestop"
    else:
        space, space_source = (
            local_sizes(directory),
            f"the sizes that set-up would choose for {format_bytes(free_bytes(directory))} free here",
        )
    figures = {name: options[name] for name in ("runs_per_day", "turns", "text_bytes", "long_bytes", "days")}
    load = ExpectedLoad(**figures, runs_days=options["runs_days"] or keep.runs_days)
    load_plan = stream_sizes.plan_sizes(load, space)
    if options["as_json"]:
        printing.print_json(load_plan)
        return
    rows = [
        (
            line.stream, f"{line.run_bytes / 1024:,.1f} KiB", format_bytes(line.day_bytes),
            format_bytes(line.needed_bytes),
            format_bytes(line.space_bytes), f"{line.days:,.0f}", "yes" if line.fits else "no",
        )
        for line in load_plan.streams
    ]  # fmt: skip
    printing.print_table(
        ("stream", "per run", "per day", _needed_heading(load), "size", "days until full", "fits"), rows
    )
    day, memory = format_bytes(load_plan.archive_day_bytes), format_bytes(load_plan.memory_bytes)
    printing.print_text(f"sizes    {space_source}")
    printing.print_text(f"room     for {load_plan.runs_per_day_max:,} such runs a day, kept for {load.days} days")
    printing.print_text(
        f"streams  {format_bytes(load_plan.needed_bytes)} needed in all, and {memory} of the "
        f"broker's memory for their index"
    )
    grows = _archive_text(load_plan.archive_day_bytes, keep.archive_days)
    printing.print_text(f"archive  {day} a day on the recorder's disk, {grows}")
    if not load_plan.fits:
        disk_gib = -(-load_plan.disk_bytes // GIB)
        printing.print_text(
            f"remedy   set up with {disk_gib} GiB free (`bus init --disk {disk_gib}GiB`), or enlarge streams:"
        )
        printing.print_text("         docs/operations.md, Changing what nobody may")


def _needed_heading(load: ExpectedLoad) -> str:
    """The heading of a column; RUNS may keep its runs for fewer days than the other streams."""
    runs = load.retention_days(stream_names.RUNS)
    days = f"needed for {load.days} days"
    return days if runs == load.days else f"{days}, {stream_names.RUNS} for {runs}"


def _archive_text(day_bytes: int, database_days: int) -> str:
    """How fast the archive grows."""
    if not database_days:
        return f"{format_bytes(365 * day_bytes)} a year in its database (`keep.archive_days`)"
    database = format_bytes(database_days * day_bytes)
    return f"{database} in its database; runs older than {database_days} days are in Parquet files"


def _space(directory: Path, url: str, disk: int | None, *, first: bool, container: bool) -> StreamSizes:
    """The sizes of new streams: for the named disk, as chosen before, for this machine's disk, or the default."""
    if disk is not None:
        chosen = sizes_for(disk)
    elif (stored := stored_sizes(directory)) is not None:
        return stored
    elif not first:
        return DEFAULT_SIZES
    elif container or is_loopback(url):
        chosen = local_sizes(directory)
    else:
        chosen = DEFAULT_SIZES
        click.echo(
            f"The broker's disk is not here, so its streams get {format_bytes(chosen.total)} in "
            f"all: give the free space there "
            "with --disk, and see `linestop bus plan`.", err=True,
        )  # fmt: skip
    store_sizes(directory, chosen)
    return chosen


def _write_config(path: Path, url: str, credentials: Mapping[CredentialName, Credential], space: StreamSizes) -> None:
    """Write the configuration of a server with a network of its own, which syncs every append to disk.

    It holds the passwords of an older linestop as long as there are any, so only its owner may read it.
    """
    listen = Listen(
        host="0.0.0.0",  # noqa: S104 - a container's own address; what is published is the operator's choice
        port=urlsplit(url.partition(",")[0].strip()).port or PORT_DEFAULT,
        monitor_port=MONITOR_PORT,
        store_dir=STORE_DIR,
        file_store_bytes_max=space.total,
        sync_interval="always",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, server_config(listen, accounts_section(logins_by_credential(credentials))))
