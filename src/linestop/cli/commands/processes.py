"""Commands that run linestop's processes: ``dev``, ``up``, ``actor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from linestop.cli.options import WholeNumber, json_option, nats_option

if TYPE_CHECKING:
    from linestop.schemas.subjects import RoleName

ROLES: Final = ("planner", "validator", "approver", "budget", "executor", "recorder")
DEV_WORKER: Final = "dev"

_NAME = click.option("--name", metavar="NAME", help="Name of this worker; by default this host's first free name.")


@click.command()
@click.option("--port", type=WholeNumber(0, 65_535), help="Port of the broker; 0 chooses a free one and keeps it.")
@click.option("--name", default=DEV_WORKER, show_default=True, help="Name of this worker.")
@json_option
def dev(*, port: int | None, name: str, as_json: bool) -> None:
    """Run everything on this machine until Ctrl-C: broker, all actors, scripted models, the folder's agents.

    Works in an empty folder. State is stored in .linestop, so the next `linestop dev` continues where this one ended.
    With --json a line on stdout reports when and where it is ready.
    """
    from linestop.cli.serving.dev import run_dev

    run_dev(port, name, as_json=as_json)


@click.command()
@nats_option
@_NAME
@click.option("--no-deploy", is_flag=True, help="Leave the deployed agents as they are.")
@json_option
def up(*, nats: str | None, name: str | None, no_deploy: bool, as_json: bool) -> None:
    """Run all actors in one process against an outside broker, with the credentials of the state folder.

    With --json a line on stdout reports when and where it is ready.
    """
    from linestop.cli.serving.up_and_actor import run_up

    run_up(nats, name, no_deploy=no_deploy, as_json=as_json)


@click.command()
@click.argument("roles", metavar="ROLE...", type=click.Choice(ROLES), nargs=-1, required=True)
@nats_option
@_NAME
@json_option
def actor(roles: tuple[RoleName, ...], *, nats: str | None, name: str | None, as_json: bool) -> None:
    """Run one ROLE or several until SIGINT or SIGTERM. Start any number of processes: the broker distributes the work.

    The roles are planner, validator, approver, budget, executor and recorder. Three processes are recommended: the
    planner, which reads untrusted text; the executor, whose tools hold secrets; and the four others together.
    With --json a line on stdout reports when and where it is ready.
    """
    from linestop.cli.serving.up_and_actor import run_actor

    run_actor(roles, nats, name=name, as_json=as_json)
