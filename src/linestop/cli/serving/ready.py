"""What a process reports when it starts and ends: to people on stderr, to programs on stdout."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from linestop.cli.output import printing
from linestop.cli.project_contents import (
    missing_keys,
    missing_playbooks,
)
from linestop.config.agent_files import AgentTooLargeError
from linestop.config.project_file import Project
from linestop.runtime.actor_process import ActorProcess
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.agents import AgentVersion
from linestop.schemas.subjects import ACTORS, RoleName


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The line on stdout that tells a program that the process has begun to serve."""

    ready: bool = True
    worker: str
    roles: tuple[RoleName, ...]
    pid: int
    broker_pid: int = 0
    """The process id of the broker, if this process started it."""
    url: str
    directory: str
    profile: str
    agents: tuple[str, ...] = ()


def note_left_out(error: AgentTooLargeError) -> None:
    """Tell a person that an agent of the folder is not deployed."""
    printing.note(f"  warning  The agent '{error.agent}' is left out: {error}")


def note_updated(updated: Sequence[str]) -> None:
    """Tell a person which streams and consumers of an older linestop were updated."""
    if updated:
        printing.note(f"Updated from an older linestop: {', '.join(updated)}.")


def ready_message(
    project: Project, process: ActorProcess, url: str, *, agents: tuple[AgentVersion, ...] = (), broker_pid: int = 0
) -> Ready:
    """The line for programs."""
    return Ready(
        worker=process.config.worker,
        roles=tuple(role.name for role in process.roles),
        pid=os.getpid(),
        broker_pid=broker_pid,
        url=url,
        directory=str(project.directory),
        profile=project.config.profile,
        agents=tuple(agent.name for agent in agents),
    )


def note_ready(
    project: Project, agents: tuple[AgentVersion, ...], registry: Registry, *, location: str, seconds: float
) -> None:
    """Tell a person what runs here, what is missing, and what to type next."""
    first = agents[0].name if agents else "AGENT"
    printing.note(f"linestop is ready after {seconds:.1f} s ({project.config.profile}).")
    printing.note(f"  broker   {location}")
    printing.note(f"  actors   {', '.join(ACTORS)}, all in process {os.getpid()}")
    for agent in agents:
        tools = ", ".join(tool.name for tool in agent.tools) or "no tools"
        printing.note(f"  agent    {agent.name} on {agent.model.model}: {tools}")
    for sentence in (*missing_playbooks(project, agents), *missing_keys(agents)):
        printing.note(f"  warning  {sentence}")
    printing.note(f"  tools    {len(registry)} known, see `linestop tools ls`")
    if project.describes_effects:
        printing.note("  staging  effects above `read` are described, not done")
    printing.note("Next, in another terminal:")
    question = "What time is it?" if first == "hello" else "..."
    printing.note(f'  linestop run {first} "{question}"')
    printing.note("  linestop runs            linestop approvals            linestop stop RUN")
    printing.note("Ctrl-C ends it; state is kept.")


def note_shutting_down() -> None:
    """Tell a person what happens from the signal to the end of the process."""
    printing.note("Shutting down: nothing new starts, running calls may finish.")


def note_ended(process: ActorProcess) -> None:
    """Tell a person that the process has drained and is gone from the bus."""
    printing.note(f"{process.config.worker} has ended.")
