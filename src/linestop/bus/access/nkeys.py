"""NATS's key pairs (nkeys): the server knows the public half, and a client signs a new nonce of the server each time.

No secret is sent that way. A seed is the Ed25519 private key in NATS's notation, so that every NATS client can use it:
``S``, the kind of the key, 32 bytes and a checksum, in base32. The package ``nkeys`` does the same with PyNaCl but
comes as source only; ``cryptography`` is a dependency anyway (docs/decisions/035).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES: Final = 32
CHECKSUM_BYTES: Final = 2
_SEED: Final = 18 << 3
_USER: Final = 20 << 3
_SEED_OF_USER: Final = bytes((_SEED | _USER >> 5, (_USER & 0b11111) << 3))
"""The first two bytes of a user's seed: the kind of the key spans both."""


def new_seed() -> str:
    """Generate a user's seed; it begins with ``SU``."""
    return _encoded(_SEED_OF_USER + secrets.token_bytes(KEY_BYTES))


def public_key(seed: str) -> str:
    """Return the public key of a user's seed as a server's configuration contains it; it begins with ``U``.

    Raises:
        ValueError: ``seed`` is not a user's seed. The error does not repeat it.
    """
    return _encoded(bytes((_USER,)) + _private_key(seed).public_key().public_bytes_raw())


def sign(seed: str, nonce: str) -> bytes:
    """Sign a server's nonce; return the signature in base64, as the server expects it.

    Raises:
        ValueError: ``seed`` is not a user's seed.
    """
    return base64.b64encode(_private_key(seed).sign(nonce.encode()))


def _private_key(seed: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    kind, key, checksum = raw[:2], raw[2:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    if kind != _SEED_OF_USER or len(key) != KEY_BYTES or checksum != _checksum(kind + key):
        raise ValueError("it is not the nkey seed of a user (SU…)")
    return Ed25519PrivateKey.from_private_bytes(key)


def _encoded(raw: bytes) -> str:
    return base64.b32encode(raw + _checksum(raw)).rstrip(b"=").decode()


def _checksum(raw: bytes) -> bytes:
    return binascii.crc_hqx(raw, 0).to_bytes(CHECKSUM_BYTES, "little")
