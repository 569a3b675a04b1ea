"""The buses that the suite runs on. One broker of each kind serves all tests; each works on its own runs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from tests.bus_fixtures import BusFixture, MemoryBusFixture, ServerBusFixture, make_server_fixture

from linestop.bus.server.embedded import EmbeddedServer
from linestop.schemas.subjects import RunId, TenantId
from linestop.testing.cluster import Cluster
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import VirtualLoop, virtual_now

_numbers = itertools.count(1)

MEMORY = pytest.param(("asyncio", {"loop_factory": VirtualLoop}), id="memory")
SERVER = pytest.param(("asyncio", {"use_uvloop": False}), id="server", marks=pytest.mark.broker)
CLUSTER = pytest.param(("asyncio", {"debug": False}), id="cluster", marks=[pytest.mark.broker, pytest.mark.cluster])


@pytest.fixture(scope="package", params=[MEMORY, SERVER, CLUSTER])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """One event loop for each kind of bus; the one in memory runs under virtual time."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend


@pytest.fixture(scope="package")
async def bus(
    anyio_backend: tuple[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BusFixture]:
    """The bus under test."""
    options = anyio_backend[1]
    if "loop_factory" in options:
        yield MemoryBusFixture(MemoryBroker(virtual_now), virtual_now)
        return
    directory = tmp_path_factory.mktemp("bus")
    server = Cluster(directory) if "debug" in options else EmbeddedServer(directory)
    async with server:
        made = await make_server_fixture(server)
        yield made
        await made.close()


@pytest.fixture
def server_bus(bus: BusFixture) -> ServerBusFixture:
    """The bus under test, if it can be killed."""
    if not isinstance(bus, ServerBusFixture):
        pytest.skip("a broker in memory has no process to kill")
    return bus


@pytest.fixture
def tenant() -> TenantId:
    """A tenant that no other test has."""
    return TenantId(f"tenant-{next(_numbers)}")


@pytest.fixture
def run() -> RunId:
    """A run that no other test has."""
    return RunId(f"run-{next(_numbers)}")
