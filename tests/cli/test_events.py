"""``events`` and ``watch`` against a running system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.stack import Stack, cli

from linestop.bus.server.embedded import EmbeddedServer
from linestop.cli import broker_client
from linestop.cli.output import printing
from linestop.client import Client

pytestmark = pytest.mark.broker


def test_events_prints_one_line_an_event_and_all_data_as_json_lines(system: Stack) -> None:
    """Both forms show the same events; ``--after`` begins later."""
    run = cli(system, "run", "desk", "look", "--json").json["run"]
    text = cli(system, "events", run)
    lines = cli(system, "events", run, "--json").lines
    assert text.code == 0
    assert len(text.out.splitlines()) == len(lines)
    assert [each["n"] for each in lines] == list(range(1, len(lines) + 1))
    assert lines[0]["data"]["task"]["text"] == "look"
    assert "prev" in lines[1]["data"]
    later = cli(system, "events", run, "--json", "--after", "3").lines
    assert later == lines[3:]


def test_events_follows_a_run_until_it_is_sealed(system: Stack) -> None:
    """With ``--follow`` the command ends with the run; without, a run that is not there is an error."""
    run = cli(system, "run", "desk", "say hello", "--detach").out.strip()
    assert cli(system, "events", run, "--follow", "--json").lines[-1]["event"] == "sealed"
    missing_run = cli(system, "events", "unborn")
    assert (missing_run.code, missing_run.out) == (1, "")


def test_watch_shows_the_question_and_ends_with_the_runs_own_exit_code(system: Stack) -> None:
    """A watcher sees the questions on stderr, the log on stdout."""
    run = cli(system, "run", "desk", "pay 5", "--json").json["run"]
    cli(system, "stop", run, "--why", "enough")
    watched = cli(system, "watch", run)
    assert watched.code == 4
    assert "operator.stopped" in watched.out
    assert watched.out.splitlines()[-1].endswith("recorder.sealed      stopped: enough")
    assert cli(system, "watch", run, "--json").lines[-1]["data"]["status"] == "stopped"


@pytest.mark.anyio
async def test_events_says_when_the_broker_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence would look like a run in which nothing happens."""
    noted = anyio.Event()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        noted.set()

    monkeypatch.setattr(broker_client, "CONNECTION_POLL_S", 0.01)
    monkeypatch.setattr(printing, "note", note)
    async with (
        EmbeddedServer(tmp_path) as server,
        Client.connect(tmp_path) as client,
        broker_client.note_lost_connection(client),
    ):
        await server.stop()
        with anyio.fail_after(10):
            await noted.wait()
    assert notes == ["The broker does not answer; waiting for it."]


def test_watch_says_that_it_waits_for_a_run_that_does_not_exist(system: Stack) -> None:
    """A misspelt id must not look like a run in which nothing happens."""
    watching = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "watch", "unborn-yet", "--dir", str(system.directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stderr is not None
    with watching:
        first_line = watching.stderr.readline()
        assert "There is no run 'unborn-yet' of tenant 'default' yet; waiting for its first event." in first_line
        assert cli(system, "stop", "unborn-yet", "--why", "enough", "--beforehand").code == 0
        shown, _ = watching.communicate(timeout=60)
    assert watching.returncode == 4
    assert "operator.stopped" in shown
