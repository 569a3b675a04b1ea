"""``bus init``: set an outside broker up the way the embedded one is."""

from __future__ import annotations

from typing import Final

import anyio
import click
import msgspec

from linestop.bus.init import BusLayout, InitResult, bus_init
from linestop.cli.assembly import wakes_of
from linestop.errors import ConfigError
from linestop.project import load_project
from linestop.schemas.subjects import ACTORS

URL_DEFAULT: Final = "nats://127.0.0.1:4222"


@click.group()
def bus() -> None:
    """Set up an outside broker."""


@bus.command()
@click.option("--nats", metavar="URL", help=f"Where it listens [LINESTOP_NATS, else {URL_DEFAULT}].")
@click.option("--replicas", type=click.Choice(["1", "3", "5"]), default="1", help="Copies of every stream.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def init(nats: str | None, replicas: str, as_json: bool) -> None:
    """Write the credential files, print the server's `accounts` section, create streams and consumers.

    The first time, the server does not know the credentials yet: put the section into its configuration,
    reload it, and run this again. May be repeated; nothing that exists is changed.
    """
    project = load_project().at(nats)
    url = project.config.nats.url or URL_DEFAULT
    layout = BusLayout(replicas=int(replicas), wakes=wakes_of(ACTORS))

    async def work() -> InitResult:
        return await bus_init(url, project.directory, layout=layout)

    result = anyio.run(work)
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
    elif result.set_up is None:
        click.echo(result.server_config)
    if result.set_up is not None:
        created = len(result.set_up.created)
        click.echo(f"{created} streams and consumers created, the rest was there; {url} is ready.", err=True)
        result.set_up.require_no_differences()
        return
    click.echo(f"Credential files are in {project.directory / 'credentials'}.", err=True)
    raise ConfigError(f"The broker is not set up yet: {result.next_step}")
