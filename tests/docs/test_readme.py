"""The example of README and first steps is run as a reader would: files, commands, program, and printed logs."""

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
from tests.documents import ROOT, blocks, section_blocks

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
README = ROOT / "README.md"
FIRST_STEPS = ROOT / "docs" / "first-steps.md"
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
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


def files() -> dict[str, str]:
    """The example's files by name: the blocks of both pages that begin with a comment that is one."""
    found: dict[str, str] = {}
    for block in [*section_blocks(README, EXAMPLE), *blocks(FIRST_STEPS)]:
        if name := _FILE.match(block.text):
            found[name[1]] = block.text
    return found


def start_command() -> list[str]:
    """The command that starts the example: the first shell block of the README's section."""
    return next(block.text for block in section_blocks(README, EXAMPLE) if block.language == "sh").split()


def commands_by_hand(page: Path) -> list[str]:
    """The lines of the shell block of a page that submits the example's task."""
    return next(block.text for block in blocks(page) if block.text.startswith("RUN=")).splitlines()


def is_subsequence(part: list[tuple[str, ...]], whole: list[tuple[str, ...]]) -> bool:
    """Whether all of ``part`` stands in ``whole``, in the same order."""
    rest = iter(whole)
    return all(item in rest for item in part)


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
        "PYTHONPATH": str(ROOT / "src"),
        "NO_COLOR": "1",
    }
    process = subprocess.Popen(start_command(), cwd=folder, env=environ, stderr=subprocess.PIPE)
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


def numbers_and_names(log: str) -> list[tuple[str, ...]]:
    """The events of a printed log: number and name, in order."""
    return _EVENT.findall(log)


def printed_by_watch(page: Path) -> list[tuple[str, ...]]:
    """The events of the block in which a page shows what ``linestop watch`` prints."""
    return numbers_and_names(next(block.text for block in blocks(page) if "validator.opened" in block.text))


def run_by_hand(place: ReadmeFolder, lines: list[str]) -> str:
    """Run the commands of a page one by one and return what ``linestop watch`` printed."""
    before, log = "", ""
    for line in lines:
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
    return log


def test_the_commands_do_what_the_first_steps_show(place: ReadmeFolder) -> None:
    """Every line succeeds, and the log is the one that is printed."""
    log = run_by_hand(place, commands_by_hand(FIRST_STEPS))
    assert numbers_and_names(log) == printed_by_watch(FIRST_STEPS)
    assert log.count("completed") == 1


def test_the_commands_do_what_the_readme_shows(place: ReadmeFolder) -> None:
    """Every line succeeds, and the events that are printed happen in that order, the first and the last among them."""
    happened, printed = numbers_and_names(run_by_hand(place, commands_by_hand(README))), printed_by_watch(README)
    assert is_subsequence(printed, happened)
    assert (printed[0], printed[-1]) == (happened[0], happened[-1])


def test_the_program_does_what_the_readme_shows(place: ReadmeFolder) -> None:
    """The Python program submits, approves and prints the answer; run again, it finds the same run answered."""
    for _ in range(2):
        assert "You get 4250 cents back." in place.shell("python handle.py")


def test_the_example_is_as_short_as_it_says() -> None:
    """The files of the README have at most twenty lines, comments, docstrings and blank lines apart."""
    shown = [block.text for block in section_blocks(README, EXAMPLE) if _FILE.match(block.text)]
    written = [re.sub(r'"""[^"]*"""', "", text) for text in shown]
    lines = [
        line for text in written for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(lines) <= 20


def test_every_python_block_of_the_two_pages_is_a_file_that_was_run() -> None:
    """No Python stands there that no test runs."""
    shown = {block.text for page in (README, FIRST_STEPS) for block in blocks(page) if block.language == "python"}
    assert shown <= set(files().values())


def test_the_demo_prints_the_story_of_the_two_pages(tmp_path: Path) -> None:
    """The first story's log is the one that the first steps print whole and the README in part."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LINESTOP_")}
    environ["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-m", "linestop.cli.main", "demo"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    story = re.compile(r"^ *(\d+) (\w+) +(\w+)", re.MULTILINE)
    happened = story.findall(done.stdout.partition("1 of 3")[2].partition("2 of 3")[0])
    assert story.findall(section_blocks(FIRST_STEPS, "A whole run")[0].text) == happened
    printed = story.findall(
        next(block.text for block in section_blocks(README, "Two commands") if "kill" in block.text)
    )
    assert printed
    assert is_subsequence(printed, happened)
