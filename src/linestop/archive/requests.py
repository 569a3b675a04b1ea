"""What others ask an archive, and what it answers, for those who shall not load a database."""

from __future__ import annotations

import msgspec


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The last sequence that is in an archive, and the first one of its oldest open run, 0 if none is open."""

    watermark: int
    oldest_open_seq: int = 0


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The log of one run; or, without one, which runs began before a sequence, the last of them first."""

    tenant: str = ""
    run: str = ""
    before_seq: int = 0
    limit: int = 0
