"""Keys in NATS's notation, compared with a pair from NATS's own tool."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from linestop.bus.access.nkeys import new_seed, public_key, sign

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLIC = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
"""From the documentation of NATS."""


def test_a_key_pair_of_nats_is_read() -> None:
    """The public key of a known seed is the documented one."""
    assert public_key(SEED) == PUBLIC


def test_a_signature_proves_the_key() -> None:
    """The server's nonce is signed; the raw key follows one byte of the public key."""
    seed = new_seed()
    raw = base64.b32decode(public_key(seed))[1:33]
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(sign(seed, "nonce")), b"nonce")


@pytest.mark.parametrize(
    "seed", ["", "SU", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", PUBLIC, SEED[:-1] + "A", SEED.lower(), SEED + "=" * 8]
)
def test_an_invalid_seed_is_refused_and_not_repeated(seed: str) -> None:
    """A wrong checksum, another kind of key, another alphabet."""
    with pytest.raises(ValueError, match="not the nkey seed of a user") as caught:
        public_key(seed)
    assert len(seed) < 8 or seed not in str(caught.value)
