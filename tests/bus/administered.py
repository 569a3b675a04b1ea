"""A server with a user that no installation has: an administrator of the streams' account with all rights."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import msgspec

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import Credential, ensure_credentials, logins_by_credential, write_private
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.server.nats_accounts import STREAMS_ACCOUNT, accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.server.process import NatsProcess, free_port
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES

ADMIN = cast("CredentialName", "admin")


class Administered(msgspec.Struct, frozen=True, kw_only=True):
    """A running server: its credentials, and its administrator's connection."""

    credentials: Mapping[CredentialName, Credential]
    admin: Connection

    async def ask(self, subject: str, body: object = None) -> dict[str, object]:
        """Send a request to the JetStream API as the administrator, under the API's own subject."""
        return await self.admin.api_request(jetstream_api.server_subject(subject), body)


@asynccontextmanager
async def administered(directory: Path) -> AsyncGenerator[Administered]:
    """Run a server below ``directory``, without any streams yet."""
    port = free_port()
    credentials = ensure_credentials(directory, f"nats://127.0.0.1:{port}")
    section = accounts_section(logins_by_credential(credentials))
    section[STREAMS_ACCOUNT]["users"] = [{"user": ADMIN, "password": "secret"}]
    listen = Listen(
        port=port,
        store_dir=directory / "jetstream",
        file_store_bytes_max=DEFAULT_SIZES.total,
        log_file=directory / "nats.log",
    )
    write_private(directory / "nats.conf", server_config(listen, section))
    server = NatsProcess(directory / "nats.conf", directory / "nats.log", port=port)
    await server.start()
    try:
        who = Credential(url=f"nats://127.0.0.1:{port}", user=ADMIN, password="secret")
        async with await connect(who, name="admin") as admin:
            yield Administered(credentials=credentials, admin=admin)
    finally:
        await server.stop()
