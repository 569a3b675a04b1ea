"""``linestop up`` and ``linestop actor``: all roles or one against an outside broker, until SIGINT or SIGTERM."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TextIO

import anyio

from linestop.bus.access.credentials import credential_path
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES
from linestop.bus.streams.stream_sizes import stored_sizes
from linestop.cli.output import printing
from linestop.cli.project_contents import (
    load_project_agents,
    load_tools,
    stored_credentials,
)
from linestop.cli.serving.assemble_process import deploy_at_start, prepare, serve
from linestop.cli.serving.ready import (
    note_ended,
    note_left_out,
    note_ready,
    note_shutting_down,
    note_updated,
    ready_message,
)
from linestop.cli.serving.until_signal import run_process
from linestop.config.project_file import Project, load_project
from linestop.errors import InputError
from linestop.runtime.workers.worker_names import WorkerLock, default_name, lock_free_name, lock_name
from linestop.schemas.subjects import ACTORS, RoleName


def run_up(nats: str | None, name: str | None, *, no_deploy: bool, as_json: bool) -> None:
    """Run all actors in one process against an outside broker, with the credentials of the state folder."""
    project = load_project().with_broker(nats)
    with printing.reserve_stdout_for_data() as out:
        data = out if as_json else None
        run_process(lambda stop_requested: _serve_up(project, stop_requested, name, deploying=not no_deploy, data=data))


async def _serve_up(
    project: Project, stop_requested: anyio.Event, name: str | None, *, deploying: bool, data: TextIO | None
) -> None:
    began = time.monotonic()
    registry = load_tools(project)
    agents = load_project_agents(project, registry, on_left_out=note_left_out)
    with _worker_lock(project, name, default_name(ACTORS)) as lock:
        credentials = stored_credentials(project, ACTORS)
        if not await _prepare_if_able(project, stop_requested):
            return
        if deploying:
            operator = stored_credentials(project, ["operator"])["operator"]
            for sentence in await deploy_at_start(operator, agents):
                printing.note(sentence)
        async with serve(project, ACTORS, credentials, lock=lock, registry=registry) as process:
            url = credentials["planner"].url
            location = f"{url}, credentials in {project.directory}"
            note_ready(project, agents, registry, location=location, seconds=time.monotonic() - began)
            if data is not None:
                printing.print_json(ready_message(project, process, url, agents=agents), file=data)
            await stop_requested.wait()
            note_shutting_down()
        note_ended(process)


def run_actor(roles: Sequence[RoleName], nats: str | None, *, name: str | None, as_json: bool) -> None:
    """Run these roles in one process until SIGINT or SIGTERM, with one credential a role."""
    for role in roles:
        if roles.count(role) > 1:
            raise InputError(f"The role {role} is named twice: name each role once.")
    project = load_project().with_broker(nats)
    with printing.reserve_stdout_for_data() as out:
        data = out if as_json else None
        run_process(lambda stop_requested: _serve_actor(project, stop_requested, roles, name=name, data=data))


async def _serve_actor(
    project: Project, stop_requested: anyio.Event, roles: Sequence[RoleName], *, name: str | None, data: TextIO | None
) -> None:
    roles = [role for role in ACTORS if role in roles]
    with _worker_lock(project, name, default_name(roles)) as lock:
        credentials = stored_credentials(project, roles)
        if not await _prepare_if_able(project, stop_requested):
            return
        async with serve(project, roles, credentials, lock=lock) as process:
            who = f"The {roles[0]} works" if len(roles) == 1 else f"The roles {', '.join(roles)} work"
            url = credentials[roles[0]].url
            printing.note(f"{who} as {process.config.worker} at {url}. Ctrl-C ends it.")
            if data is not None:
                printing.print_json(ready_message(project, process, url), file=data)
            await stop_requested.wait()
            note_shutting_down()
        note_ended(process)


async def _prepare_if_able(project: Project, stop_requested: anyio.Event) -> bool:
    """Create missing streams and consumers if the credential for that is here; a container has only that of its role.

    Returns False if a stop was requested while it waited for the broker.
    """
    if not credential_path(project.directory, "bootstrap").exists():
        return True
    bootstrap = stored_credentials(project, ["bootstrap"])["bootstrap"]

    async def give_up() -> None:
        await stop_requested.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up)
        space = stored_sizes(project.directory) or DEFAULT_SIZES
        note_updated(await prepare(bootstrap, space=space, on_wait=printing.note))
        tasks.cancel_scope.cancel()
    return not stop_requested.is_set()


def _worker_lock(project: Project, name: str | None, kind: str) -> AbstractContextManager[WorkerLock]:
    return lock_name(project.directory, name) if name else lock_free_name(project.directory, kind)
