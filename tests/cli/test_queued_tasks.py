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
