"""TCP relays between the nodes of a cluster, which can hold back what one node would receive."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from typing import Final

import anyio
import anyio.abc

LOOPBACK: Final = "127.0.0.1"


class RouteRelays:
    """One relay for each pair of nodes, as the cluster asks for them."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self._may_pass: dict[int, anyio.Event] = {}

    async def relay(self, source: int, target: int, port: int) -> int:
        """Listen for the node ``source`` and connect it with the port of the node ``target``; return the own port."""
        listener = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=0)
        self._group.start_soon(self._serve, listener, partial(self._connect, source, target, port))
        return int(listener.extra(anyio.abc.SocketAttribute.local_port))

    @contextlib.contextmanager
    def held(self, node: int) -> Generator[None]:
        """Hold back all that other nodes send to this one until the block ends; nothing is lost."""
        self._may_pass[node] = anyio.Event()
        try:
            yield
        finally:
            self._may_pass.pop(node).set()

    async def _serve(
        self,
        listener: anyio.abc.Listener[anyio.abc.SocketStream],
        connect: Callable[[anyio.abc.SocketStream], Awaitable[None]],
    ) -> None:
        async with listener:
            await listener.serve(connect)

    async def _connect(self, source: int, target: int, port: int, near: anyio.abc.SocketStream) -> None:
        with contextlib.suppress(OSError):
            async with near, await anyio.connect_tcp(LOOPBACK, port) as far, anyio.create_task_group() as group:
                group.start_soon(self._pass_on, near, far, target)
                group.start_soon(self._pass_on, far, near, source)

    async def _pass_on(self, origin: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, receiver: int) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                data = await origin.receive()
                if receiver in self._may_pass:
                    await self._may_pass[receiver].wait()
                await sink.send(data)
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await anyio.aclose_forcefully(sink)


@contextlib.asynccontextmanager
async def route_relays() -> AsyncGenerator[RouteRelays]:
    """Relays that end with the block."""
    async with anyio.create_task_group() as group:
        yield RouteRelays(group)
        group.cancel_scope.cancel()
