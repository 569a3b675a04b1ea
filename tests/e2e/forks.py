"""The parent of the tests' processes: imports everything once, then forks one process after another.

Started as ``python forks.py <setup.json>``. It reads commands from stdin, a line each: ``start <name>`` and
``stop <name>``. A process that ends without ``stop`` is restarted at once. The parent and its children print,
a line each: ``up <name> <pid>``, ``ready <name> <pid> <worker>``, ``down <name> <pid> <status>``.

A role's process takes seconds to import (the model SDKs), and a test kills hundreds of them; a fork takes milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import anyio
import msgspec
from tests.e2e.role_process import Setup, serve

import linestop.models.anthropic
import linestop.models.openai

PR_SET_PDEATHSIG = 1
LOADED = (linestop.models.anthropic, linestop.models.openai)
OUT = 3
"""The descriptor to which stdout is moved, so that only ``write_line`` writes there; logs go to stderr."""


def write_line(line: str) -> None:
    """Write one line with one system call: several processes share this pipe."""
    os.write(OUT, f"{line}\n".encode())


class Forks:
    """The children by name, restarted whenever they end without ``stop``."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._names: dict[int, str] = {}
        self._supervised: set[str] = set()

    def start(self, name: str) -> None:
        """Fork the process ``name``."""
        self._supervised.add(name)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._child(name, parent)
        self._names[pid] = name
        write_line(f"up {name} {pid}")

    def stop(self, name: str) -> None:
        """Kill the process ``name`` and do not restart it."""
        self._supervised.discard(name)
        for pid, known in self._names.items():
            if known == name:
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Report all children that have ended, and restart those that were not stopped."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                name = self._names.pop(pid)
                write_line(f"down {name} {pid} {os.waitstatus_to_exitcode(status)}")
                if name in self._supervised:
                    self.start(name)

    def _child(self, name: str, parent: int) -> None:
        status = 1
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                return
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            ready = partial(_ready, name)
            anyio.run(serve, self._setup, name, ready, backend_options={"use_uvloop": True})
            status = 0
        except BaseException:  # noqa: BLE001 - a forked child must not unwind into its parent's code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)


def _ready(name: str, worker: str) -> None:
    write_line(f"ready {name} {os.getpid()} {worker}")


def _ignore_signal(number: int, frame: object) -> None:
    """Do nothing: with any Python handler the signal wakes the selector."""
    del number, frame


def main() -> None:
    """Carry out commands until stdin ends, then kill all children."""
    os.dup2(1, OUT)
    os.dup2(2, 1)
    forks = Forks(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Setup))
    wakeup_reader, wakeup_writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wakeup_writer)
    signal.signal(signal.SIGCHLD, _ignore_signal)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wakeup_reader, selectors.EVENT_READ)
    write_line("up forks 0")
    buffered = b""
    while True:
        for key, _ in selector.select():
            if key.fd == wakeup_reader:
                os.read(wakeup_reader, 4096)
                forks.reap()
                continue
            read = os.read(0, 4096)
            if not read:
                return
            *lines, buffered = (buffered + read).split(b"\n")
            for line in lines:
                verb, name = line.decode().split()
                (forks.start if verb == "start" else forks.stop)(name)


if __name__ == "__main__":
    main()
