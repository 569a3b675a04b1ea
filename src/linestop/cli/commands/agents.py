"""Commands about agents and tools."""

from __future__ import annotations

import click

from linestop.cli import completion
from linestop.cli.options import implemented_by, json_option, nats_option


@click.command()
@nats_option
@json_option
@implemented_by("deployed_agents:agents")
def agents() -> None:
    """List the agents in files and the deployed ones, which new runs use. Without a broker only the files are shown."""


@click.command()
@click.argument("names", nargs=-1, metavar="[AGENT]...", shell_complete=completion.agent_files)
@nats_option
@json_option
@implemented_by("deployed_agents:deploy")
def deploy() -> None:
    """Deploy the agents in files, all of them or those named: new runs use them, open runs keep their version.

    Open runs that began with another contract of a tool than the agent has now are named.
    """


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@click.option("--to", "digest", help="The version's digest, or its beginning; by default the one deployed before.")
@nats_option
@json_option
@implemented_by("deployed_agents:rollback")
def rollback() -> None:
    """Deploy an earlier version of AGENT again: new runs use it, also after a restart, until `linestop deploy`."""


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@nats_option
@json_option
@implemented_by("deployed_agents:undeploy")
def undeploy() -> None:
    """Refuse new runs of AGENT, also after a restart. Open runs keep their version and continue."""


@click.group()
def tools() -> None:
    """List, inspect and lint tools."""


@tools.command("ls")
@json_option
@implemented_by("deployed_agents:tools_ls")
def tools_ls() -> None:
    """List all tools, each with its tier and its source."""


@tools.command("inspect")
@click.argument("name", metavar="TOOL")
@json_option
@implemented_by("deployed_agents:tools_inspect")
def tools_inspect() -> None:
    """Show the contract of TOOL, which is enforced when an agent calls it."""


@tools.command("lint")
@json_option
@implemented_by("deployed_agents:tools_lint")
def tools_lint() -> None:
    """Check the contracts of all tools; exit code 1 if one has an error."""
