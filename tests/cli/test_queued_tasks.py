"""Commands about a task that the broker has stored and no validator has opened yet."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import anyio
import pytest
from anyio.to_thread import run_sync
from nats.aio.msg import Msg
from tests.stack import CommandResult, Stack, command, stack

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

WITHIN_S = 20.0


async def run_command(system: Stack, *args: str) -> CommandResult:
    """Run one command in a thread, beside the system."""
    return await run_sync(lambda: command(system.directory, *args))


@pytest.mark.parametrize("key", ["", "order-10"])
async def test_an_interrupted_run_names_the_task_that_is_still_queued(tmp_path: Path, key: str) -> None:
    """Ctrl-C before a validator opens the task: its id, how to follow it, and how to stop it, which then works."""
    sent = anyio.Event()

    async def on_task(_message: Msg) -> None:
        sent.set()

    async with stack(tmp_path, actors=False) as system, system.server.administrator() as administrator:
        await administrator.subscribe("tasks.>", on_task)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "linestop.cli.main", "run", "desk", "say hello", "--key", key),
            env={**os.environ, "LINESTOP_DIR": str(tmp_path)},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            with anyio.fail_after(WITHIN_S):
                await sent.wait()
                process.send_signal(signal.SIGINT)
                printed = " ".join((await process.communicate())[1].decode().split())
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert process.returncode == 130
        assert "begin later: `linestop watch " in printed
        run = printed.partition("`linestop watch ")[2].partition("`")[0]
        assert f"`linestop stop {run} --beforehand` stops it, whether it has begun or not." in printed
        assert (await run_command(system, "stop", run, "--beforehand")).code == 0
        async with system.actors():
            watched = await run_command(system, "watch", run)
    assert (watched.code, "opened" in watched.out) == (4, False)


async def test_a_stop_of_the_last_run_does_not_pass_for_one_of_the_queued_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``last`` is an older run that has ended: the answer names it, and how to stop the queued task; exit code 1."""
    async with stack(tmp_path, actors=False) as system:
        async with system.actors():
            older = (await run_command(system, "run", "desk", "say hello", "--json")).json["run"]
        monkeypatch.setattr("linestop.client.client.REPLY_WAIT_S", 0.1)
        queued = (await run_command(system, "run", "desk", "say hello", "--detach")).out.strip()
        last = await run_command(system, "stop", "last")
        assert (last.code, last.out) == (1, "")
        printed = " ".join(last.err.split())
        assert f"Nothing was stopped: `last` is {older}, the newest run that has begun" in printed
        assert "A task that is still queued is stopped by its id: `linestop stop ID --beforehand`." in printed
        for verb in ("show", "stop"):
            absent = await run_command(system, verb, queued)
            assert (absent.code, absent.out) == (1, "")
            assert "A task of that id may still be queued" in " ".join(absent.err.split())
            assert "`--beforehand`" in absent.err


async def test_a_stop_of_the_last_run_says_which_run_that_is(tmp_path: Path) -> None:
    """It is open and is stopped; a task that is still queued is not."""
    async with stack(tmp_path) as system:
        run = (await run_command(system, "run", "desk", "hang", "--detach")).out.strip()
        stopped = await run_command(system, "stop", "last")
    assert (stopped.code, stopped.out.startswith(f"{run} is stopped: event ")) == (0, True)
    assert "`last` is the newest run that has begun" in " ".join(stopped.err.split())
