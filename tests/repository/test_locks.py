"""The locks, installed for real with the oldest and the newest pip that a user may have."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLDEST_PIP = {(3, 11): "22.3", (3, 12): "23.2.1", (3, 13): "24.2"}
"""The pip in the first release of each supported Python (CPython's `Lib/ensurepip` at the tags v3.x.0)."""

INSTALL_TIMEOUT_S = 280.0


def test_the_oldest_pip_of_every_supported_python_is_known() -> None:
    """Each supported Python has the pip of its first release; the test below uses the row of its own interpreter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    supported = {(3, int(c.removeprefix(prefix))) for c in project["classifiers"] if c.startswith(prefix)}
    assert supported == set(OLDEST_PIP)
    assert sys.version_info[:2] in supported


@pytest.mark.parametrize("pip", ["oldest", "newest"])
def test_both_locks_are_complete_for_every_supported_pip(pip: str, tmp_path: Path) -> None:
    """A lock that leaves out an extra (`coverage` for `coverage[toml]`) installs with the newest pip alone."""
    venv.create(tmp_path / "venv", with_pip=True)
    command = [str(tmp_path / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    pip_version = f"pip=={OLDEST_PIP[sys.version_info[:2]]}" if pip == "oldest" else "pip"
    subprocess.run([*command, "--upgrade", pip_version], check=True, timeout=INSTALL_TIMEOUT_S)
    for lock in ("requirements.lock", "requirements-dev.lock"):
        done = subprocess.run(
            [*command, "--require-hashes", "-r", str(ROOT / lock)],
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
