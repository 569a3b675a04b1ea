"""Completion in the shell: runs, agents and roles; quick, silent, and empty if no broker answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stack import Stack

from linestop import SyncClient
from linestop.bus.access.credentials import Credential, write_credential

pytestmark = pytest.mark.broker
WITHIN_S = 60.0
PROGRAM_WITH_LONG_WAIT = """
import sys
from linestop.cli import completion, main
sys.argv, completion.TIMEOUT_S = ["linestop"], {}
main.main()
"""
"""The command line as the shell asks it, with time enough on a busy machine."""


def complete(folder: Path, directory: Path, words: str, *, within_s: float = 30.0) -> list[str]:
    """The completions that bash gets for the last of ``words``."""
    environ = {
        **os.environ,
        "_LINESTOP_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "LINESTOP_DIR": str(directory),
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_WITH_LONG_WAIT.format(within_s)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_runs_and_agents_are_completed(system: Stack, tmp_path: Path) -> None:
    """Newest first, those that begin with the typed text, for every command that takes one."""
    with SyncClient.connect(system.directory) as client:
        for name in ("order-1", "order-2", "ticket-1"):
            client.execute("desk", "say hello", run=name, timeout_s=WITHIN_S)
    assert complete(tmp_path, system.directory, "linestop show order") == ["order-2", "order-1"]
    assert complete(tmp_path, system.directory, "linestop stop ") == ["ticket-1", "order-2", "order-1", "last"]
    assert complete(tmp_path, system.directory, "linestop run d") == ["desk"]
    assert complete(tmp_path, system.directory, "linestop stop --agent ") == ["desk"]
    assert complete(tmp_path, system.directory, "linestop show --tenant nobody order") == []


def test_files_and_options_are_completed_without_a_broker(tmp_path: Path) -> None:
    """Roles, and the agents that a project has in files."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "support.toml").write_text('model = "playbook/x"')
    assert complete(tmp_path, tmp_path / "none", "linestop actor v") == ["validator"]
    assert complete(tmp_path, tmp_path / "none", "linestop actor validator a") == ["approver"]
    assert complete(tmp_path, tmp_path / "none", "linestop deploy ") == ["support"]


@pytest.mark.parametrize("what", ["no state folder", "nobody listens", "nobody answers", "no project file"])
def test_completion_is_empty_and_silent_without_a_broker(what: str, tmp_path: Path) -> None:
    """No traceback reaches the prompt, and a completion does not wait for a broker."""
    directory = tmp_path / "state"
    if what == "no project file":
        (tmp_path / "linestop.toml").write_text("this is [no TOML")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if what.startswith("nobody"):
            port = silent.getsockname()[1]
            (directory / "credentials").mkdir(parents=True)
            credential = Credential(url=f"nats://127.0.0.1:{port}", user="client", password="x")
            write_credential(directory / "credentials" / "client.json", credential)
        if what == "nobody listens":
            silent.close()
        assert complete(tmp_path, directory, "linestop show order", within_s=0.7) == []
