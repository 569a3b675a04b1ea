"""``linestop dev``: a broker of its own and every role in one process, until SIGINT or SIGTERM."""

from __future__ import annotations

import time
from functools import partial
from typing import TextIO

import anyio

from linestop.bus.access.rights import CREDENTIALS
from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer, ServerEvent, ServerOptions
from linestop.bus.streams.stream_sizes import embedded_sizes, store_sizes
from linestop.cli.output import printing
from linestop.cli.output.closed_pipes import STDERR, until_reader_is_gone
from linestop.cli.project_contents import (
    load_project_agents,
    load_tools,
)
from linestop.cli.serving.assemble_process import Credentials, deploy_at_start, prepare, serve
from linestop.cli.serving.dev_lines import RunLines, report_changed_files
from linestop.cli.serving.ready import note_left_out, note_ready, note_shutting_down, note_updated, ready_message
from linestop.cli.serving.until_signal import repeat_until_done, run_process
from linestop.config.project_file import Project, load_project
from linestop.errors import Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.housekeeping.log_rotation import Rotation
from linestop.runtime.workers.worker_names import lock_name
from linestop.schemas.defaults import RUNS_DAYS_MAX
from linestop.schemas.subjects import ACTORS


def run_dev(port: int | None, name: str, *, as_json: bool) -> None:
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
    agents = load_project_agents(project, registry, on_left_out=note_left_out)
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
            note_updated(await prepare(credentials["bootstrap"], space=space, administrator=server.administrator))
            for sentence in await deploy_at_start(credentials["operator"], agents):
                printing.note(sentence)
            async with serve(project, ACTORS, credentials, lock=lock, registry=registry) as process:
                location = f"{server.url}, log and streams in {project.directory}"
                note_ready(project, agents, registry, location=location, seconds=time.monotonic() - began)
                if data is not None:
                    ready = ready_message(project, process, server.url, agents=agents, broker_pid=server.pid)
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
                note_shutting_down()
    if broker_failed.is_set():
        raise Unreachable(f"The broker crashes repeatedly; its log is {project.directory / 'nats.log'}.")


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
            await rotation.run_for_ever(JetStream(connection))


async def _stop_when_reader_is_gone(stop_requested: anyio.Event, reader_is_gone: anyio.Event) -> None:
    await until_reader_is_gone([STDERR])
    reader_is_gone.set()
    stop_requested.set()
