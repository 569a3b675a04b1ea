"""A context for tools and a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from linestop.sandbox.files.workspace import Workspace
from linestop.sandbox.http.egress_client import EgressClient, EgressPolicy
from linestop.sandbox.tools.context import Context


@dataclass
class ReceivedRequest:
    """One request as the server received it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Responder = bytes | Callable[[ReceivedRequest, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server that answers by path; ``requests`` holds every request."""

    port: int
    routes: dict[str, Responder]
    requests: list[ReceivedRequest] = field(default_factory=list["ReceivedRequest"])
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def netloc(self) -> str:
        """Host and port, in the form of an allow-list."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/") -> str:
        """The URL of a path."""
        return f"http://{self.netloc}{path}"


class Servers:
    """Starts servers and ends them after the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    @staticmethod
    def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
        """A complete HTTP/1.1 response; an underscore in a header's name stands for a hyphen."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def redirect(self, location: str, status: str = "302 Found") -> bytes:
        """A response that redirects the client."""
        return self.response(b"", status, Location=location)

    async def start(self, routes: dict[str, Responder], tls: ssl.SSLContext | None = None) -> Server:
        """Serve ``routes`` on a free port of loopback."""
        server = Server(0, routes)
        conversations: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            conversations.add(task)
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                    await _serve_connection(server, reader, writer)
                server.closed.set()
            finally:
                writer.transport.abort()
                conversations.discard(task)

        async def stop() -> None:
            listening.close()
            for task in tuple(conversations):
                task.cancel()
            await asyncio.gather(*conversations, return_exceptions=True)

        listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
        self._stack.push_async_callback(stop)
        server.port = listening.sockets[0].getsockname()[1]
        return server


@pytest.fixture
async def servers(anyio_backend: str) -> AsyncIterator[Servers]:
    """Real HTTP servers on loopback."""
    assert anyio_backend == "asyncio"
    async with AsyncExitStack() as stack:
        yield Servers(stack)


async def _serve_connection(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = ReceivedRequest(method, target, headers, body)
        server.requests.append(request)
        respond = server.routes.get(target, Servers.response(status="404 Not Found"))
        if isinstance(respond, bytes):
            writer.write(respond)
            await writer.drain()
        else:
            await respond(request, writer)
            return


MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """Create a context: ``make_context(allow=(...,), start_in_s=…, deadline_in_s=…)``."""

    def make(
        allow: tuple[str, ...] = ("*",),
        *,
        start_in_s: float = 30,
        deadline_in_s: float = 30,
        tls: ssl.SSLContext | None = None,
    ) -> Context:
        now = datetime.now(UTC)
        start_by = now + timedelta(seconds=start_in_s)
        deadline = now + timedelta(seconds=deadline_in_s)
        return Context(
            tenant="acme",
            run="run-1",
            call="call-1",
            attempt=1,
            key="k" * 64,
            user="ann",
            start_by=start_by,
            deadline=deadline,
            workspace=Workspace.create(tmp_path / "workspaces", "acme", "run-1"),
            http=EgressClient(EgressPolicy(allow=allow), deadline=deadline, start_by=start_by, tls=tls),
        )

    return make
