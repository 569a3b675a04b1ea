"""The bucket ``ids``: the run of each idempotency key.

A key is taken when its task is about to open a run, so a task that the intake refuses takes none. Compare-and-set
gives a key to another run only after its run released it: the run was refused later, or ended before anything of it
had started (``Run.has_released_key``). The bucket stores a key as long as RUNS stores the run (decision 019).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from linestop.bus.interfaces import Bucket
from linestop.errors import Conflict
from linestop.schemas.messages import run_of_key
from linestop.schemas.subjects import RunId

_COMPUTED_RUN_ID: Final = re.compile(r"[kr]-[0-9a-f]{40}")
"""The computed run ids: that of a key, and that of the refusal of a task whose key or run belongs to another task."""


class KeyOwner(msgspec.Struct, frozen=True):
    """The run of a key, the digest of its task, and the revision to name when the key gets another run."""

    run: RunId
    sha256: str
    revision: int


def run_id_rejection_reason(tenant: str, run: str, key: str) -> str:
    """Return why a task with this key may not choose this run id, or an empty string if it may.

    A run id of the computed form belongs to one key of one tenant, or to a refusal, so that no other task can take it
    first. Not even the refusal of such a task may be written there.
    """
    if _COMPUTED_RUN_ID.fullmatch(run) is None or (key and run == run_of_key(tenant, key)):
        return ""
    return f"The task may not have the run id '{run}', which stands for another key: choose another run id."


class IdempotencyKeys:
    """The keys of all tenants. Belongs to the validator."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def owner(self, tenant: str, key: str) -> KeyOwner | None:
        """Return the owner of the key, None if no run has it."""
        found = await self._bucket.get(_bucket_key(tenant, key))
        if found is None:
            return None
        run, sha256 = msgspec.json.decode(found.value, type=tuple[str, str])
        return KeyOwner(RunId(run), sha256, found.revision)

    async def take(self, tenant: str, key: str, *, run: RunId, sha256: str, previous_owner: KeyOwner | None) -> bool:
        """Give the key to ``run``, in place of ``previous_owner``; return False if another run was faster.

        Raises:
            TooLarge: the bucket has no space for another key.
        """
        value = msgspec.json.encode([run, sha256])
        try:
            if previous_owner is None:
                await self._bucket.create(_bucket_key(tenant, key), value)
            else:
                await self._bucket.update(_bucket_key(tenant, key), value, revision=previous_owner.revision)
        except Conflict:
            return False
        return True


def _bucket_key(tenant: str, key: str) -> str:
    return f"{tenant}.{hashlib.sha256(key.encode()).hexdigest()}"
