"""Signed checkpoints: the owner of a key vouches for a run up to an event.

A chain proves that no event inside it was changed. It does not prove that its end was not cut off, nor that the whole
log was not rewritten. A checkpoint does: an Ed25519 signature over tenant, run, number and hash of an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from linestop.schemas.events import Moment
from linestop.schemas.verify.chain_links import Link
from linestop.schemas.verify.verdict import Problem

_PURPOSE = "linestop-checkpoint-1"
"""Part of what is signed, so that a signature for another purpose is never taken for a checkpoint."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """``head_sha256`` is the hash of event ``n`` (event n + 1 names it as ``prev``); ``signature`` is hex."""

    tenant: str
    run: str
    n: int
    head_sha256: str
    at: Moment
    key_id: str
    signature: str


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """An Ed25519 public key (hex) and the purpose for which it is trusted.

    ``name`` is the person whose key it is; a key for checkpoints needs none. A key counts for its own purpose only: a
    key that vouches for logs cannot approve calls, nor the other way round.
    """

    public_key: str
    purpose: Literal["person", "checkpoint"]
    name: str = ""

    def has_signed(self, message: bytes, signature: str) -> bool:
        """Whether this key made ``signature`` (hex) over ``message``."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True


def sign(key: Ed25519PrivateKey, unsigned: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the signature of this key."""
    return msgspec.structs.replace(unsigned, signature=key.sign(checkpoint_bytes(unsigned)).hex())


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the bytes that the signature covers: all of the checkpoint but the signature."""
    return msgspec.json.encode(
        [
            _PURPOSE,
            checkpoint.tenant,
            checkpoint.run,
            checkpoint.n,
            checkpoint.head_sha256,
            checkpoint.at.isoformat(),
            checkpoint.key_id,
        ]
    )


def check_checkpoints(
    links: Sequence[Link], checkpoints: Sequence[Checkpoint], keys: Mapping[str, TrustedKey], *, of: tuple[str, str]
) -> tuple[int, list[Problem]]:
    """Compare a chain with the checkpoints of its run (``of``: tenant and run).

    Returns:
        The last event that a valid signature vouches for (0 for none), and the problems.
    """
    authentic_n = 0
    problems: list[Problem] = []
    for checkpoint in checkpoints:
        if (checkpoint.tenant, checkpoint.run) != of:
            continue
        level, sentence = _checkpoint_problem(links, checkpoint, keys)
        if sentence:
            n = min(checkpoint.n, len(links) + 1)
            problems.append(Problem(n=n, rule="checkpoint", sentence=sentence, level=level))
        else:
            authentic_n = max(authentic_n, checkpoint.n)
    return authentic_n, problems


def _checkpoint_problem(
    links: Sequence[Link], checkpoint: Checkpoint, keys: Mapping[str, TrustedKey]
) -> tuple[Literal["broken", "note"], str]:
    """Return the level and sentence of a checkpoint's problem; the sentence is empty if there is none."""
    key = keys.get(checkpoint.key_id)
    if key is None or key.purpose != "checkpoint":
        return "note", (
            f"The key '{checkpoint.key_id}' of the checkpoint at event {checkpoint.n} is not known: pass it with "
            f"`--key {checkpoint.key_id}=HEX`; HEX is in credentials/checkpoint.pub of the run's state folder."
        )
    if not key.has_signed(checkpoint_bytes(checkpoint), checkpoint.signature):
        return "broken", f"The signature of the checkpoint at event {checkpoint.n} is false."
    if not 1 <= checkpoint.n <= len(links):
        return "broken", f"The checkpoint vouches for event {checkpoint.n}, but the chain ends at {len(links)}."
    if links[checkpoint.n - 1].sha256 != checkpoint.head_sha256:
        return "broken", f"The checkpoint vouches for another event {checkpoint.n} than the one in the log."
    return "broken", ""
