"""``docs/any-client.md`` is true: its program, which uses no code of linestop, works on the example of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import anyio
import msgspec
import pytest

from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.schemas.messages import Task, Verb

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "any-client.md"
EXAMPLE = ROOT / "examples" / "any-client"
PACKAGE = Path(__file__).with_name("any_client")
INSTALL_S = 120
RUN_S = 60
READY_S = 60
NO_NETWORK = re.compile("ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ENETUNREACH")


def skip_or_fail(why: str) -> None:
    """Skip on a developer's machine that lacks a dependency; fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def install(folder: Path) -> None:
    """Install the pinned packages into ``folder``; skip where there is no node or no network."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        skip_or_fail("needs node and npm")
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
        skip_or_fail("the package registry cannot be reached")
    assert done.returncode == 0, done.stderr


def program() -> str:
    """The program of the page."""
    blocks = re.findall(r"```js\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1, "the page has one program"
    return str(blocks[0])


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[None]:
    """``linestop dev`` in ``folder``; entered when it is ready."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LINESTOP_")}
    environ |= {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "linestop.cli.main", "dev", "--port", "0", "--json"]
    async with await anyio.open_process(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(READY_S):
                assert await process.stdout.receive()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(READY_S, shield=True):
                await process.wait()


async def test_a_plain_nats_client_submits_watches_approves_and_stops(tmp_path: Path) -> None:
    """A JavaScript program approves one run and stops another, and can be run a second time."""
    folder = tmp_path / "desk"
    shutil.copytree(EXAMPLE, folder)
    await anyio.to_thread.run_sync(install, folder)
    (folder / "client.mjs").write_text(program(), encoding="utf-8")
    async with running(folder):
        for _ in range(2):
            with anyio.fail_after(RUN_S):
                command = ["node", "client.mjs", ".linestop/credentials"]
                done = await anyio.run_process(command, cwd=folder, check=False)
            assert done.returncode == 0, done.stderr.decode()
            check(json.loads(done.stdout))


def check(printed: dict[str, Any]) -> None:
    """Both outcomes and every event arrived."""
    assert printed["opened"] == {"status": "opened", "run": printed["paid"]["run"]}
    assert printed["live"] == printed["stored"]
    assert printed["live"][0] == "1 validator.opened"
    assert printed["live"][-1].endswith("recorder.sealed")
    assert (printed["paid"]["status"], printed["paid"]["answer"]) == ("completed", 'Done: {"paid":5}')
    assert printed["stopReply"]["status"] == "done"
    assert (printed["stopped"]["status"], printed["stopped"]["why"]) == ("stopped", "changed my mind")


def test_the_page_names_every_field_of_a_task_and_of_an_outcome_and_every_verb() -> None:
    """A new field that the page does not name fails here."""
    text = PAGE.read_text(encoding="utf-8")
    fields = {field.encode_name for kind in (Task, Outcome) for field in msgspec.structs.fields(kind)}
    missing = [name for name in sorted(fields | set(get_args(Verb))) if f"`{name}`" not in text]
    assert missing == []


def test_no_lock_file_names_a_registry() -> None:
    """The installation decides where packages come from."""
    lock = json.loads((PACKAGE / "package-lock.json").read_text(encoding="utf-8"))
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
