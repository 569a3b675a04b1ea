"""The disk with the state folder: its free space, and the limit below which nothing can be stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from linestop.schemas.broker_defaults import DISK_FULL_BYTES

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
LOG_FILE: Final = "nats.log"
"""The log of the embedded broker, in the state folder."""

PORT_FILE: Final = "port"
"""The file also identifies the folder of an embedded broker: no other folder has one."""


def free_bytes(directory: Path) -> int:
    """Return the bytes available to this user on the disk of ``directory``, which need not exist yet."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    stats = os.statvfs(existing)
    return stats.f_bavail * stats.f_frsize


def used_share(directory: Path) -> float:
    """Return how full the disk of ``directory`` is for this user, from 0.0 to 1.0."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    stats = os.statvfs(existing)
    usable_blocks = stats.f_blocks - stats.f_bfree + stats.f_bavail
    return 1.0 - stats.f_bavail / usable_blocks if usable_blocks else 0.0


def is_full(directory: Path) -> bool:
    """Whether so little space is free that the broker may be unable to store anything."""
    return free_bytes(directory) < DISK_FULL_BYTES


def format_bytes(count: int) -> str:
    """Format a number of bytes: ``3.2 GiB``."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / MIB:,.1f} MiB"


def is_broker_directory(directory: Path) -> bool:
    """Whether this is the state folder of an embedded broker, that of ``linestop dev``."""
    return (directory / PORT_FILE).exists()


def is_embedded_broker(directory: Path, url: str) -> bool:
    """Whether the broker at this address is the embedded one of this state folder."""
    try:
        port = (directory / PORT_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return url == f"nats://127.0.0.1:{port}"


def broker_disk_is_full(directory: Path) -> bool:
    """Whether a full disk on this machine explains that the broker stores nothing."""
    return is_broker_directory(directory) and is_full(directory)


def disk_full_message(directory: Path) -> str:
    """Build the message about a full disk, with its remedy."""
    return (
        f"The disk with the state folder {directory} is full "
        f"({format_bytes(free_bytes(directory))} free), so the broker can "
        f"store nothing, not even a stop: free at least {format_bytes(DISK_FULL_BYTES)} there. "
        f"`linestop dev` then continues by "
        f"itself within seconds; the broker's log is {directory / LOG_FILE}."
    )
