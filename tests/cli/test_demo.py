"""``linestop demo``: it checks itself, so its exit code is its test; what it shows is looked at besides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from linestop.cli.demo.stories import Untold, require

pytestmark = [pytest.mark.broker, pytest.mark.e2e]


def test_the_demo_ends_as_told(tmp_path: Path, linestop: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """All three stories, on real parts, in a folder where nothing is."""
    done = linestop(tmp_path, "demo", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    # Long sentences are wrapped, so line ends count as spaces.
    shown = " ".join(done.stdout.split())
    for words in (
        "approver   asked      refunds.create needs a person (tier:irreversible)",
        "so the demo approves by itself",
        "kill -9 of the executor",
        "refunds.create #1 by executor#1",
        "refunds.create #2 by executor#2",
        "shop counts 1 effect",
        "validator  stopped    loop, by validator",
        "operator   stopped    person, by the-demo: Wrong letter!",
        'letters.send {"batch":3}: unknown',
        "All three stories ended as told",
        "What to try next:",
    ):
        assert " ".join(words.split()) in shown, words
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Closing the terminal, or a supervisor, ends it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "linestop.cli.main", "demo"],
        cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        assert any("ready after" in line for line in process.stdout)
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_a_story_that_ends_otherwise_is_an_error() -> None:
    """A demo that only prints could print anything."""
    require(True, "this holds")  # noqa: FBT003 - the thing that is checked
    with pytest.raises(Untold, match="this is not so: it was paid once"):
        require(False, "it was paid once")  # noqa: FBT003 - as above
