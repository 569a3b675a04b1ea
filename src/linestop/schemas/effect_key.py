"""The idempotency key of an effect: what a tool sends along, so that its service acts once."""

from __future__ import annotations

import hashlib


def effect_key(run: str, tool: str, args: bytes) -> str:
    """Return the key under which an effect is made at most once: SHA-256 of run, tool and canonical arguments.

    ``run`` is ``<tenant>/<run>``: two tenants may use the same run id.
    """
    return hashlib.sha256(b"\0".join((run.encode(), tool.encode(), args))).hexdigest()
