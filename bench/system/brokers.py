"""The brokers that are measured: one node that syncs every second or always, and three nodes with three replicas."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from linestop.bus.access.credentials import Credential
from linestop.bus.access.rights import CredentialName
from linestop.bus.server.embedded import EmbeddedServer, ServerOptions
from linestop.bus.server.nats_config import SyncInterval
from linestop.bus.stores.signed_checkpoints import ensure_checkpoint_key
from linestop.testing.cluster import Cluster


class BrokerKind(msgspec.Struct, frozen=True, kw_only=True):
    """How often the broker syncs to disk, and how many copies it stores: 1 on one node, 3 on three local ones."""

    name: str
    sync_interval: SyncInterval = "1s"
    replicas: int = 1


SYNC_1S: Final = BrokerKind(name="sync 1s")
SYNC_ALWAYS: Final = BrokerKind(name="sync always", sync_interval="always")
THREE_REPLICAS: Final = BrokerKind(name="three replicas", replicas=3)
BROKERS: Final = (SYNC_1S, SYNC_ALWAYS, THREE_REPLICAS)


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """A running broker; its credentials are in ``directory``, as the processes of linestop expect."""

    kind: BrokerKind
    directory: Path
    credential: Callable[[CredentialName], Credential]
    pids: Callable[[], tuple[int, ...]]


@asynccontextmanager
async def running_broker(kind: BrokerKind) -> AsyncGenerator[Broker]:
    """Start a broker without streams in a temporary directory."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="linestop-bench-", ignore_cleanup_errors=True))
        directory = Path(folder)
        if kind.replicas > 1:
            cluster = await stack.enter_async_context(Cluster(directory, sync_interval=kind.sync_interval))
            ensure_checkpoint_key(directory / "credentials")
            yield Broker(kind=kind, directory=directory, credential=cluster.credential, pids=lambda: cluster.pids)
            return
        options = ServerOptions(sync_interval=kind.sync_interval)
        server = await stack.enter_async_context(EmbeddedServer(directory, options))
        yield Broker(kind=kind, directory=directory, credential=server.credential, pids=lambda: (server.pid,))
