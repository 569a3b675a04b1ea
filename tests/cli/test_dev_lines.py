"""The lines that ``dev`` prints while it runs."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from tests.builders import CONTRACTS, Story, agent, at_work, call, contract, reply
from tests.stack import stack

from linestop.bus.connection import connect
from linestop.cli.serving.dev_lines import RunLines, describe, report_changed_files
from linestop.client import Client
from linestop.config.project_file import load_project
from linestop.schemas.events import Asked, Refused
from linestop.schemas.subjects import parse_run_event
from linestop.testing.virtual_time import run_virtual


def test_a_run_gets_a_line_when_it_begins_waits_and_ends() -> None:
    """And none for all that lies between."""
    story = (
        at_work(call("pay"))
        .send_control("deny", call="pay", why="no")
        .append_decided()
        .run_until_idle()
        .finish_model(reply(text="done"))
    )
    descriptions = [describe(entry.event) for entry in story.run.entries if entry.event is not None]
    lines = [line for line in descriptions if line]
    assert lines[0] == "opened: refund order 4711: pay 25 to ann@example.com"
    assert lines[1] == "waits for a person: pay (`linestop approvals`)"
    assert lines[2].startswith("completed (2 turns, $0.")
    assert len(lines) == 3


def test_a_changed_file_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who edits an agent or a tool learns that the change is not used yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyio.to_thread.run_sync", _run_inline)
    (tmp_path / "agents").mkdir()
    (tmp_path / "linestop.toml").write_text('tools = ["tools.py"]\n')
    (tmp_path / "tools.py").write_text("")
    prompt = tmp_path / "agents" / "desk.md"
    prompt.write_text("Be good.")
    written: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_changed_files, load_project(), written.append)
            await anyio.sleep(3)
            assert written == []
            prompt.write_text("Be better.")
            os.utime(prompt, (1, 1))
            await anyio.sleep(4)
            (tmp_path / "tools.py").unlink()
            await anyio.sleep(4)
            tasks.cancel_scope.cancel()

    run_virtual(main, seed=1)
    assert [line.split(" ")[0] for line in written] == ["agents/desk.md", "tools.py"]
    assert "Ctrl-C" in written[0]


def test_what_was_imported_from_the_folder_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planner function's file and its imports; a module that is imported later counts only once it changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyio.to_thread.run_sync", _run_inline)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "linestop.toml").write_text("")
    for name, text in [("its_planner", "import its_helper\n"), ("its_helper", ""), ("its_late", ""), ("not_used", "")]:
        (tmp_path / f"{name}.py").write_text(text)
    importlib.import_module("its_planner")
    lines: list[str] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report_changed_files, load_project(), lines.append)
            await anyio.sleep(3)
            importlib.import_module("its_late")
            os.utime(tmp_path / "not_used.py", (1, 1))
            await anyio.sleep(4)
            assert lines == []
            for name in ("its_helper", "its_planner", "its_late"):
                os.utime(tmp_path / f"{name}.py", (1, 1))
                await anyio.sleep(4)
            tasks.cancel_scope.cancel()

    try:
        run_virtual(main, seed=1)
    finally:
        for name in ("its_planner", "its_helper", "its_late"):
            sys.modules.pop(name, None)
    assert [line.split(" ")[0] for line in lines] == ["its_helper.py", "its_planner.py", "its_late.py"]


def test_a_refused_task_has_one_line() -> None:
    """The end of the run adds nothing to the refusal."""
    story = Story()
    story.given(Refused(code="no_agent", sentence="There is none.", agent="desk")).run_until_idle()
    lines = [describe(entry.event) for entry in story.run.entries if entry.event is not None]
    assert [line for line in lines if line] == ["refused: There is none."]
    assert "recorder.sealed" in story.event_names()


@pytest.mark.parametrize(("tool", "sentence"), [("wait.for_event", "waits for the event 'paid'"), ("ask.person", "")])
@pytest.mark.anyio
async def test_a_run_that_waits_for_an_event_is_not_reported_to_wait_for_a_person(tool: str, sentence: str) -> None:
    """The line names the event and the command that reports it."""
    waits = contract("wait.for_event", kind="wait", parameters={"type": "object", "properties": {"name": {}}})
    args = '{"name":"paid"}' if tool == "wait.for_event" else '{"question":"paid"}'
    story = at_work(call(tool, args), version=agent(tools=(*CONTRACTS, waits)))

    class Stored:
        async def load(self, tenant: str, run: str) -> list[Any]:
            del tenant, run
            return [SimpleNamespace(subject=s, payload=p, seq=n) for s, p, n in story.messages]

    lines, message = RunLines(print), story.messages[-1]
    lines._log = Stored()  # type: ignore[assignment] # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    subject = parse_run_event(message[0])
    line = await lines._waits_for_event(subject, story.last(Asked))  # pyright: ignore[reportPrivateUsage]
    assert line == (f"{sentence} (`linestop event {subject.run} paid` reports it)" if sentence else "")


@pytest.mark.broker
@pytest.mark.anyio
async def test_a_run_older_than_the_restart_is_named_with_its_agent(tmp_path: Path) -> None:
    """Its beginning was heard by the process before, and stands in its log."""
    line_written = anyio.Event()
    written: list[str] = []

    def write_line(text: str) -> None:
        written.append(text)
        line_written.set()

    async with stack(tmp_path) as system, Client.connect(tmp_path, as_="operator") as client:
        run = (await client.submit("desk", "hang")).run
        async with await connect(system.server.credential("watcher"), name="dev") as connection:
            await RunLines(write_line).listen(connection)
            await client.stop(run, why="enough")
            with anyio.fail_after(30):
                await line_written.wait()
    assert f"{run}  desk " in written[0]
    assert "stopped: enough" in written[0]


async def _run_inline(work: object) -> object:
    assert callable(work)
    return work()
