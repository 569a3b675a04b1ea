"""A client whose broker dies: every method and iterator ends in one error of linestop, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import pytest

from linestop import Client, SyncClient, TimedOut, Unreachable
from linestop.bus.access.credentials import Credential
from linestop.bus.connection import Connection, connect
from linestop.bus.jetstream import retry
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.server.process import NatsProcess
from linestop.bus.streams.create_streams import set_up
from linestop.errors import LinestopError

pytestmark = [pytest.mark.anyio, pytest.mark.broker]
WITHIN_S = 20.0
SOON_S = 0.3
"""How long a request waits for the broker in these tests."""

CLOSERS = 40
"""Clients that close at moments around the death of their broker."""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module."""
    return "asyncio"


class Broker:
    """A real nats-server that is not restarted."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.process = NatsProcess(directory / "nats.conf", directory / "broker.log", port=port)

    async def __aenter__(self) -> Self:
        await self.process.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.kill()

    def send(self, number: signal.Signals) -> None:
        """Kill or freeze the server."""
        os.kill(self.process.pid, number)


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> tuple[Path, int]:
    """A state directory that is set up, and the port of its broker, which is not running."""
    assert anyio_backend == "asyncio"
    directory = tmp_path_factory.mktemp("state")
    async with EmbeddedServer(directory) as server:
        async with await connect(server.credential("bootstrap"), name="test") as connection:
            await set_up(connection)
        return directory, int(server.url.rpartition(":")[2])


@pytest.fixture
async def broker(place: tuple[Path, int]) -> AsyncGenerator[Broker]:
    """The running broker."""
    async with Broker(*place) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests give up soon."""
    functions: tuple[Any, ...] = (retry.with_retries, retry.RetryPolicy.__init__)
    methods: tuple[Any, ...] = (Connection.api_request, Connection.request, Connection.subscribe)
    assert all("within_s" in function.__kwdefaults__ for function in functions)
    assert all("timeout_s" in method.__kwdefaults__ for method in methods)
    for function in functions:
        monkeypatch.setitem(function.__kwdefaults__, "within_s", SOON_S)
    for method in methods:
        monkeypatch.setitem(method.__kwdefaults__, "timeout_s", SOON_S)
    monkeypatch.setattr("linestop.client.sender.REPLY_WAIT_S", SOON_S)
    monkeypatch.setattr("linestop.client.client.REPLY_WAIT_S", SOON_S)


async def _all_of(source: AsyncIterator[Any]) -> None:
    async for _ in source:
        pass


