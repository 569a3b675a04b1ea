"""Whether a server that does not answer yet makes progress, and how much memory it gets.

A server that starts reads its streams before it listens; after a crash it reads every byte of them. How long that
takes depends on the disk and the neighbours. Ended by the clock it would begin again from the start, for ever. So it is
given up only when nothing moves: neither its processor time, nor what it has read, nor its log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

MIB: Final = 1024 * 1024
MEMORY_MIN_BYTES: Final = 200 * MIB
"""What the server needs under load with little stored; without a limit its garbage grows to a gigabyte."""

INDEX_SHARE: Final = 0.25
"""Memory for each byte that is stored: 0.4 KB an event of 1.1 KB measured while it recovers, and some for messages
that are larger."""

MACHINE_SHARE: Final = 0.5
"""Of the machine's memory at most, for the actors live there too."""

TICKS_MIN: Final = 10
"""Processor time that shows work, in hundredths of a second; an idle server needs that in minutes."""

READ_MIN_BYTES: Final = 64 * 1024
MEMORY_VARIABLE: Final = "GOMEMLIMIT"


class _Activity(NamedTuple):
    """What a process has done so far: processor time in ticks, bytes read, bytes logged."""

    ticks: int
    read: int
    logged: int


class Progress:
    """Looks at a process again and again."""

    def __init__(self, pid: int, log_file: Path, *, now: float) -> None:
        self._pid = pid
        self._log_file = log_file
        self._last = _read_activity(pid, log_file)
        self._progressed_at = now

    def no_progress_s(self, now: float) -> float:
        """Look, and say for how many seconds it has done nothing worth the name."""
        activity, last = _read_activity(self._pid, self._log_file), self._last
        has_worked = activity.ticks - last.ticks >= TICKS_MIN or activity.read - last.read >= READ_MIN_BYTES
        if has_worked or activity.logged != last.logged:
            self._last, self._progressed_at = activity, now
        return now - self._progressed_at


def _read_activity(pid: int, log_file: Path) -> _Activity:
    """What the system shows of a process; where there is no ``/proc``, its log alone."""
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
    """How many bytes lie below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except OSError:
                continue
    return total


def machine_bytes() -> int:
    """The memory of this machine or container, 0 if nothing says."""
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
    """The memory limit of a server with so much stored, as Go reads it: what it needs, at most half of the machine."""
    limit_bytes = MEMORY_MIN_BYTES + int(stored * INDEX_SHARE)
    if machine:
        limit_bytes = min(limit_bytes, max(MEMORY_MIN_BYTES, int(machine * MACHINE_SHARE)))
    return f"{limit_bytes // MIB}MiB"
