"""Notes on names of agents, tools or tenants that are unknown now. An unknown name may still become known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

import anyio

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.cli.output import printing
from linestop.client import Client
from linestop.errors import LinestopError
from linestop.schemas.defaults import DEFAULT_TENANT

LOOKUP_TIMEOUT_S: Final = 5.0
RUNS_READ_MAX: Final = 200
"""Open runs that are searched for an agent or a tool that is not deployed."""

UNKNOWN_SENTENCES: Final = {
    "agent": "agent '{}' is deployed, and no open run has it",
    "tool": "deployed agent and no open run has the tool '{}'",
    "tenant": "run of a tenant '{}' is known",
}


async def note_unknown_names(client: Client, scopes: Iterable[str]) -> None:
    """Print on stderr which of these scopes (``agent:NAME`` …) name nothing that is known now, with the nearest name.

    A courtesy after the command took effect: a name that cannot be looked up in time is not mentioned.
    """
    for scope in scopes:
        kind, _, name = scope.partition(":")
        if kind not in UNKNOWN_SENTENCES:
            continue
        try:
            with anyio.fail_after(LOOKUP_TIMEOUT_S):
                known = await _known_names(client, kind)
        except (LinestopError, TimeoutError):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            nearest = f" The nearest name is '{near[0]}'." if near else ""
            printing.note(f"No {UNKNOWN_SENTENCES[kind].format(name)} now.{nearest}")


async def _known_names(client: Client, kind: str) -> set[str]:
    """The names of this kind that are deployed, or that an open run uses."""
    if kind == "tenant":
        return {DEFAULT_TENANT, *await client.tenants()}
    store = AgentStore(client.bus.bucket(stream_names.AGENTS_BUCKET))
    versions = [await store.current(name) for name in await store.names()]
    agents = {version.name for version in versions if version}
    tools = {tool.name for version in versions if version for tool in version.tools}
    for tenant, run in (await client.bus.log().open_runs())[-RUNS_READ_MAX:]:
        opened = (await client.run(run, tenant=tenant)).opened
        if opened is not None:
            agents.add(opened.agent.name)
            tools.update(tool.name for tool in opened.tools)
    return agents if kind == "agent" else tools
