"""Becomes another program that the kernel kills when its parent dies.

Run as ``python die_with_parent.py <parent pid> <program> <argument> …``. No other way is reliable: a parent that is
killed with SIGKILL cannot clean up, and code between fork and exec in a process with threads may deadlock.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGKILL at the parent's death, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the request to the kernel
            sys.exit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606 - a shell is not needed


if __name__ == "__main__":
    main()
