"""Commands whose output is read by a program that leaves: they end silently, at once, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stack import Stack, command

from linestop.cli.output.closed_pipes import is_closed_pipe

ENDS_WITHIN_S = 60
"""Far more than any needs; a command that does not notice the closed pipe would never end."""


def read_one_line(folder: Path, *args: str, stderr_too: bool = False, state: Path | None = None) -> tuple[int, str]:
    """Read a command's first line like `head -1`; return its exit code and its stderr."""
    environment = {**os.environ, "TMPDIR": str(folder), **({"LINESTOP_DIR": str(state)} if state else {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", *args],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stderr_too else subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        process.stdout.close()
        error_text = process.stderr.read() if process.stderr else ""
        return process.wait(ENDS_WITHIN_S), error_text
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.mark.broker
@pytest.mark.parametrize("args", [("watch",), ("events", "--follow")])
def test_a_following_command_ends_when_its_reader_is_gone(system: Stack, tmp_path: Path, args: tuple[str, ...]) -> None:
    """Also while nothing happens: the run waits for a person."""
    run = command(system.directory, "run", "desk", "pay 5", "--json").json["questions"][0]["run"]
    code, error_text = read_one_line(tmp_path, *args, run, state=system.directory)
    assert (code, "Traceback" in error_text, "linestop:" in error_text) == (0, False, False), error_text


@pytest.mark.broker
def test_a_run_continues_when_the_reader_of_its_progress_is_gone(system: Stack, tmp_path: Path) -> None:
    """The command ends; the run was given to the actors."""
    code, _ = read_one_line(tmp_path, "run", "desk", "hang", "--key", "unread", stderr_too=True, state=system.directory)
    assert code == 0
    assert command(system.directory, "runs", "--open", "--json").json[0]["text"] == "hang"


@pytest.mark.broker
@pytest.mark.parametrize("args", [("demo",), ("demo", "--json")])
def test_a_demo_whose_reader_is_gone_ends_silently_and_cleans_up(tmp_path: Path, args: tuple[str, ...]) -> None:
    """No traceback, no process, no folder."""
    assert read_one_line(tmp_path, *args, stderr_too=args == ("demo",))[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.broker
def test_dev_shuts_down_in_order_when_its_reader_is_gone(tmp_path: Path) -> None:
    """Its broker ends with it, so that the next `dev` can start."""
    assert read_one_line(tmp_path, "dev", "--port", "0", stderr_too=True)[0] == 0
    assert not list(tmp_path.glob("*crash*"))
    assert not list((tmp_path / ".linestop").glob("crash*"))


def test_a_group_of_errors_is_a_closed_pipe_only_if_all_of_them_are() -> None:
    """A defect beside it is not swallowed."""
    closed = BrokenPipeError()
    assert is_closed_pipe(ExceptionGroup("", [closed, ExceptionGroup("", [closed])]))
    assert not is_closed_pipe(ExceptionGroup("", [closed, ValueError("a defect")]))
