"""The hash chain of a run: the rule for the next event.

A message is the next event of a run if, and only if, its subject carries the next number and its payload
names the hash of the event before. Role, contents and headers do not matter. So every version of linestop, and every
other program, computes the same chain from the same bytes.
"""

from __future__ import annotations

import hashlib

from linestop.schemas.subjects import RunId, TenantId


def genesis(tenant: TenantId, run: RunId) -> str:
    """Return the predecessor that event 1 names: SHA-256 of ``<tenant>/<run>``."""
    return hashlib.sha256(f"{tenant}/{run}".encode()).hexdigest()


def link(subject: str, payload: bytes) -> str:
    """Return the hash that the next event must name: SHA-256 of subject, NUL and the payload as stored."""
    return hashlib.sha256(subject.encode() + b"\0" + payload).hexdigest()
