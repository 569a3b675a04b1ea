"""A clean environment, the whole system in this process, and the program as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from tests.stack import Stack, background_stack

Linestop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of the shell that runs the tests, and those that a command sets, after its test."""
    for name in ("PROJECT", "PROFILE", "DIR", "NATS", "TENANT", "SYNC"):
        # Set first, so that the variable is restored or removed after any change by the command.
        monkeypatch.setenv(f"LINESTOP_{name}", "")
        monkeypatch.delenv(f"LINESTOP_{name}")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """The whole system, running in another thread."""
    with background_stack(tmp_path_factory.mktemp("line")) as running:
        yield running


@pytest.fixture
def linestop() -> Linestop:
    """Run ``linestop`` as a process in a folder."""

    def run(folder: Path, *args: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "linestop.cli.main", *args],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=dict(os.environ),
        )

    return run
