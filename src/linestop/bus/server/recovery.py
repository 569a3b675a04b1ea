"""Whether a starting server makes progress, and its memory limit.

A starting server reads its streams before it listens; after a crash it reads every byte of them. The time this takes
depends on the disk and on other processes. With a fixed time limit the server would be ended and start from the
beginning again and again. So it is ended only if nothing changes: its processor time, the bytes read and its log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from linestop.bus.disk_space import MIB

MEMORY_MIN_BYTES: Final = 200 * MIB
"""The server's need under load with small streams; without a limit its garbage grows to a gigabyte."""

INDEX_SHARE: Final = 0.25
"""Memory for each stored byte: 0.4 KB for an event of 1.1 KB, measured during recovery, and some for larger
messages."""

MACHINE_SHARE: Final = 0.5
"""The largest share of the machine's memory, because the actors run there too."""

TICKS_MIN: Final = 10
"""Processor time that counts as progress, in hundredths of a second; an idle server uses that in minutes."""

READ_MIN_BYTES: Final = 64 * 1024
MEMORY_VARIABLE: Final = "GOMEMLIMIT"


class _Activity(NamedTuple):
    """A process's activity so far: processor time in ticks, bytes read, bytes logged."""

    ticks: int
    read: int
    logged: int


class Progress:
    """Observes the progress of a process."""

    def __init__(self, pid: int, log_file: Path, *, now: float) -> None:
        self._pid = pid
        self._log_file = log_file
        self._last = _read_activity(pid, log_file)
        self._progressed_at = now

    def no_progress_s(self, now: float) -> float:
        """Check the process; return the seconds since its last progress."""
        activity, last = _read_activity(self._pid, self._log_file), self._last
        has_worked = activity.ticks - last.ticks >= TICKS_MIN or activity.read - last.read >= READ_MIN_BYTES
        if has_worked or activity.logged != last.logged:
            self._last, self._progressed_at = activity, now
        return now - self._progressed_at


def _read_activity(pid: int, log_file: Path) -> _Activity:
    """Read the activity of a process from the system; without ``/proc`` only from its log."""
    ticks = read = logged = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        ticks = int(stat[11]) + int(stat[12])
    with contextlib.suppress(OSError, ValueError, IndexError):
        read = int(Path(f"/proc/{pid}/io").read_text(encoding="utf-8").split()[1])
    with contextlib.suppress(OSError):
        logged = log_file.stat().st_size
    return _Activity(ticks, read, logged)


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; files that vanish in the meantime do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except OSError:
                continue
    return total


def machine_bytes() -> int:
    """Return the memory of this machine or container, 0 if unknown."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        physical = 0
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        limit = physical
    return min(physical, limit) if physical else limit


def memory_limit(stored: int, *, machine: int) -> str:
    """Return the memory limit of a server with ``stored`` bytes in Go's notation, at most half of the machine's."""
    limit_bytes = MEMORY_MIN_BYTES + int(stored * INDEX_SHARE)
    if machine:
        limit_bytes = min(limit_bytes, max(MEMORY_MIN_BYTES, int(machine * MACHINE_SHARE)))
    return f"{limit_bytes // MIB}MiB"
