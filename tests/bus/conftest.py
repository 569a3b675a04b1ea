"""One real server for all tests of the bus: each test works on its own runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams.create_streams import set_up

Connect = Callable[[CredentialName], Awaitable[Connection]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Use one event loop for a module, since the server's supervisor runs in it."""
    return "asyncio"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[EmbeddedServer]:
    """A server with every stream and consumer."""
    assert anyio_backend == "asyncio"
    directory: Path = tmp_path_factory.mktemp("bus")
    async with EmbeddedServer(directory) as running:
        async with await connect(running.credential("bootstrap"), name="test") as bootstrap:
            (await set_up(bootstrap)).require_no_differences()
        yield running


@pytest.fixture(scope="module")
async def connections(server: EmbeddedServer) -> AsyncIterator[dict[CredentialName, Connection]]:
    """A connection for every credential."""
    opened = await asyncio.gather(*(connect(server.credential(name), name=name) for name in CREDENTIALS))
    yield dict(zip(CREDENTIALS, opened, strict=True))
    await asyncio.gather(*(connection.close() for connection in opened))
