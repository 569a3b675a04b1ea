"""A broker, a server for effects, and one real process a role, all of which a test may kill."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import h11
import msgspec
from tests.e2e import forks
from tests.e2e.role_process import Setup

from linestop.bus.access.credentials import Credential, ensure_credentials, logins_by_credential, write_private
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.process import NatsProcess, free_port
from linestop.bus.streams.create_streams import set_up
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES

READY_WITHIN_S = 30.0


class Broker:
    """A nats-server that is restarted at once whenever it is killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kills = 0
        port = free_port()
        self.credentials = ensure_credentials(directory, f"nats://127.0.0.1:{port}")
        listen = Listen(
            port=port,
            store_dir=directory / "jetstream",
            file_store_bytes_max=DEFAULT_SIZES.total,
            log_file=directory / "nats.log",
        )
        config = directory / "nats.conf"
        write_private(config, server_config(listen, accounts_section(logins_by_credential(self.credentials))))
        self._process = NatsProcess(config, directory / "nats.log", port=port)
        self._supervisor: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def credential(self, name: CredentialName) -> Credential:
        """The credential ``name`` for this server."""
        return self.credentials[name]

    async def wait_until_restarted(self, times: int) -> None:
        """Wait until the server was killed and restarted for the ``times``-th time."""
        with anyio.fail_after(READY_WITHIN_S):
            async with self._changed:
                await self._changed.wait_for(lambda: self.kills >= times)
        assert self.kills == times

    async def __aenter__(self) -> Self:
        await self._begin()
        async with await connect(self.credential("bootstrap"), name="set-up") as connection:
            (await set_up(connection)).require_no_differences()
        self._supervisor = asyncio.create_task(self._supervise())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._supervisor is not None
        self._supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await self._supervisor
        await self._process.stop()

    async def _begin(self) -> None:
        await self._process.start()
        (self.directory / "broker.pid").write_text(str(self.pid))

    async def _supervise(self) -> None:
        while True:
            assert await self._process.wait() == -signal.SIGKILL
            await self._begin()
            async with self._changed:
                self.kills += 1
                self._changed.notify_all()


class ToolServer:
    """The server where effects happen: counts requests and effects by tool and run; an effect counts once a key.

    ``arrivals`` has the attempt of each request and its arrival, by the same clock as ``start_by``.
    ``before_reply`` is awaited before the response is sent: it may kill the process that sent the request.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.keys: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.arrivals: defaultdict[tuple[str, str], list[tuple[int, datetime]]] = defaultdict(list)
        self.before_reply: Callable[[str, str], Awaitable[None]] | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address of the server."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def effects(self, tool: str, run: str) -> int:
        """How many effects took place: a keyed effect once a key, a bare one at each request."""
        return len(self.keys[tool, run]) if tool == "keyed" else self.requests[tool, run]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # the process that sent the request was killed, or the test is over
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        tool, run = head.target.decode().strip("/"), headers["x-run"]
        self.requests[tool, run] += 1
        self.arrivals[tool, run].append((int(headers["x-attempt"]), datetime.now(UTC)))
        self.keys[tool, run][headers["idempotency-key"]] += 1
        if self.before_reply is not None:
            await self.before_reply(tool, run)
        body = f"did {tool}".encode()
        fields = [("content-length", str(len(body))), ("connection", "close")]
        response = h11.Response(status_code=200, headers=fields)
        writer.write((http.send(response) or b"") + (http.send(h11.Data(data=body)) or b""))
        await writer.drain()


class Processes:
    """The processes of a setup, by name; each is one OS process, restarted at once when it dies."""

    def __init__(self, child: asyncio.subprocess.Process, names: list[str]) -> None:
        self._child = child
        self.names = names
        self.pids: dict[str, int] = {}
        self.workers: dict[str, str] = {}
        self.deaths: dict[int, int] = {}
        self._changed = asyncio.Condition()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the process ``name`` as it is now; return its id."""
        pid = self.pids[name]
        os.kill(pid, number)
        return pid

    async def start(self, name: str) -> None:
        """Start ``name`` and wait until it is ready."""
        await self.command(f"start {name}")
        await self.until(lambda: name in self.workers)

    async def stop(self, name: str) -> None:
        """Kill ``name`` and do not restart it."""
        await self.command(f"stop {name}")
        await self.until(lambda: name not in self.pids)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; check it whenever a process starts, is ready or dies."""
        with anyio.fail_after(READY_WITHIN_S):
            async with self._changed:
                await self._changed.wait_for(condition)

    async def wait_until_killed(self, pid: int) -> None:
        """Wait until the process of that id has died by SIGKILL."""
        await self.until(lambda: pid in self.deaths)
        assert self.deaths[pid] == -signal.SIGKILL

    async def wait_until_ready(self) -> None:
        """Wait until every process is ready."""
        await self.until(lambda: all(name in self.workers for name in self.names))

    async def listen(self) -> None:
        """Read the lines that the processes print, until they end."""
        assert self._child.stdout is not None
        while line := await self._child.stdout.readline():
            async with self._changed:
                self._on_line(*line.decode().split())
                self._changed.notify_all()

    def _on_line(self, verb: str, name: str, pid: str, rest: str = "") -> None:
        match verb:
            case "up":
                self.pids[name] = int(pid)
            case "ready":
                # The process may have died since it printed this line.
                if int(pid) == self.pids.get(name):
                    self.workers[name] = rest
            case "down":
                self.deaths[int(pid)] = int(rest)
                self.workers.pop(name, None)
                self.pids.pop(name, None)
            case _:
                raise AssertionError(verb)

    async def command(self, line: str) -> None:
        """Send one line to the parent of all processes (see ``forks``)."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        await self._child.stdin.drain()


@asynccontextmanager
async def running(setup: Setup) -> AsyncGenerator[Processes]:
    """All processes of ``setup``, ready; killed by their ids when the block ends."""
    directory = Path(setup.directory)
    (directory / "fired").mkdir(exist_ok=True)
    file = directory / "setup.json"
    file.write_bytes(msgspec.json.encode(setup))
    async with AsyncExitStack() as stack:
        log = stack.enter_context((directory / "processes.log").open("ab"))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, forks.__file__, str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        processes = Processes(child, list(setup.processes))
        listening = asyncio.create_task(processes.listen())
        try:
            for name in processes.names:
                await processes.command(f"start {name}")
            await processes.wait_until_ready()
            yield processes
        finally:
            # The kernel kills its children when it dies.
            child.kill()
            await child.wait()
            await listening


async def connected(broker: Broker, name: CredentialName) -> Connection:
    """A connection as ``name``."""
    return await connect(broker.credential(name), name=f"test-{name}")
