"""The key that signs checkpoints: made at set-up, held by the recorder, its public half beside it.

``<dir>/credentials/checkpoint.key`` signs (mode 0600), ``checkpoint.pub`` is what ``linestop verify`` trusts. Keep a
copy of the public half where whoever may write to the state folder cannot: it is what shows that a log was made anew.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from linestop.bus.credentials import write_private
from linestop.bus.read_file import read_regular
from linestop.errors import ConfigError
from linestop.schemas.run.state import Run
from linestop.schemas.verify.checkpoint_signature import Checkpoint, TrustedKey, sign

LOG = structlog.get_logger("linestop.checkpoints")
KEY_FILE: Final = "checkpoint.key"
PUBLIC_FILE: Final = "checkpoint.pub"
KEY_BYTES_MAX: Final = 4 * 1024
_ID_DIGITS: Final = 16


class CheckpointSigner:
    """Vouches for runs. ``now`` says when."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], datetime]) -> None:
        self._key = key
        self._key_id = key_id(key.public_key().public_bytes_raw().hex())
        self._now = now

    def checkpoint(self, run: Run) -> Checkpoint:
        """Vouch for ``run`` as far as it is folded."""
        unsigned = Checkpoint(
            tenant=run.tenant, run=run.run, n=run.n, head_sha256=run.head, at=self._now(), key_id=self._key_id,
            signature="",
        )  # fmt: skip
        return sign(self._key, unsigned)


def key_id(public_key: str) -> str:
    """The name of a checkpoint key, from its public half in hex: two keys never have one name."""
    return f"checkpoint-{public_key[:_ID_DIGITS]}"


def ensure_checkpoint_key(credentials: Path) -> None:
    """Make the key in this folder if there is none, and write its public half if that is missing.

    Raises:
        ConfigError: the key is damaged, or others may read it.
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
    """The signing key in this folder; None if there is none.

    Raises:
        ConfigError: it is no Ed25519 key in hex, or others may read it.
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
            f"checkpoint key {path} is no Ed25519 key in hex: restore it, or delete it together with {PUBLIC_FILE} "
            "to have another made."
        ) from None


def load_checkpoint_signer(credentials: Path, now: Callable[[], datetime]) -> CheckpointSigner | None:
    """The signer with the key in this folder; None, and a line in the log, where set-up left none.

    Raises:
        ConfigError: as ``load_checkpoint_key``.
    """
    key = load_checkpoint_key(credentials)
    if key is None:
        LOG.warning("checkpoints_unsigned", missing=str(credentials / KEY_FILE))
        return None
    return CheckpointSigner(key, now)


def copy_checkpoint_key(credentials: Path, folder: Path, *, signs: bool) -> None:
    """Give a process of its own what it needs: the recorder both halves, whoever checks the public one."""
    for name in (KEY_FILE, PUBLIC_FILE) if signs else (PUBLIC_FILE,):
        write_private(folder / name, (credentials / name).read_bytes())


def trusted_checkpoint_key(credentials: Path) -> dict[str, TrustedKey]:
    """The public half in this folder by its id; nothing if there is none.

    Raises:
        ConfigError: it is no Ed25519 public key in hex.
    """
    path = credentials / PUBLIC_FILE
    try:
        text = read_regular(path, KEY_BYTES_MAX)[0].decode("ascii").strip()
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise ConfigError(f"{path} is no Ed25519 public key in hex: copy it again from the recorder.") from None
    return {key_id(text): TrustedKey(public_key=text, purpose="checkpoint")}
