"""``dev``, ``up`` and ``actor``: the processes that do the work.

``dev`` starts its own broker and every role in one process. ``up`` does the same against an outside broker. ``actor``
runs the roles it is given, in any number of processes. All three serve until SIGINT or SIGTERM, then drain.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, TextIO

import anyio
import msgspec
import structlog

from linestop.bus.access.credentials import credential_path
from linestop.bus.access.permission_table import CREDENTIALS
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer, ServerEvent, ServerOptions
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES
from linestop.bus.streams.stream_sizes import embedded_sizes, store_sizes, stored_sizes
from linestop.cli.output import printing
from linestop.cli.output.closed_pipes import STDERR, until_reader_is_gone
from linestop.cli.serving.assemble_process import (
    Credentials,
    deploy_at_start,
    load_project_agents,
    load_tools,
    missing_keys,
    missing_playbooks,
    prepare,
    serve,
    stored_credentials,
)
from linestop.cli.serving.dev_lines import RunLines, report_changed_files
from linestop.cli.serving.event_loop import enduring_loop
from linestop.config.agent_files import AgentTooLargeError
from linestop.config.project_file import Project, load_project
from linestop.errors import ConfigError, InputError, LinestopError, Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.housekeeping.log_rotation import Rotation
from linestop.runtime.workers.worker_names import WorkerLock, default_name, lock_free_name, lock_name
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import RUNS_DAYS_MAX
from linestop.schemas.subjects import ACTORS, RoleName

LOG = structlog.get_logger("linestop.processes")
REPEAT_AFTER_S: Final = 1.0
LOG_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


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


def run_process(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Run ``work`` on uvloop with logs on stderr; its event is set by SIGINT or SIGTERM.

    A second signal cancels the work that the first one let finish. No exit that a tool left behind ends the process.
    """
    configure_logs()
    anyio.run(_run_until_signal, work, backend="asyncio", backend_options={"loop_factory": enduring_loop})


