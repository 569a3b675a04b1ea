"""A broker of somebody else's: the configuration that it needs, and how it is set up once it has it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from linestop.bus.connection import connect
from linestop.bus.create_streams import DEFAULT_LAYOUT, BusLayout, SetUpResult, set_up
from linestop.bus.credentials import Credential, ensure_credentials, logins_by_credential, remove_passwords
from linestop.bus.permission_table import CredentialName
from linestop.bus.permissions import DEFAULT_ACCESS, AccessOptions
from linestop.bus.server.nats_accounts import accounts_section
from linestop.bus.server.nats_config import Listen, server_config
from linestop.bus.signed_checkpoints import ensure_checkpoint_key
from linestop.errors import PermissionDenied, Unreachable

PORT_DEFAULT: Final = 4222
STORE_DIR: Final = Path("jetstream")
"""Where an outside server stores unless its administrator says otherwise: below where it is started."""


class InitResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ``bus_init`` leaves for a person: the configuration the server needs, and how far it came.

    ``set_up`` is None while the server cannot be used yet; ``next_step`` says what to do, and ``reachable``
    whether any server answered.
    """

    server_config: str
    set_up: SetUpResult | None
    reachable: bool = True
    passwords: bool = False
    """Whether the broker still takes passwords of an older linestop, and needs this configuration to end that."""

    next_step: str


async def bus_init(
    url: str,
    directory: Path,
    *,
    layout: BusLayout = DEFAULT_LAYOUT,
    access: AccessOptions = DEFAULT_ACCESS,
) -> InitResult:
    """Set up a server of somebody else's the way the embedded one is; may be repeated.

    Writes the credential files below ``directory`` (keeping those that exist) and returns the whole
    configuration the server needs. Once the server has it, another call creates streams and consumers.

    Args:
        url: Where the server listens; several separated by commas.
        directory: Where the credential files go.
        layout: What to create.
        access: Choices about what clients may read.

    Raises:
        ConfigError: for a damaged credential file, or if something cannot be created.
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
    """Take the passwords out of the files once the server knows every key; say what its administrator has to do."""
    keys: dict[CredentialName, Credential] = {
        name: msgspec.structs.replace(each, password="") for name, each in credentials.items()
    }
    try:
        for credential in keys.values():
            await (await connect(credential, name="linestop bus init")).close()
    except PermissionDenied:
        return credentials, (
            "the credentials are an older linestop's passwords, which are sent in clear: give the server this "
            "configuration, which takes keys as well, reload it, and run this again."
        )
    remove_passwords(directory, credentials)
    return keys, (
        "the credential files have keys and no passwords from now on: restart what uses them, wherever they were "
        "copied to, then give the server this configuration, which takes no passwords, and reload it."
    )


def server_config_text(
    credentials: Mapping[CredentialName, Credential],
    url: str,
    *,
    layout: BusLayout = DEFAULT_LAYOUT,
    access: AccessOptions = DEFAULT_ACCESS,
) -> str:
    """Return a configuration that a server can be started with as it is, listening where ``url`` says."""
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
    """Where a server listens that is reached as ``name``, with the brackets that an IPv6 address needs."""
    if name == "localhost":
        return name
    if not _is_loopback(name):
        # This is how others reach it; which of the machine's addresses that is, who knows.
        return "0.0.0.0"  # noqa: S104 - a server for others listens to others
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
