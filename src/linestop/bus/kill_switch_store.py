"""Where the closed kill switches are stored.

They have a bucket of their own. In the bucket `shared`, where an older linestop kept them, accounts can take all the
space, and then no switch could be closed any more.
"""

from __future__ import annotations

from linestop.bus.interfaces import Bucket, BucketValue
from linestop.schemas.kill_switches import KEY, OLDER_KEY


class KillSwitchStore:
    """The stored value of the kill switches, as one credential reads or writes it."""

    def __init__(self, switches: Bucket, older: Bucket) -> None:
        self._switches = switches
        self._older = older

    async def get(self) -> BucketValue | None:
        """The present value; what an older linestop stored counts until one is stored here."""
        return await self._switches.get(KEY) or await self._older.get(OLDER_KEY)

    async def replace(self, current: BucketValue | None, value: bytes) -> None:
        """Store ``value`` instead of what ``get`` found.

        Raises:
            Conflict: it was changed meanwhile.
        """
        if current is None or current.key != KEY:
            await self._switches.create(KEY, value)
        else:
            await self._switches.update(KEY, value, revision=current.revision)
