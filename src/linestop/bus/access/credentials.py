"""Credential files, ``<dir>/credentials/<name>.json``: the identity of a process on the bus."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from linestop.bus.access.nkeys import new_seed, public_key
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.read_file import read_regular
from linestop.errors import ConfigError

FILE_BYTES_MAX: Final = 64 * 1024
SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
URL_CHARS_SHOWN: Final = 200
_OTHERS_MODE: Final = stat.S_IRWXG | stat.S_IRWXO


class Credential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name and its key at one bus. ``url`` may list several servers, separated by commas.

    ``seed`` signs the server's nonces; it never leaves this machine. An older linestop used ``password``: with both,
    the key is offered first, and the password is sent only if the server does not know the key yet.
    """

    url: str
    user: CredentialName
    password: str = ""
    seed: str = ""

    def __repr__(self) -> str:
        """Leave out the secrets, because representations appear in logs and tracebacks."""
        return f"Credential(url={self.url!r}, user={self.user!r})"

    @property
    def servers(self) -> list[str]:
        """The servers to try."""
        return [url.strip() for url in self.url.split(",") if url.strip()]


def credential_path(directory: Path, name: CredentialName) -> Path:
    """Return the file of a credential in the state folder ``directory``."""
    return directory / "credentials" / f"{name}.json"


def load_credential(path: Path, *, check_mode: bool = True) -> Credential:
    """Read a credential file.

    Args:
        path: The file.
        check_mode: Refuse a file that other users may read. Off for secrets that a container runtime mounts:
            every user of the container may read them, and it has only one.

    Raises:
        ConfigError: if the file is missing, may be read by others, or is not a credential.
    """
    try:
        text, file_stat = read_regular(path, FILE_BYTES_MAX)
    except FileNotFoundError:
        raise ConfigError(
            f"credential file {path} does not exist: start the bus with that directory (`linestop dev`), or run "
            "`linestop bus init`."
        ) from None
    except OSError as error:
        raise ConfigError(f"credential file {path} cannot be read: {error.strerror}.") from None
    mode = file_stat.st_mode
    if check_mode and mode & _OTHERS_MODE:
        raise ConfigError(
            f"credential file {path} may be read by others (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {path}`."
        )
    try:
        credential = msgspec.json.decode(text, type=Credential)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"credential file {path} is not a credential ({error}): it needs url, user and seed."
        ) from None
    if not credential.servers or not (credential.seed or credential.password):
        raise ConfigError(
            f"credential file {path} has an empty url or no seed: delete it, and `linestop dev` or `linestop bus init` "
            "creates another."
        )
    if credential.seed:
        require_seed(credential.seed, f"credential file {path} is not a credential: seed")
    require_urls(credential.url, f"credential file {path}, url")
    return credential


def require_seed(seed: str, where: str) -> None:
    """Require the seed of a user's key.

    Raises:
        ConfigError: ``seed`` is not one; ``where`` names the file and the key.
    """
    try:
        public_key(seed)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from None


def require_urls(text: str, where: str) -> None:
    """Require addresses of servers, separated by commas, as ``nats://host:port``.

    A user and a password in them are refused: they belong in credentials, and would appear in messages.

    Raises:
        ConfigError: one of them is not such an address; ``where`` names the file and the key.
    """
    for url in filter(str.strip, text.split(",")):
        try:
            parts = urlsplit(url.strip())
            is_valid = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0 and url.isprintable()
            is_valid = is_valid and parts.username is None and parts.path in {"", "/"}
        except ValueError:
            is_valid = False
        if not is_valid:
            shown = url.strip().rpartition("@")[2]
            raise ConfigError(
                f"{where}: {shown[:URL_CHARS_SHOWN]!r} is not the address of a broker: write nats://host:port, "
                "without a user and a password."
            )


def write_credential(path: Path, credential: Credential) -> None:
    """Write a credential file atomically, mode 0600 in a directory with mode 0700."""
    path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o700)
    write_private(path, msgspec.json.format(msgspec.json.encode(credential)) + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, atomically."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def ensure_credentials(directory: Path, url: str, *, keep_passwords: bool = False) -> dict[CredentialName, Credential]:
    """Return every credential of a bus; create the missing ones and keep every existing seed.

    A credential of an older linestop, which has a password only, gets a seed. With ``keep_passwords`` it keeps the
    password until ``remove_passwords``: the server does not know the new key yet.

    Raises:
        ConfigError: if a file that exists is damaged or may be read by others.
    """
    result: dict[CredentialName, Credential] = {}
    for name in CREDENTIALS:
        path = credential_path(directory, name)
        old = load_credential(path) if path.exists() else None
        if old is not None and old.user != name:
            raise ConfigError(f"credential file {path} belongs to {old.user!r}: move it to {old.user}.json.")
        seed = (old.seed if old is not None else "") or new_seed()
        password = old.password if old is not None and keep_passwords else ""
        result[name] = Credential(url=url, user=name, password=password, seed=seed)
        if result[name] != old:
            write_credential(path, result[name])
    return result


def remove_passwords(directory: Path, credentials: Mapping[CredentialName, Credential]) -> None:
    """Write these credentials without their passwords, once the server knows their keys.

    Raises:
        ConfigError: if a file cannot be written.
    """
    for name, credential in credentials.items():
        path = credential_path(directory, name)
        try:
            write_credential(path, msgspec.structs.replace(credential, password=""))
        except OSError as error:
            raise ConfigError(f"credential file {path} cannot be written ({error.strerror}).") from None


def logins_by_credential(
    credentials: Mapping[CredentialName, Credential],
) -> dict[CredentialName, list[dict[str, str]]]:
    """Return the entries of each user in a server's configuration: the public key, and the password if there is one."""
    return {name: logins(credential) for name, credential in credentials.items()}


def logins(credential: Credential) -> list[dict[str, str]]:
    """Return the entries of one user in a server's configuration."""
    entries: list[dict[str, str]] = []
    if credential.seed:
        entries.append({"nkey": public_key(credential.seed)})
    if credential.password:
        entries.append({"user": credential.user, "password": credential.password})
    return entries
