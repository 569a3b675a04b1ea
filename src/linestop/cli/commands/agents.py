"""Commands about agents and tools."""

from __future__ import annotations

import click

from linestop.cli import completion
from linestop.cli.options import implemented_by, json_option, nats_option


@click.command()
@nats_option
@json_option
@implemented_by("agents_tools:agents")
def agents() -> None:
    """List agents: those in files, and those that new runs get. Without a broker only the files are shown."""


@click.command()
@click.argument("names", nargs=-1, metavar="[AGENT]...", shell_complete=completion.agent_files)
@nats_option
@json_option
@implemented_by("agents_tools:deploy")
def deploy() -> None:
    """Let new runs use the agents in files, all of them or those named. Runs under way keep their version.

    It says which open runs began with another contract of a tool than the agent has now.
    """


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@click.option("--to", "digest", help="The version's digest, or its beginning; by default the one deployed before.")
@nats_option
@json_option
@implemented_by("agents_tools:rollback")
def rollback() -> None:
    """Let new runs of AGENT use an earlier version again, also after a restart, until it is deployed by hand."""


@click.command()
@click.argument("name", metavar="AGENT", shell_complete=completion.agents)
@nats_option
@json_option
@implemented_by("agents_tools:undeploy")
def undeploy() -> None:
    """Let AGENT have no new runs, also after a restart. Runs under way keep their version and go on."""


@click.group()
def tools() -> None:
    """List, inspect and lint tools."""


@tools.command("ls")
@json_option
@implemented_by("agents_tools:tools_ls")
def tools_ls() -> None:
    """List all tools with tier and where they come from."""


@tools.command("inspect")
@click.argument("name", metavar="TOOL")
@json_option
@implemented_by("agents_tools:tools_inspect")
def tools_inspect() -> None:
    """Show the contract of TOOL: what is enforced when an agent calls it."""


@tools.command("lint")
@json_option
@implemented_by("agents_tools:tools_lint")
def tools_lint() -> None:
    """Judge the contracts; exit code 1 if one should not be used as it is."""