METHODS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "submit": lambda client: client.submit("desk", "hello"),
    "execute": lambda client: client.execute("desk", "hello"),
    "outcome": lambda client: client.outcome("nobody"),
    "stream": lambda client: _all_of(client.stream("nobody")),
    "watch": lambda client: _all_of(client.watch("nobody")),
    "events": lambda client: _all_of(client.events("nobody", follow=True)),
    "outcomes": lambda client: _all_of(client.outcomes()),
    "outcomes of a name": lambda client: _all_of(client.outcomes(position="billing")),
    "alerts": lambda client: _all_of(client.alerts()),
    "run": lambda client: client.run("nobody"),
    "runs": lambda client: client.runs(),
    "approvals": lambda client: client.approvals(),
    "workers": lambda client: client.workers(),
    "approve": lambda client: client.approve("nobody"),
    "event": lambda client: client.event("nobody", "paid"),
    "stop": lambda client: client.stop("nobody"),
    "stop_all": lambda client: client.stop_all(),
    "pause": lambda client: client.pause("nobody"),
    "dead_letters": lambda client: client.dead_letters(),
    "kill_switches": lambda client: client.kill_switches.closed(),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_every_method_ends_in_an_error_of_linestop(broker: Broker, number: signal.Signals) -> None:
    """Called before the broker's death, so that it waits or reads then, and after it: never cancelled or endless."""
    ended: dict[str, BaseException | None] = {}
    connected, dead = anyio.Event(), anyio.Event()
    connecting = len(METHODS)

    async def one(name: str, *, late: bool) -> None:
        nonlocal connecting
        try:
            async with Client.connect(broker.directory, as_="operator") as client:
                if late:
                    connecting -= 1
                    if connecting == 0:
                        connected.set()
                    await dead.wait()
                await METHODS[name](client)
        except BaseException as error:  # noqa: BLE001 - which one comes is what is tested
            ended[f"{name} {'after' if late else 'during'}"] = error
        else:
            ended[f"{name} {'after' if late else 'during'}"] = None

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            for name in METHODS:
                tasks.start_soon(partial(one, name, late=True))
            await connected.wait()
            for name in METHODS:
                tasks.start_soon(partial(one, name, late=False))
            await anyio.lowlevel.checkpoint()
            broker.send(number)
            dead.set()
    after = {name: error for name, error in ended.items() if name.endswith("after")}
    assert {name: error for name, error in after.items() if not isinstance(error, Unreachable)} == {}
    during = [error for error in ended.values() if error is not None]
    assert [error for error in during if not isinstance(error, LinestopError)] == []
    assert all(str(error).endswith(".") for error in during)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_leaving_when_the_broker_dies_raises_nothing_and_leaves_nothing(
    broker: Broker, number: signal.Signals
) -> None:
    """With messages still to be sent, at forty moments around its death; no task of the library remains."""
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before, handler = asyncio.all_tasks(), loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    raised: list[BaseException] = []
    connected, dead = 0, anyio.Event()

    async def leave(turns: int) -> None:
        nonlocal connected
        try:
            async with Client.connect(broker.directory, as_="operator") as client:
                connected += 1
                await dead.wait()
                for _ in range(20):
                    client.bus.wire.send("control.default.nobody.pause", bytes(60_000))
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
        except BaseException as error:  # noqa: BLE001 - which one comes is what is tested
            raised.append(error)

    with anyio.fail_after(WITHIN_S):
        async with anyio.create_task_group() as tasks:
            for turns in range(CLOSERS):
                tasks.start_soon(leave, turns * turns)
            while connected < CLOSERS:
                await anyio.lowlevel.checkpoint()
            broker.send(number)
            dead.set()
    loop.set_exception_handler(handler)
    assert (raised, reported) == ([], [])
    assert asyncio.all_tasks() - before == set()


async def test_a_caller_that_is_cancelled_is_cancelled(broker: Broker) -> None:
    """A cancellation is not reported as an error of the broker."""
    async with Client.connect(broker.directory) as client:
        waiting = asyncio.ensure_future(client.outcome("nobody"))
        await client.runs()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {]\r\n", b"\xff\xfe\r\n", None])
async def test_a_server_that_is_not_a_broker_is_reported(greeting: bytes | None) -> None:
    """A port that closes at once, speaks another protocol, or is silent (None)."""
    silent = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeting is None:
            await silent.wait()
        else:
            writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        credential = Credential(url=f"nats://127.0.0.1:{port}", user="client", password="x")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"), anyio.fail_after(WITHIN_S):
            await connect(credential, name="test", timeout_s=SOON_S)
        silent.set()


@pytest.mark.usefixtures("impatient")
async def test_programs_without_a_loop_get_the_same_errors(broker: Broker) -> None:
    """In a thread, where a cancellation would have another class."""

    def work() -> list[str]:
        raised: list[str] = []
        with SyncClient.connect(broker.directory) as client:
            broker.send(signal.SIGKILL)
            for method in (client.runs, lambda: next(client.outcomes()), lambda: next(client.stream("nobody"))):
                try:
                    method()
                except (Unreachable, TimedOut) as error:
                    raised.append(error.code)
        return raised

    with anyio.fail_after(WITHIN_S):
        assert await anyio.to_thread.run_sync(work) == ["unreachable"] * 3
