"""The CPU time and the memory of processes, as Linux counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds that the processes have used, user and system; the system counts them in ticks of 10 ms."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def with_children(pids: Iterable[int]) -> list[int]:
    """The processes and all that they have started and that still run, such as the archive's."""
    found = list(pids)
    for pid in found:
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in tasks.read_text(encoding="utf-8").split()]
    return found


def own_cpu_s() -> float:
    """CPU seconds that this process has used."""
    return time.process_time()


def children_cpu_s() -> float:
    """CPU seconds of all child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def memory_mb(pids: Iterable[int]) -> float:
    """Memory of the processes, with what they share counted once for each."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