async def _run_until_signal(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    stop_requested = anyio.Event()

    async def listen() -> None:
        async for _ in signals:
            if stop_requested.is_set():
                tasks.cancel_scope.cancel()
            stop_requested.set()

    # Signals are handled from the very start, because a caller may end the process as soon as it reports to be ready.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await work(stop_requested)
            tasks.cancel_scope.cancel()


def configure_logs() -> None:
    """Write logs of the level LINESTOP_LOG to stderr, by default warnings: readable in a terminal, JSON elsewhere.

    Tools use Python's own logging, so their logs are written in the same form.
    """
    is_terminal = sys.stderr.isatty()
    level_name = os.environ.get("LINESTOP_LOG") or "warning"
    level = LOG_LEVELS.get(level_name.lower())
    if level is None:
        raise ConfigError(
            f"LINESTOP_LOG: {level_name!r} is not a level: write {', '.join(LOG_LEVELS)}, or leave it out."
        )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True) if is_terminal else structlog.processors.JSONRenderer()
    )
    shared_processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if is_terminal else [structlog.processors.format_exc_info]),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared_processors))
    tools = logging.getLogger("linestop")
    tools.handlers, tools.propagate = [handler], False
    tools.setLevel(level)
    structlog.configure(
        processors=[*shared_processors, *([_print_sentence] if is_terminal else []), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _print_sentence(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Print a log event that has a sentence for people as that sentence alone."""
    if "sentence" not in event:
        return event
    printing.note(event["sentence"])
    raise structlog.DropEvent


def dev(port: int | None, name: str, *, as_json: bool) -> None:
    """Run everything on this machine until Ctrl-C: broker, all actors, scripted models, the folder's agents."""
    project = load_project()
    chosen = project.config.nats.port if port is None else port
    with printing.reserve_stdout_for_data() as out:
        data = out if as_json else None
        run_process(lambda stop_requested: _serve_dev(project, stop_requested, port=chosen, name=name, data=data))


async def _serve_dev(
    project: Project, stop_requested: anyio.Event, *, port: int, name: str, data: TextIO | None
) -> None:
    """Serve everything from one process until ``stop_requested`` is set.

    Raises:
        ConfigError: if the project cannot be used, or another process uses its state folder.
        Unreachable: if the broker does not start, or does not stay up.
    """
    began = time.monotonic()
    registry = load_tools(project)
    agents = load_project_agents(project, registry, on_left_out=_note_left_out)
    broker_failed = anyio.Event()
    reader_is_gone = anyio.Event()

    def on_event(event: ServerEvent) -> None:
        if event.kind in {"recovering", "crashed", "stuck", "restarted", "gave_up"}:
            printing.note(event.sentence)
        if event.kind == "gave_up":
            broker_failed.set()
            stop_requested.set()

    space, is_new = embedded_sizes(project.directory)
    options = ServerOptions(port=port, sync_interval=project.config.nats.sync, sizes=space)
    # The broker comes first: a second `dev` in the same folder is refused here, under any name.
    async with EmbeddedServer(project.directory, options, on_event=on_event) as server:
        with lock_name(project.directory, name) as lock:
            if is_new:
                store_sizes(project.directory, space)
            credentials: Credentials = {who: server.credential(who) for who in CREDENTIALS}
            _note_updated(await prepare(credentials["bootstrap"], space=space, administrator=server.administrator))
            for sentence in await deploy_at_start(credentials["operator"], agents):
                printing.note(sentence)
            async with serve(project, ACTORS, credentials, lock=lock, registry=registry) as process:
                location = f"{server.url}, log and streams in {project.directory}"
                _note_ready(project, agents, registry, location=location, seconds=time.monotonic() - began)
                if data is not None:
                    ready = _ready_message(project, process, server.url, agents=agents, broker_pid=server.pid)
                    printing.print_json(ready, file=data)
                async with anyio.create_task_group() as watching:
                    watching.start_soon(repeat_until_done, partial(_show_runs, server))
                    watching.start_soon(report_changed_files, project, printing.note)
                    watching.start_soon(_stop_when_reader_is_gone, stop_requested, reader_is_gone)
                    watching.start_soon(repeat_until_done, partial(_rotate, project, server, process))
                    await stop_requested.wait()
                    watching.cancel_scope.cancel()
                if reader_is_gone.is_set():
                    raise BrokenPipeError
                printing.note("Shutting down: nothing new starts, running calls may finish.")
    if broker_failed.is_set():
        raise Unreachable(f"The broker crashes repeatedly; its log is {project.directory / 'nats.log'}.")


async def repeat_until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` until it returns; while the broker cannot be reached, start it again every second.

    An error in such work never ends the actors: a crashed broker is restarted. Each new error is logged once.
    """
    last_error = ""
    while True:
        try:
            return await work()
        except LinestopError as error:
            if str(error) != last_error:
                last_error = str(error)
                LOG.warning("started_again", error=last_error)
            await anyio.sleep(REPEAT_AFTER_S)


async def _show_runs(server: EmbeddedServer) -> None:
    """Print the progress of each run."""
    async with await connect(server.credential("watcher"), name="linestop dev") as connection:
        await RunLines(printing.note).listen(connection)
        await anyio.sleep_forever()


async def _rotate(project: Project, server: EmbeddedServer, process: ActorProcess) -> None:
    """Remove sealed and archived runs from the log as early as the project allows."""
    days = project.config.keep.runs_days
    if days < RUNS_DAYS_MAX and process.archive is not None:
        rotation = Rotation(server.administrator, process.archive, days=days, report=printing.note)
        async with await connect(server.credential("operator"), name="linestop rotation") as connection:
            await rotation.run_for_ever(await JetStream.open(connection))


async def _stop_when_reader_is_gone(stop_requested: anyio.Event, reader_is_gone: anyio.Event) -> None:
    await until_reader_is_gone([STDERR])
    reader_is_gone.set()
    stop_requested.set()


def up(nats: str | None, name: str | None, *, no_deploy: bool, as_json: bool) -> None:
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
    agents = load_project_agents(project, registry, on_left_out=_note_left_out)
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
            _note_ready(project, agents, registry, location=location, seconds=time.monotonic() - began)
            if data is not None:
                printing.print_json(_ready_message(project, process, url, agents=agents), file=data)
            await stop_requested.wait()


def actor(roles: Sequence[RoleName], nats: str | None, *, name: str | None, as_json: bool) -> None:
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
                printing.print_json(_ready_message(project, process, url), file=data)
            await stop_requested.wait()


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
        _note_updated(await prepare(bootstrap, space=space, on_wait=printing.note))
        tasks.cancel_scope.cancel()
    return not stop_requested.is_set()


def _note_left_out(error: AgentTooLargeError) -> None:
    printing.note(f"  warning  The agent '{error.agent}' is left out: {error}")


def _note_updated(updated: Sequence[str]) -> None:
    if updated:
        printing.note(f"Updated from an older linestop: {', '.join(updated)}.")


def _worker_lock(project: Project, name: str | None, kind: str) -> AbstractContextManager[WorkerLock]:
    return lock_name(project.directory, name) if name else lock_free_name(project.directory, kind)


def _ready_message(
    project: Project, process: ActorProcess, url: str, *, agents: tuple[AgentVersion, ...] = (), broker_pid: int = 0
) -> Ready:
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


def _note_ready(
    project: Project, agents: tuple[AgentVersion, ...], registry: Registry, *, location: str, seconds: float
) -> None:
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
