"""The disk that holds the state folder: how much is free there, and from where on nothing can be stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from linestop.schemas.defaults import DISK_FULL_BYTES

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
LOG_FILE: Final = "nats.log"
"""The log of a broker of one's own, in the state folder."""

PORT_FILE: Final = "port"
"""It shows whose a directory is, too: no other broker's has one."""


def free_bytes(directory: Path) -> int:
    """Bytes that are free for us on the disk of ``directory``, or of the folder where it would be made."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    stats = os.statvfs(existing)
    return stats.f_bavail * stats.f_frsize


def used_share(directory: Path) -> float:
    """How full the disk of ``directory`` is for us, 0.0 to 1.0."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    stats = os.statvfs(existing)
    usable_blocks = stats.f_blocks - stats.f_bfree + stats.f_bavail
    return 1.0 - stats.f_bavail / usable_blocks if usable_blocks else 0.0


def is_full(directory: Path) -> bool:
    """Whether so little is free there that the broker may be unable to store anything."""
    return free_bytes(directory) < DISK_FULL_BYTES


def format_bytes(count: int) -> str:
    """Say a number of bytes in words: ``3.2 GiB``."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"


def is_broker_directory(directory: Path) -> bool:
    """Whether this is the state folder of a broker of one's own, that of ``linestop dev``."""
    return (directory / PORT_FILE).exists()


def broker_disk_is_full(directory: Path) -> bool:
    """Whether a full disk here explains that the broker does not store."""
    return is_broker_directory(directory) and is_full(directory)


def disk_full_message(directory: Path) -> str:
    """What is wrong, and what to do about it."""
    return (
        f"The disk with the state folder {directory} is full "
        f"({format_bytes(free_bytes(directory))} free), so the broker can "
        f"store nothing, not even a stop: free at least {format_bytes(DISK_FULL_BYTES)} there. "
        f"`linestop dev` then goes on by "
        f"itself within seconds; the broker's log is {directory / LOG_FILE}."
    )
