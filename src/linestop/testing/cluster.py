"""Three real nats-servers as one cluster, for tests that kill one of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import Credential, ensure_credentials, logins_by_credential, write_private
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.jetstream_api import ApiError
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, SyncInterval, server_config
from linestop.bus.server.process import NatsProcess, free_port
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes, streams
from linestop.errors import Unreachable

NODES: Final = 3
FORMED_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.1


class Cluster:
    """A cluster on loopback; use it as an async context manager, or ``start`` and ``stop``.

    Args:
        directory: The folder of the nodes' data and of the credentials.
        sync_interval: As for the embedded server.
        space: How much each node may store.
        relay: Called for each pair of nodes with the index of the node that connects, the index of the other and its
            port; returns the loopback port at which the first reaches the other. Without it they connect directly.
    """

    def __init__(
        self,
        directory: Path,
        *,
        sync_interval: SyncInterval = "1s",
        space: StreamSizes = DEFAULT_SIZES,
        relay: Callable[[int, int, int], Awaitable[int]] | None = None,
    ) -> None:
        self.directory = directory
        self._sync_interval: SyncInterval = sync_interval
        self._space = space
        self._relay = relay
        self._nodes: list[NatsProcess] = []
        self._credentials: Mapping[CredentialName, Credential] = {}

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the nodes, 0 for a node that is not running."""
        return tuple(node.pid for node in self._nodes)

    def credential(self, name: CredentialName, *, node: int | None = None) -> Credential:
        """Return a credential that knows all nodes, or only the one with this index."""
        for_all_nodes = self._credentials[name]
        if node is None:
            return for_all_nodes
        return msgspec.structs.replace(for_all_nodes, url=for_all_nodes.url.split(",")[node])

    async def start(self) -> None:
        """Start all nodes and return when a stream with three replicas can be created.

        Raises:
            Unreachable: if the cluster does not form in time.
        """
        ports = [free_port() for _ in range(NODES)]
        routes = [free_port() for _ in range(NODES)]
        self._credentials = ensure_credentials(self.directory, ",".join(f"nats://127.0.0.1:{port}" for port in ports))
        for index, port in enumerate(ports):
            self._nodes.append(await self._configure(index, port, routes))
        try:
            await asyncio.gather(*(node.start() for node in self._nodes))
            await self._wait_until_formed()
        except BaseException:
            await self.stop()
            raise

    async def kill(self, index: int) -> None:
        """End a node with SIGKILL, as a crash would."""
        await self._nodes[index].kill()

    async def restart(self, index: int) -> None:
        """Start a node that was killed, on its old port with its old data."""
        await self._nodes[index].start()

    async def leader_of(self, stream: str) -> int:
        """Return the index of the node that leads a stream.

        Raises:
            Unreachable: if the stream has no leader at the moment.
        """
        async with await connect(self.credential("bootstrap"), name="cluster") as connection:
            reply = await connection.api_request(jetstream_api.stream_info(stream))
        cluster = reply.get("cluster")
        leader = str(cluster.get("leader", "")) if isinstance(cluster, dict) else ""  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        if not leader:
            raise Unreachable(f"stream {stream} has no leader at the moment: try again.")
        return int(leader.removeprefix("node-"))

    async def stop(self) -> None:
        """End all nodes."""
        await asyncio.gather(*(node.stop() for node in self._nodes))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _configure(self, index: int, port: int, ports: list[int]) -> NatsProcess:
        home = self.directory / f"node-{index}"
        home.mkdir(parents=True, exist_ok=True)
        routes = [(other, port) for other, port in enumerate(ports) if other != index]
        if self._relay is not None:
            routes = [(other, await self._relay(index, other, port)) for other, port in routes]
        listen = Listen(
            port=port,
            store_dir=home / "jetstream",
            file_store_bytes_max=self._space.total,
            sync_interval=self._sync_interval,
            server_name=f"node-{index}",
            log_file=home / "nats.log",
            cluster="linestop",
            cluster_port=ports[index],
            # With relays, nobody may learn an address that leads past them.
            cluster_advertise=f"127.0.0.1:{free_port()}" if self._relay is not None else "",
            routes=tuple(f"127.0.0.1:{port}" for _, port in routes),
        )
        config_file = home / "nats.conf"
        write_private(config_file, server_config(listen, accounts_section(logins_by_credential(self._credentials))))
        return NatsProcess(config_file, home / "nats.log", port=port)

    async def _wait_until_formed(self) -> None:
        """Try to create a stream with three replicas until it works: only that proves that all nodes take part."""
        deadline = time.monotonic() + FORMED_TIMEOUT_S
        async with await connect(self.credential("bootstrap"), name="cluster") as connection:
            while time.monotonic() < deadline:
                with contextlib.suppress(ApiError, Unreachable):
                    await self._create_replicated_stream(connection)
                    return
                await asyncio.sleep(_POLL_S)
        raise Unreachable(f"the cluster in {self.directory} did not form within {FORMED_TIMEOUT_S:g} s.")

    async def _create_replicated_stream(self, connection: Connection) -> None:
        # A stream that is needed anyway: no credential may create any other, or delete one.
        spec = next(spec for spec in streams(self._space, replicas=NODES) if spec.name == stream_names.PROBES)
        await connection.api_request(jetstream_api.stream_create(spec.name), spec.config, timeout_s=2.0)
