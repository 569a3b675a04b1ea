"""Commands that hold or end work: ``stop``, ``pause``, ``resume``, ``switch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from linestop.cli import completion
from linestop.cli.options import common_options, person_options
from linestop.cli.run_argument import run_argument

if TYPE_CHECKING:
    from linestop.client import Client
    from linestop.client.client import StopMode

STOP_MODES: Final = ("fence", "drain")


@click.command()
@click.argument("run", default="", shell_complete=completion.runs)
@click.option("--all", "all_runs", is_flag=True, help="Every open run, of every tenant unless --tenant is given.")
@click.option("--agent", default="", shell_complete=completion.agents, help="Every open run of this agent.")
@click.option("--user", default="", help="Every open run on behalf of this user.")
@click.option("--tool", default="", help="Every open run that may use this tool.")
@click.option(
    "--mode",
    type=click.Choice(STOP_MODES),
    default="fence",
    show_default=True,
    help="Calls that have started: `fence` cancels them now, `drain` lets them end.",
)
@click.option("--beforehand", is_flag=True, help="RUN need not exist yet: a task that arrives for it is refused.")
@person_options
@common_options
def stop(
    run: str,
    *,
    all_runs: bool,
    agent: str,
    user: str,
    tool: str,
    mode: StopMode,
    beforehand: bool,
    by: str,
    why: str,
    directory: Path,
    tenant: str,
    as_json: bool,
) -> None:
    """Stop RUN; once this returns, none of its calls or requests can start any more.

    Works with no actor alive. The receipt lists the calls and requests that have started and are not known to be
    over. A RUN that does not exist is stopped with --beforehand only. Without RUN, the open runs of --all, --agent,
    --user, --tool or --tenant are stopped; `linestop switch close` refuses new ones.
    """
    from linestop.cli.runs.stop_runs import StopRequest, stop_many, stop_one
    from linestop.errors import InputError
    from linestop.schemas.kill_switches import EVERYTHING

    scopes = [f"{kind}:{name}" for kind, name in (("agent", agent), ("user", user), ("tool", tool)) if name]
    scopes += [EVERYTHING] if all_runs else []
    is_tenant_named = click.get_current_context().get_parameter_source("tenant") is ParameterSource.COMMANDLINE
    if run and scopes:
        raise InputError("Give a RUN or one of --all, --agent, --user and --tool, not both.")
    if len(scopes) > 1:
        raise InputError("Give one of --all, --agent, --user and --tool; --tenant may be added.")
    if beforehand and not run:
        raise InputError("--beforehand needs one RUN.")
    if not (run or scopes or is_tenant_named):
        raise InputError("Give the RUN to stop, or one of --all, --tenant, --agent, --user and --tool.")
    tenant = tenant if run or is_tenant_named else ""
    request = StopRequest(directory=directory, tenant=tenant, mode=mode, by=by, why=why, as_json=as_json)
    if run:
        stop_one(run, request, beforehand=beforehand)
    else:
        stop_many(scopes[0] if scopes else EVERYTHING, request)


@click.command()
@run_argument
@person_options
@common_options
def pause(run: str, *, by: str, why: str, directory: Path, tenant: str, as_json: bool) -> None:
    """Pause RUN: none of its calls or requests start until it is resumed; its deadlines still apply."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing

    reply = broker_client.with_client(directory, lambda client: client.pause(run, by=by, why=why, tenant=tenant))
    printing.print_reply(reply, as_json=as_json)


@click.command()
@run_argument
@person_options
@common_options
def resume(run: str, *, by: str, why: str, directory: Path, tenant: str, as_json: bool) -> None:
    """Continue a paused RUN."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing

    reply = broker_client.with_client(directory, lambda client: client.resume(run, by=by, why=why, tenant=tenant))
    printing.print_reply(reply, as_json=as_json)


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
def close(switches: tuple[str, ...], *, directory: Path, tenant: str, as_json: bool) -> None:
    """Close each SWITCH: within about 2 s, nothing that it names can start any more."""
    from linestop.cli import broker_client
    from linestop.cli.runs.closed_switches import print_closed_switches
    from linestop.cli.runs.known_names import note_unknown_names

    del tenant

    async def work(client: Client) -> frozenset[str]:
        closed = await client.kill_switches.close(*switches)
        await note_unknown_names(client, switches)
        return closed

    print_closed_switches(broker_client.with_client(directory, work), as_json=as_json)


@switch.command("open")
@click.argument("switches", metavar="SWITCH...", nargs=-1, required=True)
@common_options
def open_(switches: tuple[str, ...], *, directory: Path, tenant: str, as_json: bool) -> None:
    """Open each SWITCH again."""
    from linestop.cli import broker_client
    from linestop.cli.runs.closed_switches import print_closed_switches

    del tenant
    closed = broker_client.with_client(directory, lambda client: client.kill_switches.open(*switches))
    print_closed_switches(closed, as_json=as_json)


@switch.command("list")
@common_options
def list_(*, directory: Path, tenant: str, as_json: bool) -> None:
    """List the closed kill switches."""
    from linestop.cli import broker_client
    from linestop.cli.runs.closed_switches import print_closed_switches

    del tenant
    closed = broker_client.with_client(directory, lambda client: client.kill_switches.closed(), as_="client")
    print_closed_switches(closed, as_json=as_json)
