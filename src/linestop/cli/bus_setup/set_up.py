"""Setting up an outside broker like the embedded one: ``linestop bus init``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from linestop.bus.access.credentials import (
    Credential,
    logins_by_credential,
    write_credential,
    write_private,
)
from linestop.bus.access.rights import CredentialName
from linestop.bus.disk_space import format_bytes, is_broker_directory
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.outside_broker import PORT_DEFAULT, InitResult, is_loopback
from linestop.bus.stores.signed_checkpoints import copy_checkpoint_key
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.bus.streams.stream_sizes import local_sizes, sizes_for, store_sizes, stored_sizes
from linestop.config.project_file import Project
from linestop.errors import ConfigError, Unreachable

MONITOR_PORT: Final = 8222
STORE_DIR: Final = Path("/jetstream")
"""Where the volume for the streams is mounted in the server's container."""

CHECKERS: Final[tuple[CredentialName, ...]] = ("operator", "client", "watcher")
"""Credentials of people, who get the public half of the recorder's key to check its checkpoints."""

Copies = tuple[tuple[CredentialName, Path], ...]


def refuse_folder_of_dev(directory: Path) -> None:
    """Check that the state folder may get the credentials of an outside broker.

    Raises:
        ConfigError: it belongs to ``linestop dev``.
    """
    if is_broker_directory(directory):
        # Its credentials would name the other broker from then on, and their users would lose this one.
        raise ConfigError(
            f"The state folder {directory} belongs to the broker of `linestop dev`: name another one for "
            "an outside broker, with LINESTOP_DIR or `dir` in linestop.toml."
        )


def sizes_for_streams(directory: Path, url: str, disk: int | None, *, first: bool, container: bool) -> StreamSizes:
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
            "with --disk, and see `linestop bus plan`.",
            err=True,
        )
    store_sizes(directory, chosen)
    return chosen


def write_config(path: Path, url: str, credentials: Mapping[CredentialName, Credential], space: StreamSizes) -> None:
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


def copy_credentials(directory: Path, credentials: Mapping[CredentialName, Credential], copies: Copies) -> None:
    """Write each named credential to its folder, with the half of the recorder's key that its owner needs."""
    for name, folder in copies:
        write_credential(folder / f"{name}.json", credentials[name])
        if name in CHECKERS or name == "recorder":
            copy_checkpoint_key(directory / "credentials", folder, signs=name == "recorder")


def print_config(result: InitResult) -> None:
    """Print the server's configuration; at a terminal, where nobody reads thousands of lines, how to write it."""
    if sys.stdout.isatty():
        lines = result.server_config.count("\n")
        click.echo(
            f"The server's configuration has {lines} lines: `linestop bus init > nats.conf` writes them to a file, "
            "`nats-server -c nats.conf` starts the server with it.",
            err=True,
        )
    else:
        click.echo(result.server_config, nl=False)


def report_set_up(result: InitResult, project: Project, url: str, *, is_first: bool) -> None:
    """Print what was created, or the next step.

    Raises:
        ConfigError: a stream differs from what it must be, or the broker lacks the configuration.
        Unreachable: the broker does not answer, and this is not the first time.
    """
    if result.set_up is not None:
        created, updated = len(result.set_up.created), ", ".join(result.set_up.updated) or "none"
        click.echo(f"{created} streams and consumers created; updated: {updated}.", err=True)
        click.echo("".join(f"warning: {sentence}\n" for sentence in result.set_up.outdated), err=True, nl=False)
        result.set_up.require_no_differences()
        click.echo(f"{url} is ready.", err=True)
        return
    click.echo(f"Credential files are in {project.directory / 'credentials'}.", err=True)
    if is_first and not result.reachable:
        # The first of two steps: no server is running yet, and nothing failed.
        click.echo(f"Next: {result.next_step}", err=True)
        return
    failure = ConfigError if result.reachable else Unreachable
    raise failure(f"The broker is not set up yet: {result.next_step}")
