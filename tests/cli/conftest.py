"""A clean environment, and the program as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Linestop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests says anything, and none that a command sets outlives its test."""
    for name in ("PROJECT", "PROFILE", "DIR", "NATS", "TENANT", "SYNC"):
        # Set first, so that the variable is put back (or away) whatever the command does to it.
        monkeypatch.setenv(f"LINESTOP_{name}", "")
        monkeypatch.delenv(f"LINESTOP_{name}")


@pytest.fixture
def linestop() -> Linestop:
    """Run ``linestop`` as a process in a folder."""

    def run(folder: Path, *args: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "linestop.cli.main", *args],
            cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False, env=dict(os.environ),
        )  # fmt: skip

    return run
