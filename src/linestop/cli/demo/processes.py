"""The stage of the demo: all its processes, in a temporary folder.

One process has the broker and five roles. The executor is a process of its own, started like any other
(``linestop actor executor``), so that it can be killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from linestop.bus.access.rights import CREDENTIALS
from linestop.bus.disk_space import MIB
from linestop.bus.server import die_with_parent
from linestop.bus.server.embedded import EmbeddedServer, ServerOptions
from linestop.bus.streams.stream_definitions import StreamSizes
from linestop.bus.streams.stream_sizes import store_sizes
from linestop.cli.demo.shop import Shop
from linestop.cli.project_contents import load_project_agents, load_tools
from linestop.cli.serving.assemble_process import Credentials, deploy_at_start, prepare, serve
from linestop.client import Client
from linestop.config.project_file import CONFIG_FILE, Project, load_project
from linestop.errors import LinestopError, Unreachable
from linestop.runtime.workers.worker_names import lock_name
from linestop.schemas.subjects import ACTORS, RoleName

PROJECT: Final = Path(__file__).parent / "project"
ROLES_IN_THIS_PROCESS: Final[tuple[RoleName, ...]] = tuple(role for role in ACTORS if role != "executor")
WORKER: Final = "demo"
EXECUTOR: Final = "executor"
SPACE: Final = StreamSizes(
    runs=64 * MIB, forks=8 * MIB, blobs=32 * MIB, tasks=8 * MIB, outcomes=8 * MIB, ids=8 * MIB, small=8 * MIB
)
STARTED_WITHIN_S: Final = 20.0
ENDED_WITHIN_S: Final = 10.0


class ExecutorProcess:
    """The executor as a process: started, killed and started again."""

    def __init__(self, project: Project, shop: Shop) -> None:
        self._project = project
        self._shop = shop
        self._process: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[tuple[bytes, bytes]] | None = None

    async def start(self) -> int:
        """Start the executor and return its process id when it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", die_with_parent.__file__, str(os.getpid())),
            *(sys.executable, "-m", "linestop.cli.main", "actor", "executor", "--name", EXECUTOR),
            cwd=self._project.root,
            env={
                **_environment(),
                "SHOP_URL": f"http://{self._shop.address}",
                "LINESTOP_DIR": str(self._project.directory),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        first_line = b""
        with anyio.move_on_after(STARTED_WITHIN_S):
            first_line = await self._process.stderr.readline()
        # The rest of its output must be read, or a full pipe would block the executor.
        self._output = asyncio.create_task(self._process.communicate(), name="what the executor writes")
        if b"works as" not in first_line:
            rest = first_line.decode(errors="replace").strip()
            raise LinestopError(f"The executor did not start within {STARTED_WITHIN_S:g} s: {rest}")
        return self._process.pid

    async def kill(self) -> None:
        """End the executor with SIGKILL: it can neither clean up nor append an event."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End the executor with SIGTERM, and with SIGKILL if that takes too long."""
        with anyio.move_on_after(ENDED_WITHIN_S):
            await self._end(signal.SIGTERM)
        await self.kill()

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()
        if self._output is not None:
            await self._output


class Stage:
    """What a story needs."""

    def __init__(self, client: Client, executor: ExecutorProcess, shop: Shop) -> None:
        self.client = client
        self.executor = executor
        self.shop = shop


@asynccontextmanager
async def set_stage(folder: Path) -> AsyncGenerator[Stage]:
    """Start everything in ``folder``, and end it when the block ends.

    Raises:
        Unreachable: if the broker or the executor does not start in time.
    """
    with Shop() as shop:
        project = _project(folder, shop)
        registry = load_tools(project)
        options = ServerOptions(sizes=SPACE)
        async with EmbeddedServer(project.directory, options) as server:
            credentials: Credentials = {name: server.credential(name) for name in CREDENTIALS}
            # The executor may be the first process that creates the streams.
            store_sizes(project.directory, SPACE)
            executor = ExecutorProcess(project, shop)
            # Python takes a second to start, during which this process sets up everything else.
            starting = asyncio.create_task(executor.start(), name="the executor's start")
            with lock_name(project.directory, WORKER) as lock:
                try:
                    await prepare(credentials["bootstrap"], space=SPACE)
                    await deploy_at_start(credentials["operator"], load_project_agents(project, registry))
                    async with serve(project, ROLES_IN_THIS_PROCESS, credentials, lock=lock, registry=registry):
                        await starting
                        async with Client.connect(project.directory, as_="operator") as client:
                            yield Stage(client, executor, shop)
                finally:
                    starting.cancel()
                    with anyio.CancelScope(shield=True):
                        await asyncio.gather(starting, return_exceptions=True)
                        await executor.stop()


async def wait_for_shop(event: threading.Event, what: str) -> None:
    """Wait until the shop has seen a request, or raise ``Unreachable``."""
    if not await anyio.to_thread.run_sync(event.wait, STARTED_WITHIN_S):
        raise Unreachable(f"The shop saw no {what} within {STARTED_WITHIN_S:g} s.")


def _environment() -> dict[str, str]:
    """This process's environment without the variables of a project: the demo has its own project."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LINESTOP_")}


def _project(folder: Path, shop: Shop) -> Project:
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True)
    file = folder / CONFIG_FILE
    file.write_text(file.read_text(encoding="utf-8").replace('"SHOP"', f'"{shop.address}"'), encoding="utf-8")
    return load_project(folder, environ={})
