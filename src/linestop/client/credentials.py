"""A client's identity: its credential at the broker, and the person whose key signs its decisions."""

from __future__ import annotations

import getpass
import os
import secrets
import stat
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from linestop.bus.access.credentials import (
    Credential,
    credential_path,
    load_credential,
    require_seed,
    require_urls,
)
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.read_file import read_regular
from linestop.errors import ConfigError, InputError
from linestop.schemas.messages import Control, Verb, signed_bytes

DIRECTORY_VARIABLE = "LINESTOP_DIR"
DIRECTORY_DEFAULT = ".linestop"
KEY_BYTES = 32
KEY_FILE_BYTES_MAX = 16 * 1024


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A credential, and the folder with people's keys (None where there is no state directory)."""

    credential: Credential
    people: Path | None = None


def identify(  # noqa: PLR0913 - three ways to give a credential
    where: str | Path | None = None,
    *,
    as_: CredentialName = "client",
    url: str = "",
    user: str = "",
    password: str = "",
    seed: str = "",
) -> Identity:
    """Find the credential: from ``url`` with user and seed, from a credential file, or from a state directory.

    Args:
        where: A credential file, or a state directory; by default ``LINESTOP_DIR``, else ``.linestop``.
        as_: Which credential of a state directory.
        url: Address of the broker; then ``user`` and ``seed`` are needed, and ``where`` is used only for people's keys.
        user: A credential's name.
        password: Its password, where the broker was set up by an older linestop. It is sent in clear.
        seed: The seed of its key, which is not sent.

    Raises:
        ConfigError: there is no such file or directory, or the file is not a credential.
        InputError: ``url`` without a known user and a seed.
    """
    if url:
        name: CredentialName | None = next((known for known in CREDENTIALS if known == user), None)
        if name is None or not (seed or password):
            raise InputError(f"A connection by url needs a seed and a user, one of {', '.join(CREDENTIALS)}.")
        require_urls(url, "url")
        if seed:
            require_seed(seed, "seed")
        people = Path(where) / "people" if where is not None else None
        return Identity(credential=Credential(url=url, user=name, password=password, seed=seed), people=people)
    path = Path(where if where is not None else os.environ.get(DIRECTORY_VARIABLE) or DIRECTORY_DEFAULT)
    if path.is_file():
        return Identity(credential=load_credential(path), people=state_directory(path) / "people")
    if not path.is_dir():
        raise ConfigError(
            f"There is no linestop state in '{path}': start `linestop dev` here, or name another directory in "
            f"{DIRECTORY_VARIABLE}, with a command's --dir, or as the argument of Client.connect."
        )
    return Identity(credential=load_credential(credential_path(path, as_)), people=path / "people")


def state_directory(where: Path) -> Path:
    """The state directory, given as itself or as one of its credential files."""
    path = where.absolute()
    if not path.is_file():
        return path
    return path.parent.parent if path.parent.name == "credentials" else path.parent


def default_person() -> str:
    """The name for decisions if none is given: the operating system's user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def load_key(people: Path | None, name: str) -> Ed25519PrivateKey | None:
    """The key of a person: 64 hexadecimal digits, or PEM. None if there is no such file.

    Raises:
        ConfigError: the file exists but others may read it, or it is not an Ed25519 key.
    """
    path = people / f"{name}.key" if people is not None and name and "/" not in name else None
    if path is None or not path.is_file():
        return None
    try:
        data, file_stat = read_regular(path, KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"The key {path} cannot be read: {error.strerror}.") from None
    if file_stat.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"The key {path} may be read by others: run `chmod 600 {path}`.")
    text = data.strip()
    # Imported here: this import takes long, and only the control messages of people are signed.
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        if text.startswith(b"-----BEGIN"):
            key = load_pem_private_key(text, password=None)
            if isinstance(key, Ed25519PrivateKey):
                return key
        else:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.decode("ascii")))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    raise ConfigError(f"The file {path} is not an Ed25519 key: it needs {2 * KEY_BYTES} hexadecimal digits, or PEM.")


def sign(control: Control, key: Ed25519PrivateKey, *, tenant: str, run: str, verb: Verb) -> Control:
    """Return the control message with a nonce and the signature of ``control.by``, the owner of ``key``."""
    with_nonce = msgspec.structs.replace(control, nonce=secrets.token_hex(16), key_id=control.by)
    signature = key.sign(signed_bytes(tenant, run, verb, with_nonce))
    return msgspec.structs.replace(with_nonce, signature=signature.hex())
