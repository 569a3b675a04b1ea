"""``docs/any-client.md`` is true: its program, in JavaScript and with no code of ours, works on the real thing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.stack import stack

from linestop.bus.after import Outcome
from linestop.schemas.messages import VERBS, Task

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "any-client.md"
PACKAGE = Path(__file__).with_name("any_client")
INSTALL_S = 120
RUN_S = 60
NO_NETWORK = re.compile("ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ENETUNREACH")


def absent(why: str) -> None:
    """Skip where a developer's machine lacks something; in CI nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def install(folder: Path) -> None:
    """Install the pinned packages into ``folder``; skip where there is no node or no network."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        absent("needs node and npm")
    assert npm is not None
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PACKAGE / name, folder / name)
    done = subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode and NO_NETWORK.search(done.stderr):
        absent("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr


def program() -> str:
    """The program of the page."""
    blocks = re.findall(r"```js\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1, "the page has one program"
    return str(blocks[0])


async def test_a_stranger_submits_watches_approves_and_stops_over_plain_nats(tmp_path: Path) -> None:
    """Two runs, one approved and one stopped, from JavaScript; both outcomes and every event arrive."""
    folder = tmp_path / "js"
    folder.mkdir()
    await anyio.to_thread.run_sync(install, folder)
    (folder / "program.mjs").write_text(program(), encoding="utf-8")
    async with stack(tmp_path / "state") as line:
        with anyio.fail_after(RUN_S):
            done = await anyio.run_process(
                ["node", "program.mjs", str(line.directory / "credentials")], cwd=folder, check=False
            )
        assert done.returncode == 0, done.stderr.decode()
        assert line.effects.paid == [5]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["opened"] == {"status": "opened", "run": "js-1"}
    assert found["live"] == found["stored"]
    assert found["live"][0] == "1 validator.opened"
    assert found["live"][-1].endswith("recorder.sealed")
    assert (found["paid"]["status"], found["paid"]["answer"]) == ("completed", 'Done: {"paid":5}')
    assert found["stopSaid"]["status"] == "done"
    assert (found["stopped"]["status"], found["stopped"]["why"]) == ("stopped", "changed my mind")


def test_the_page_names_every_field_of_a_task_and_of_an_outcome_and_every_verb() -> None:
    """A field that is added without a word on the page fails here."""
    text = PAGE.read_text(encoding="utf-8")
    fields = {field.name for kind in (Task, Outcome) for field in msgspec.structs.fields(kind)}
    missing = [name for name in sorted(fields | set(VERBS)) if f"`{name}`" not in text]
    assert missing == []


def test_no_lock_file_names_a_registry() -> None:
    """Where packages come from is the installation's own choice."""
    lock = json.loads((PACKAGE / "package-lock.json").read_text(encoding="utf-8"))
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
