"""The text of a server configuration: addresses, storage and accounts.

A NATS configuration may be written as JSON, so nothing here has to be quoted by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from linestop.schemas.broker_defaults import BROKER_LOG_BYTES_MAX

MEMORY_STORE_BYTES_MAX: Final = 64 * 1024 * 1024

SyncInterval = Literal["1s", "10s", "2m", "always"]


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses and the storage of one server; ``routes`` (host:port) make it a node of ``cluster``.

    Other nodes learn ``cluster_advertise`` (host:port) as its address; empty for the one at which it listens.
    ``host`` is loopback unless the server has its own network, as in a container. ``monitor_port`` is the port for
    health checks, on loopback only; 0 for none.
    """

    port: int
    host: str = "127.0.0.1"
    monitor_port: int = 0
    store_dir: Path
    file_store_bytes_max: int
    sync_interval: SyncInterval = "1s"
    server_name: str = "linestop"
    log_file: Path | None = None
    cluster: str = ""
    cluster_port: int = 0
    cluster_advertise: str = ""
    routes: tuple[str, ...] = ()


def server_config(listen: Listen, accounts_section: Mapping[str, Any]) -> bytes:
    """Return the whole configuration of one server."""
    config: dict[str, Any] = {
        "listen": f"{listen.host}:{listen.port}",
        "server_name": listen.server_name,
        "max_payload": 1024 * 1024,
        # A worker whose machine is gone stays in its queue groups until its connection is cut.
        "ping_interval": "5s",
        "ping_max": 2,
        "jetstream": {
            "store_dir": str(listen.store_dir),
            "max_file_store": listen.file_store_bytes_max,
            "max_memory_store": MEMORY_STORE_BYTES_MAX,
            "sync_interval": listen.sync_interval,
        },
        "accounts": accounts_section,
    }
    if listen.log_file is not None:
        config |= {
            "log_file": str(listen.log_file),
            "logfile_size_limit": BROKER_LOG_BYTES_MAX,
            "logfile_max_num": 2,
        }
    if listen.monitor_port:
        config["http"] = f"127.0.0.1:{listen.monitor_port}"
    if listen.cluster:
        config["cluster"] = {
            "name": listen.cluster,
            "listen": f"127.0.0.1:{listen.cluster_port}",
            "routes": [f"nats://{route}" for route in listen.routes],
        }
        if listen.cluster_advertise:
            config["cluster"]["advertise"] = listen.cluster_advertise
    return msgspec.json.format(msgspec.json.encode(config)) + b"\n"
