"""What ``dev`` says while it runs."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest
from tests.builders import at_work, call, reply
from tests.stack import stack

from linestop.bus.connection import connect
from linestop.cli.dev_lines import RunLines, describe, tell_of_changed_files
from linestop.client import Client
from linestop.project import load_project
from linestop.testing.virtual import run_virtual


def test_a_run_has_a_line_where_it_begins_waits_and_ends() -> None:
    """And none for all that lies between."""
    story = at_work(call("pay")).word("deny", call="pay", why="no").said().quiet().model(reply(text="done"))
    said = [describe(entry.event) for entry in story.run.entries if entry.event is not None]
    lines = [line for line in said if line]
    assert lines[0] == "opened: refund order 4711: pay 25 to ann@example.com"
    assert lines[1] == "waits for a person: pay (`linestop approvals`)"
    assert lines[2].startswith("completed (2 turns, $0.")
    assert len(lines) == 3


def test_a_changed_file_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits an agent or a tool learns that it is not used yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyio.to_thread.run_sync", _at_once)
    (tmp_path / "agents").mkdir()
    (tmp_path / "linestop.toml").write_text('tools = ["tools.py"]\n')
    (tmp_path / "tools.py").write_text("")
    prompt = tmp_path / "agents" / "desk.md"
    prompt.write_text("Be good.")
    said: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell_of_changed_files, load_project(), said.append)
            await anyio.sleep(3)
            assert said == []
            prompt.write_text("Be better.")
            os.utime(prompt, (1, 1))
            await anyio.sleep(4)
            (tmp_path / "tools.py").unlink()
            await anyio.sleep(4)
            tasks.cancel_scope.cancel()

    run_virtual(main, seed=1)
    assert [line.split(" ")[0] for line in said] == ["agents/desk.md", "tools.py"]
    assert "Ctrl-C" in said[0]


@pytest.mark.broker
@pytest.mark.anyio
async def test_a_run_of_before_a_restart_is_named_with_its_agent(tmp_path: Path) -> None:
    """Its beginning was heard by the process before, and stands in its log."""
    told = anyio.Event()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        told.set()

    async with stack(tmp_path) as line, Client.connect(tmp_path, as_="operator") as client:
        run = (await client.submit("desk", "hang")).run
        async with await connect(line.server.credential("watcher"), name="dev") as connection:
            await RunLines(say).listen(connection)
            await client.stop(run, why="enough")
            with anyio.fail_after(30):
                await told.wait()
    assert f"{run}  desk " in said[0]
    assert "stopped: enough" in said[0]


async def _at_once(work: object) -> object:
    assert callable(work)
    return work()
