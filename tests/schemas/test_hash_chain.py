"""The hash chain of a run."""

from __future__ import annotations

import hashlib

from linestop.schemas.run import hash_chain
from linestop.schemas.subjects import RunId, TenantId


def test_the_first_event_names_tenant_and_run() -> None:
    """SHA-256 of ``<tenant>/<run>``: any program can compute it."""
    assert hash_chain.genesis(TenantId("acme"), RunId("r1")) == hashlib.sha256(b"acme/r1").hexdigest()


def test_a_link_covers_subject_and_payload_apart() -> None:
    """A NUL separates them, so no byte can move from one to the other."""
    assert hash_chain.link("a.b", b"{}") == hashlib.sha256(b"a.b\0{}").hexdigest()
    assert hash_chain.link("a.b", b"{}") != hash_chain.link("a.", b"b{}")
