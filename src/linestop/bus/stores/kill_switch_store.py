"""The store of the closed kill switches.

They have a separate bucket. In the bucket `shared`, where an older linestop stored them, accounts can use up the
space, and then no switch could be closed any more.
"""

from __future__ import annotations

from linestop.bus.interfaces import Bucket, BucketValue
from linestop.schemas.kill_switches import KEY, OLDER_KEY


class KillSwitchStore:
    """The stored value of the kill switches, read and written with one credential."""

    def __init__(self, switches: Bucket, older: Bucket) -> None:
        self._switches = switches
        self._older = older

    async def get(self) -> BucketValue | None:
        """Return the current value; that of an older linestop counts until one is stored here."""
        return await self._switches.get(KEY) or await self._older.get(OLDER_KEY)

    async def replace(self, current: BucketValue | None, value: bytes) -> None:
        """Store ``value`` instead of the one that ``get`` returned.

        Raises:
            Conflict: the value changed in the meantime.
        """
        if current is None or current.key != KEY:
            await self._switches.create(KEY, value)
        else:
            await self._switches.update(KEY, value, revision=current.revision)
