"""What an archive's file refuses, as errors with a sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

import duckdb

from linestop.errors import ConfigError, Refused, RetryableError


class ArchiveInUse(Refused):
    """Raised when another process has the file open."""

    code = "archive_in_use"


class ArchiveUnusable(RetryableError):
    """Raised when the archive's file or its disk refuses."""

    code: ClassVar[str] = "archive_unusable"


@contextlib.contextmanager
def refusals_named(path: Path) -> Generator[None]:
    """Raise what the database or the system refuses in the block as a sentence with the cause and the remedy.

    Raises:
        ArchiveUnusable: the disk is full, the file is damaged, or it cannot be read or written.
    """
    try:
        yield
    except (duckdb.Error, OSError) as error:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        if os.strerror(errno.ENOSPC) in reason:
            raise ArchiveUnusable(
                f"There is no space for the archive {path} ({reason}). Free some; nothing is lost, because the log "
                "keeps what the archive lacks."
            ) from None
        raise ArchiveUnusable(
            f"The archive {path} cannot be read or written ({reason}). If the file is damaged, stop its recorder and "
            "move the file away: `linestop recorder rebuild` writes a new one from what the log still has."
        ) from None


def require_usable_path(path: Path) -> None:
    """Refuse a path with a backslash, which DuckDB reads as a slash on every system.

    Raises:
        ConfigError: the path has a backslash.
    """
    if "\\" in str(path.resolve()):
        raise ConfigError(
            f"The archive cannot be in {path.parent}: DuckDB reads the backslash in that path as a slash. Use a folder "
            "without one, with LINESTOP_DIR or `dir` in linestop.toml."
        )


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another of the same path, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
