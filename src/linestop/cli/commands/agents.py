"""Commands about agents: ``agents``, ``deploy``, ``undeploy``, ``rollback``."""

from __future__ import annotations

import click

from linestop.cli import completion
from linestop.cli.options import json_option, nats_option


@click.command()
@nats_option
@json_option
def agents(*, nats: str | None, as_json: bool) -> None:
    """List the agents in files and the deployed ones, which new runs use. Without a broker only the files are shown."""
    from linestop.cli.deployed_agents import list_agents

    list_agents(nats, as_json=as_json)


@click.command()
@click.argument("names", nargs=-1, metavar="[AGENT]...", shell_complete=completion.agent_files)
@nats_option
@json_option
def deploy(names: tuple[str, ...], *, nats: str | None, as_json: bool) -> None:
    """Deploy the agents in files, all of them or those named: new runs use them, open runs keep their version.

    Open runs that began with another contract of a tool than the agent has now are named.
    """
    from linestop.cli.deployed_agents import deploy_agents

    deploy_agents(names, nats, as_json=as_json)


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@click.option("--to", "digest", help="The version's digest, or its beginning; by default the one deployed before.")
@nats_option
@json_option
def rollback(name: str, *, digest: str | None, nats: str | None, as_json: bool) -> None:
    """Deploy an earlier version of AGENT again: new runs use it, also after a restart, until `linestop deploy`."""
    from linestop.cli.deployed_agents import roll_back_agent

    roll_back_agent(name, digest, nats=nats, as_json=as_json)


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@nats_option
@json_option
def undeploy(name: str, *, nats: str | None, as_json: bool) -> None:
    """Refuse new runs of AGENT, also after a restart. Open runs keep their version and continue."""
    from linestop.cli.deployed_agents import undeploy_agent

    undeploy_agent(name, nats=nats, as_json=as_json)
