"""Compose with the project's file, as people use it, on one engine, with images built here."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path
from typing import Any, Final

from tests.deploy.engine import Engine, run, until
from tests.deploy.images import LINESTOP_IMAGE, NATS_IMAGE, ROOT

PROJECT: Final = "linestop-test"
UP_TIMEOUT_S: Final = 150.0
COMMAND_TIMEOUT_S: Final = 60.0


def compose_program() -> Path:
    """The Compose program, which a wheel installs beside the tests."""
    program = Path(sysconfig.get_path("scripts")) / "docker-compose"
    assert program.exists(), f"{program} does not exist: run `make setup`"
    return program


def configuration(*files: str, **environ: str) -> dict[str, Any]:
    """The project's Compose files as Compose reads them, with every profile, defaults and ``environ``."""
    command: list[str | Path] = [compose_program(), "--env-file", os.devnull, "--profile", "*"]
    for file in ("docker-compose.yml", *files):
        command += ["-f", ROOT / file]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environ}
    text = run([*command, "config", "--format", "json"], environ=environment, timeout_s=COMMAND_TIMEOUT_S)
    parsed: dict[str, Any] = json.loads(text)
    return parsed


class Stack:
    """The services of the project's file, running in ``engine``."""

    def __init__(self, engine: Engine, *, port: int) -> None:
        self.port = port
        self._environ = {
            **{name: value for name, value in engine.environ.items() if not name.startswith("LINESTOP_")},
            "LINESTOP_IMAGE": LINESTOP_IMAGE,
            "NATS_IMAGE": NATS_IMAGE,
            "NATS_PORT": str(port),
            "LINESTOP_HEALTH_INTERVAL": "5s",
        }

    def compose(self, *words: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command of Compose; return its output."""
        command: list[str | Path] = [compose_program(), "--env-file", os.devnull, "--progress", "quiet"]
        command += ["-f", ROOT / "docker-compose.yml", "-p", PROJECT]
        return run([*command, *words], environ=self._environ, timeout_s=timeout_s)

    def up(self, *words: str) -> None:
        """Start all services and wait until they are healthy."""
        self.compose("up", "-d", "--no-build", "--pull", "never", "--wait", *words, timeout_s=UP_TIMEOUT_S)

    def linestop(self, *words: str) -> Any:
        """Run a command of linestop in the service ``cli``; return the JSON it prints, a list for several lines."""
        text = self.compose("run", "--rm", "-T", "cli", *words, "--json")
        lines = [json.loads(line) for line in text.splitlines() if line]
        return lines[0] if len(lines) == 1 else lines

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        return self.compose("ps", "-q", service).split()

    def wait_for_status(self, run_id: str, status: str, *, within_s: float) -> None:
        """Wait until the run has this status."""

        def holds() -> bool:
            return any(line["run"] == run_id and line["status"] == status for line in self.linestop("runs"))

        until(f"{run_id} is {status}", holds, within_s=within_s)
