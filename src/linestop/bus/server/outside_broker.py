"""An outside broker, which linestop does not run itself: its configuration and its set-up."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from linestop.bus.access.credential_permissions import DEFAULT_ACCESS, AccessOptions
from linestop.bus.access.credentials import Credential, ensure_credentials, logins_by_credential, remove_passwords
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import connect
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.stores.signed_checkpoints import ensure_checkpoint_key
from linestop.bus.streams.create_streams import DEFAULT_LAYOUT, BusLayout, SetUpResult, set_up
from linestop.errors import PermissionDenied, Unreachable

PORT_DEFAULT: Final = 4222
STORE_DIR: Final = Path("jetstream")
"""The default storage folder of an outside server, relative to its working directory."""


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``bus_init``: the configuration that the server needs, and the set-up if it was possible.

    ``set_up`` is None while the server cannot be used yet; ``next_step`` tells a person what to do, and ``reachable``
    whether any server answered.
    """

    server_config: str
    set_up: SetUpResult | None
    reachable: bool = True
    passwords: bool = False
    """Whether the broker still accepts passwords of an older linestop, until it gets this configuration."""

    next_step: str


async def bus_init(
    url: str,
    directory: Path,
    *,
    layout: BusLayout = DEFAULT_LAYOUT,
    access: AccessOptions = DEFAULT_ACCESS,
) -> InitResult:
    """Set up an outside server in the same way as the embedded one; may be repeated.

    Writes the credential files below ``directory`` (existing ones stay) and returns the whole configuration that the
    server needs. After the server has got it, another call creates streams and consumers.

    Args:
        url: The address of the server; several separated by commas.
        directory: The folder for the credential files.
        layout: The streams and consumers to create.
        access: The rights of clients to read.

    Raises:
        ConfigError: if a credential file is damaged, or a stream or consumer cannot be created.
    """
    credentials: Mapping[CredentialName, Credential] = ensure_credentials(directory, url, keep_passwords=True)
    has_passwords = any(credential.password for credential in credentials.values())
    ensure_checkpoint_key(directory / "credentials")
    text = server_config_text(credentials, url, layout=layout, access=access)
    try:
        async with await connect(credentials["bootstrap"], name="linestop bus init") as connection:
            connection.require_payload()
            result = await set_up(connection, layout)
        if has_passwords:
            credentials, step = await _end_passwords(directory, credentials)
            result = msgspec.structs.replace(result, outdated=(*result.outdated, step))
            text = server_config_text(credentials, url, layout=layout, access=access)
    except PermissionDenied:
        step = f"give the server at {url} this configuration, or put its `jetstream` and `accounts` into the one it has"
        return InitResult(server_config=text, set_up=None, next_step=f"{step}; restart it, and run this again.")
    except Unreachable:
        step = f"no broker answers at {url}: start nats-server there with this configuration, and run this again."
        return InitResult(server_config=text, set_up=None, reachable=False, next_step=step)
    step = " ".join((*result.differences, *result.outdated))
    return InitResult(server_config=text, set_up=result, passwords=has_passwords, next_step=step)


async def _end_passwords(
    directory: Path, credentials: Mapping[CredentialName, Credential]
) -> tuple[Mapping[CredentialName, Credential], str]:
    """Remove the passwords from the files once the server knows every key; tell its administrator what to do."""
    keys: dict[CredentialName, Credential] = {
        name: msgspec.structs.replace(each, password="") for name, each in credentials.items()
    }
    try:
        for credential in keys.values():
            await (await connect(credential, name="linestop bus init")).close()
    except PermissionDenied:
        return credentials, (
            "the credentials are an older linestop's passwords, which are sent in clear: give the server this "
            "configuration, which accepts keys as well, reload it, and run this again."
        )
    remove_passwords(directory, credentials)
    return keys, (
        "the credential files now have keys and no passwords: restart every process that uses them or a copy, "
        "then give the server this configuration, which accepts no passwords, and reload it."
    )


def server_config_text(
    credentials: Mapping[CredentialName, Credential],
    url: str,
    *,
    layout: BusLayout = DEFAULT_LAYOUT,
    access: AccessOptions = DEFAULT_ACCESS,
) -> str:
    """Return a complete configuration of a server that listens at ``url``."""
    first = urlsplit(url.partition(",")[0].strip())
    listen = Listen(
        host=_listen_host(first.hostname or ""),
        port=first.port or PORT_DEFAULT,
        store_dir=STORE_DIR,
        file_store_bytes_max=layout.sizes.total,
        sync_interval="always",
    )
    return server_config(listen, accounts_section(logins_by_credential(credentials), access)).decode()


def _listen_host(name: str) -> str:
    """Return the listen address of a server that is reached as ``name``, with brackets around an IPv6 address."""
    if name == "localhost":
        return name
    if not _is_loopback(name):
        # ``name`` is how others reach the server; which of the machine's addresses that is, is unknown here.
        return "0.0.0.0"  # noqa: S104 - other machines must reach this server
    return f"[{name}]" if ":" in name else name


def is_loopback(url: str) -> bool:
    """Whether a broker at this address is on this machine."""
    name = urlsplit(url.partition(",")[0].strip()).hostname or ""
    return name == "localhost" or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
