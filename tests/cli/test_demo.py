"""``linestop demo``: it checks itself, so its exit code is the test; its output is checked, too."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from linestop.cli.demo import screen
from linestop.cli.demo.stories import StoryFailed, require

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.broker, pytest.mark.e2e]


def test_the_demo_ends_as_announced(tmp_path: Path, linestop: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """All three stories, on real parts, in a folder where nothing is."""
    done = linestop(tmp_path, "demo", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    # Long sentences are wrapped, so line ends count as spaces.
    shown = " ".join(done.stdout.split())
    for words in (
        "approver   asked      refunds.create needs a person (tier:irreversible)",
        "so the demo approves",
        "kill -9 of the executor",
        "refunds.create #1 by executor#1",
        "refunds.create #2 by executor#2",
        "shop counts 1 effect",
        "validator  stopped    loop, by validator",
        "operator   stopped    person, by the-demo: Wrong letter!",
        'letters.send {"batch":3}: unknown',
        "All three stories ended as expected",
        "What to try next:",
    ):
        assert " ".join(words.split()) in shown, words
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_demo_is_the_demo(tmp_path: Path) -> None:
    """The README's first command, in an environment that is already installed."""
    binaries = Path(sys.executable).parent
    done = subprocess.run(
        ["make", "--no-print-directory", f"BIN={binaries}", f"VENV={tmp_path}", "-o", f"{tmp_path}/.runtime", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All three stories ended as expected, in " in done.stdout


def test_a_program_reads_the_demo_line_by_line(
    tmp_path: Path, linestop: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """With ``--json``: every event and the result of each story on stdout; text for people on stderr."""
    done = linestop(tmp_path, "demo", "--json", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for story in (1, 2, 3):
        story_lines = [line for line in lines if line.get("story") == story]
        assert list(story_lines[0]) == ["story", "title"]
        assert list(story_lines[-1]) == ["story", "result"]
        assert [line["n"] for line in story_lines[1:-1]] == list(range(1, len(story_lines) - 1))
        assert story_lines[-2]["event"] == "sealed"
    assert lines[-1]["stories"] == 3
    assert lines[-1]["seconds"] > 0
    assert "kill -9 of the executor" in done.stderr


@contextmanager
def at_a_terminal(folder: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The demo in a terminal, and that terminal."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "demo"],
        cwd=folder,
        env={**os.environ, "TERM": "xterm"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    try:
        yield process, terminal
    finally:
        os.close(terminal)
        process.kill()
        process.wait()


def text_shown(terminal: int, *, until: str = "") -> str:
    """The text on the terminal, without colours and line ends: all of it, or up to some words."""
    data = b""
    while not until or until.encode() not in data:
        try:
            more = os.read(terminal, 65_536)
        except OSError:
            # The other end is closed: the demo has ended.
            break
        data += more
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", data.decode()).split())


@pytest.mark.parametrize(
    ("answer", "sentences", "never"),
    [
        (
            b"y\n",
            ("granted refunds.create, by", "kill -9 of the executor", "2 requests, and the shop counts 1"),
            "You denied",
        ),
        (b"n\n", ("denied refunds.create, by", "You denied it, and nothing was refunded"), "kill -9"),
    ],
)
def test_the_person_at_the_terminal_decides_in_the_demo(
    tmp_path: Path, answer: bytes, sentences: tuple[str, ...], never: str
) -> None:
    """The refund is paid only if they approve; the other stories run either way."""
    with at_a_terminal(tmp_path) as (process, terminal):
        assert "Pay this refund?" in text_shown(terminal, until="[Y/n]")
        os.write(terminal, answer)
        shown = text_shown(terminal)
        assert process.wait(timeout=30) == 0, shown
    for words in (*sentences, "All three stories ended as expected"):
        assert words in shown
    assert never not in shown
    assert "by the-demo" not in shown.split("2 of 3")[0]


def test_no_input_is_not_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo continues by itself after a while without an answer."""
    terminal, inside = pty.openpty()
    monkeypatch.setattr(screen, "ASK_WITHIN_S", 0.05)
    with os.fdopen(terminal, "wb"), os.fdopen(inside) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        asked = screen.Screen(Console(file=io.StringIO(), force_terminal=True))
        assert asked.interactive
        assert anyio.run(asked.ask, "Anybody?") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Closing the terminal, or a supervisor, ends it as Ctrl-C does."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "linestop.cli.main", "demo"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
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
    with pytest.raises(StoryFailed, match="this does not hold: it was paid once"):
        require(False, "it was paid once")  # noqa: FBT003 - as above
