"""A private Docker engine for the tests, independent of any other: started, used and ended by its id."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

READY_WITHIN_S: Final = 30.0
END_WITHIN_S: Final = 20.0
POLL_S: Final = 0.1
PROGRAMS: Final = ("docker", "dockerd", "containerd", "runc", "iptables")


class EngineMissing(Exception):
    """Raised when no Docker engine can be started here, with the reason."""


class Engine:
    """Runs ``docker`` against one engine."""

    def __init__(self, socket: Path) -> None:
        self.environ = {
            **os.environ,
            "DOCKER_HOST": f"unix://{socket}",
            # The engine's own builder: Debian's client does not include the newer one.
            "DOCKER_BUILDKIT": "0",
        }

    def docker(self, *words: str, timeout_s: float = 60.0) -> str:
        """Run a command of the client; return its output."""
        return run(["docker", *words], environ=self.environ, timeout_s=timeout_s)

    def inspect(self, container: str) -> dict[str, Any]:
        """Everything the engine knows about one container."""
        details: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return details


def run(command: Sequence[str | Path], *, environ: dict[str, str], timeout_s: float, cwd: Path | None = None) -> str:
    """Run a program to its end; return its standard output, or fail with all output."""
    done = subprocess.run(
        list(command), env=environ, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def until(description: str, condition: Callable[[], bool], *, within_s: float) -> None:
    """Poll until the condition holds, or fail with its description."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {description}"
        time.sleep(POLL_S)


@contextmanager
def private_engine() -> Generator[Engine]:
    """Start an engine with its own folders, socket and addresses; end it and all its containers.

    Raises:
        EngineMissing: if there is no engine, or it does not start.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if sys.platform != "linux" or os.geteuid() != 0 or missing:
        raise EngineMissing(f"A Docker engine needs Linux, root and {', '.join(missing or PROGRAMS)}.")
    # Not in the test's folder: the path of a socket may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="linestop-dockerd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        socket, log = folder / "docker.sock", folder / "dockerd.log"
        config = folder / "daemon.json"
        config.write_text(json.dumps(_configuration(folder, socket)))
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["dockerd", "--config-file", str(config)], stdout=out, stderr=out, start_new_session=True
            )
        engine = Engine(socket)
        try:
            if not _is_ready(engine, process):
                raise EngineMissing(f"dockerd does not start here: {log.read_text()[-1000:]}")
            yield engine
        finally:
            _end(engine, process)


def _configuration(folder: Path, socket: Path) -> dict[str, Any]:
    return {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "pid"),
        "hosts": [f"unix://{socket}"],
        # Only for the networks of these containers; nothing outside this machine is ever addressed.
        "bridge": "none",
        "default-address-pools": [{"base": "172.31.240.0/20", "size": 24}],
    }


def _is_ready(engine: Engine, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run(["docker", "version"], env=engine.environ, capture_output=True, check=False)
        if done.returncode == 0:
            return True
        time.sleep(POLL_S)
    return False


def _end(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        containers = subprocess.run(
            ["docker", "ps", "-aq"], env=engine.environ, capture_output=True, text=True, check=False
        )
        if ids := containers.stdout.split():
            # Otherwise the engine would leave the containers to their shims, and their mounts in its folder.
            subprocess.run(["docker", "rm", "-fv", *ids], env=engine.environ, capture_output=True, check=False)
        subprocess.run(["docker", "network", "prune", "-f"], env=engine.environ, capture_output=True, check=False)
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
