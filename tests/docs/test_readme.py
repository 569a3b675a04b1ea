"""The README's example is run as a reader would: its files, its commands, its program, and its printed log."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.documents import ROOT, Block, blocks, section_blocks

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
README = ROOT / "README.md"
EXAMPLE = "Twenty lines"
READY_WITHIN_S = 60.0
COMMAND_WITHIN_S = 60.0
_FILE = re.compile(r"\A# ([\w/.]+)\n")
_EVENT = re.compile(r"#(\d+) +(\w+\.\w+)")


@dataclass(frozen=True)
class ReadmeFolder:
    """A folder with the example's files in which ``linestop dev`` runs."""

    folder: Path
    environ: Mapping[str, str]

    def shell(self, line: str) -> str:
        """Run a line as a reader types it; return what it printed, or fail with what it said."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line], cwd=self.folder, env=self.environ, capture_output=True, text=True,
            timeout=COMMAND_WITHIN_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


def files() -> dict[str, str]:
    """The example's files by name: the blocks that begin with a comment that is one."""
    found: dict[str, str] = {}
    for block in section_blocks(README, EXAMPLE):
        if name := _FILE.match(block.text):
            found[name[1]] = block.text
    return found


def shells() -> list[Block]:
    """The example's shell blocks, in order."""
    return [block for block in section_blocks(README, EXAMPLE) if block.language == "sh"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[ReadmeFolder]:
    """Write the files, start the first command of the first shell block, and wait until it says it is ready."""
    folder = tmp_path_factory.mktemp("example")
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    commands = tmp_path_factory.mktemp("bin")
    program = commands / "linestop"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m linestop.cli.main "$@"\n')
    program.chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LINESTOP_")}
    environ |= {
        "PATH": f"{commands}:{Path(sys.executable).parent}:{environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1",
    }  # fmt: skip
    first = shells()[0].text.split("#")[0].split()
    process = subprocess.Popen(first, cwd=folder, env=environ, stderr=subprocess.PIPE)
    try:
        wait_ready(process)
        yield ReadmeFolder(folder, environ)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=READY_WITHIN_S)


def wait_ready(process: subprocess.Popen[bytes]) -> None:
    """Read what it says until it is ready."""
    assert process.stderr is not None
    output = ""
    deadline = time.monotonic() + READY_WITHIN_S
    while "Ctrl-C ends it" not in output:
        readable, _, _ = select.select([process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        read = os.read(process.stderr.fileno(), 65_536) if readable else b""
        assert read, f"linestop dev did not get ready: {output}"
        output += read.decode()


def numbers_and_names(log: str) -> list[tuple[str, str]]:
    """What a printed log says happened: number and event, in order."""
    return _EVENT.findall(log)


def test_the_commands_do_what_the_readme_shows(place: ReadmeFolder) -> None:
    """Every line of the second shell block succeeds, and the log is the one that is printed."""
    before, log = "", ""
    for line in shells()[1].text.splitlines():
        if line.startswith("RUN="):
            run = place.shell(f"{line}\necho $RUN").strip()
            before = f"RUN={run}\n"
        elif "linestop approvals" in line:
            # A reader takes a moment to type; the run has asked by then.
            place.shell(f"{before}until [ \"$(linestop approvals --json)\" != '[]' ]; do :; done\n{line}")
        elif "linestop approve" in line:
            # There is no terminal to show the question on, so what was shown is named.
            asked = json.loads(place.shell("linestop approvals --json"))
            command, _, _ = line.partition("#")
            place.shell(f"{before}{command.rstrip()} --shown {asked[0]['shown']}")
        else:
            log = place.shell(before + line) if "linestop watch" in line else log
            place.shell(before + line)
    printed = next(block.text for block in section_blocks(README, EXAMPLE) if "validator.opened" in block.text)
    assert numbers_and_names(log) == numbers_and_names(printed)
    assert log.count("completed") == 1


def test_the_program_does_what_the_readme_shows(place: ReadmeFolder) -> None:
    """The Python program submits, approves and prints the answer; run again, it finds the same run answered."""
    for _ in range(2):
        assert "You get 4250 cents back." in place.shell("python handle.py")


def test_the_example_is_as_short_as_it_says() -> None:
    """Tool, agent file and program have at most twenty lines, comments, docstrings and blank lines apart."""
    shown = [files()[name] for name in ("tools.py", "agents/support.toml", "handle.py")]
    written = [re.sub(r'"""[^"]*"""', "", text) for text in shown]
    lines = [
        line for text in written for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(lines) <= 20


def test_every_python_block_of_the_readme_is_a_file_that_was_run() -> None:
    """No Python stands in the README that no test runs."""
    shown = {block.text for block in blocks(README) if block.language == "python"}
    assert shown <= set(files().values())


def test_the_demo_prints_the_stories_of_the_readme(tmp_path: Path) -> None:
    """``linestop demo`` ends as told, and its first story's log is the one the README prints."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LINESTOP_")}
    environ["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-m", "linestop.cli.main", "demo"], cwd=tmp_path, env=environ, capture_output=True, text=True,
        timeout=180, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed = section_blocks(README, "What a run looks like")[0].text
    events = re.compile(r"^ *(\d+) (\w+) +(\w+)", re.MULTILINE)
    first = done.stdout.partition("2 of 3")[0]
    assert events.findall(printed) == events.findall(first.partition("1 of 3")[2])
