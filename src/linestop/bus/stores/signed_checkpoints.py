"""The key that signs checkpoints: created at set-up and used by the recorder.

``<dir>/credentials/checkpoint.key`` (mode 0600) signs; ``linestop verify`` trusts ``checkpoint.pub``. Keep a copy of
the public key outside the reach of everyone who may write to the state folder: only that copy shows that a whole log
was rewritten.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from linestop.bus.access.credentials import write_private
from linestop.bus.read_file import read_regular
from linestop.errors import ConfigError
from linestop.logger import Logger
from linestop.schemas.run.fold import Run
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey, sign

LOG = Logger("linestop.checkpoints")
KEY_FILE: Final = "checkpoint.key"
PUBLIC_FILE: Final = "checkpoint.pub"
KEY_BYTES_MAX: Final = 4 * 1024
_ID_DIGITS: Final = 16


class CheckpointSigner:
    """Signs checkpoints of runs. ``now`` returns their time."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], datetime]) -> None:
        self._key = key
        self._key_id = key_id(key.public_key().public_bytes_raw().hex())
        self._now = now

    def checkpoint(self, run: Run) -> Checkpoint:
        """Sign a checkpoint of ``run`` at its last folded event."""
        unsigned = Checkpoint(
            tenant=run.tenant,
            run=run.run,
            n=run.n,
            head_sha256=run.head,
            at=self._now(),
            key_id=self._key_id,
            signature="",
        )
        return sign(self._key, unsigned)


def key_id(public_key: str) -> str:
    """Return the id of a checkpoint key, from its public key in hex."""
    return f"checkpoint-{public_key[:_ID_DIGITS]}"


def ensure_checkpoint_key(credentials: Path) -> None:
    """Create the key in this folder if there is none, and write its public key if that is missing.

    Raises:
        ConfigError: the key is damaged, or other users may read it.
    """
    key = load_checkpoint_key(credentials)
    if key is None:
        key = Ed25519PrivateKey.generate()
        write_private(credentials / KEY_FILE, key.private_bytes_raw().hex().encode() + b"\n")
    public = key.public_key().public_bytes_raw().hex().encode() + b"\n"
    path = credentials / PUBLIC_FILE
    if not path.exists() or path.read_bytes() != public:
        write_private(path, public)


def load_checkpoint_key(credentials: Path) -> Ed25519PrivateKey | None:
    """Return the signing key in this folder; None if there is none.

    Raises:
        ConfigError: the file is not an Ed25519 key in hex, or other users may read it.
    """
    path = credentials / KEY_FILE
    try:
        data, file_stat = read_regular(path, KEY_BYTES_MAX)
        text = data.decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"checkpoint key {path} cannot be read: {error}.") from None
    if file_stat.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"checkpoint key {path} may be read by others: run `chmod 600 {path}`.")
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text.strip()))
    except ValueError:
        raise ConfigError(
            f"checkpoint key {path} is not an Ed25519 key in hex: restore it, or delete it together with {PUBLIC_FILE} "
            "to have another one created."
        ) from None


def load_checkpoint_signer(credentials: Path, now: Callable[[], datetime]) -> CheckpointSigner | None:
    """Return the signer with the key in this folder; None, and a warning in the log, if there is no key.

    Raises:
        ConfigError: as ``load_checkpoint_key``.
    """
    key = load_checkpoint_key(credentials)
    if key is None:
        LOG.warning("checkpoints_unsigned", missing=str(credentials / KEY_FILE))
        return None
    return CheckpointSigner(key, now)


def copy_checkpoint_key(credentials: Path, folder: Path, *, signs: bool) -> None:
    """Copy the keys that a process needs: both for the recorder, the public one for a process that verifies."""
    for name in (KEY_FILE, PUBLIC_FILE) if signs else (PUBLIC_FILE,):
        write_private(folder / name, (credentials / name).read_bytes())


def trusted_checkpoint_key(credentials: Path) -> dict[str, TrustedKey]:
    """Return the public key in this folder by its id; an empty dict if there is none.

    Raises:
        ConfigError: the file is not an Ed25519 public key in hex.
    """
    path = credentials / PUBLIC_FILE
    try:
        text = read_regular(path, KEY_BYTES_MAX)[0].decode("ascii").strip()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ConfigError(f"{path} is not an Ed25519 public key in hex: copy it again from the recorder.") from None
    return {key_id(text): TrustedKey(public_key=text, purpose="checkpoint")}
