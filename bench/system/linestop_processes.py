"""The processes of linestop that are measured, started by the command line as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
from anyio.streams.text import TextReceiveStream
from bench.system.project_folder import environment

READY_WITHIN_S: Final = 60.0
LINESTOP: Final = str(Path(sys.executable).with_name("linestop"))
"""The command that users type."""


class Separation(msgspec.Struct, frozen=True, kw_only=True):
    """How the roles are distributed: the arguments of each process."""

    name: str
    commands: tuple[tuple[str, ...], ...]


GATES: Final = ("validator", "approver", "budget", "recorder")
ONE: Final = Separation(name="one process", commands=(("up",),))
THREE: Final = Separation(
    name="three processes", commands=(("actor", "planner"), ("actor", "executor"), ("actor", *GATES))
)
SIX: Final = Separation(
    name="six processes", commands=tuple(("actor", role) for role in ("planner", "executor", *GATES))
)
SEPARATIONS: Final = (ONE, THREE, SIX)


class NotReady(Exception):
    """Raised when a process ended, or did not begin to serve in time."""


class LinestopProcess:
    """A running process of linestop; ``ready`` is what it printed when it began to serve."""

    def __init__(self, process: anyio.abc.Process, ready: dict[str, Any]) -> None:
        self._process = process
        self.ready = ready
        self.pid = process.pid

    def kill(self) -> None:
        """End it with SIGKILL; harmless if it has ended."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self, *, kill: bool = True) -> None:
        """End it, and wait for that; with ``kill`` false by the signal that lets it drain."""
        if self._process.returncode is None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
        with anyio.CancelScope(shield=True):
            await self._process.aclose()


async def start_process(
    args: Sequence[str], project: Path, directory: Path, *, instant: bool = True
) -> LinestopProcess:
    """Start a process that serves, and wait until it does; ``instant``: with the model and tool of the benchmarks.

    Raises:
        NotReady: it ended, or does not serve in time; the error has the end of its log.
    """
    program = [sys.executable, "-m", "bench.system.instant_process"] if instant else [LINESTOP]
    with tempfile.TemporaryFile() as log:
        process = await anyio.open_process(
            [*program, "--project", str(project), *args, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(directory, dict(os.environ)),
        )
        assert process.stdout is not None
        line = ""
        try:
            with anyio.fail_after(READY_WITHIN_S):
                async for text in TextReceiveStream(process.stdout):
                    line += text
                    if line.endswith("\n"):
                        return LinestopProcess(process, msgspec.json.decode(line))
        except BaseException:
            process.kill()
            raise
        await process.wait()
        log.seek(0)
        raise NotReady(f"linestop {' '.join(args)}: {log.read().decode(errors='replace')[-500:].strip()}")


async def run_command(args: Sequence[str], project: Path, directory: Path) -> bytes:
    """Run a command of linestop that ends; return what it printed.

    Raises:
        NotReady: it failed.
    """
    done = await anyio.run_process(
        [LINESTOP, "--project", str(project), *args], env=environment(directory, dict(os.environ)), check=False
    )
    if done.returncode:
        raise NotReady(f"linestop {' '.join(args)}: {done.stderr.decode(errors='replace')[-500:].strip()}")
    return done.stdout
