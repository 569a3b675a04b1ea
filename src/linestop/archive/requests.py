"""Requests to an archive and their replies, for callers that must not import the database."""

from __future__ import annotations

from typing import Final

import msgspec

ARCHIVE_FILE: Final = "archive.duckdb"
"""The archive's name in a state folder."""


class ArchiveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an archive. ``watermark`` is the last stream sequence in it."""

    path: str
    watermark: int
    events: int
    runs: int
    calls: int
    bytes: int


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The last sequence in an archive, and the first one of its oldest open run, 0 if no run is open."""

    watermark: int
    oldest_open_seq: int = 0


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for the log of one run; without a run, for those that began before a sequence, newest first."""

    tenant: str = ""
    run: str = ""
    before_seq: int = 0
    limit: int = 0
