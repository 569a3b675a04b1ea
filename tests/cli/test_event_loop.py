"""No exit that a tool leaves behind in the event loop ends the process."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys, threading
import anyio
from linestop.cli.serving.until_signal import run_process

def leave(error):
    raise error

async def left_behind(error):
    raise error

async def work(stop_requested):
    del stop_requested
    loop = asyncio.get_running_loop()
    for error in (SystemExit(3), KeyboardInterrupt()):
        tasks = [loop.create_task(left_behind(error)), asyncio.ensure_future(left_behind(error))]
        loop.call_soon(leave, error)
        loop.call_later(0, leave, error)
        done = loop.create_future()
        done.add_done_callback(lambda _: leave(error))
        done.set_result(None)
        thread = threading.Thread(target=lambda: (loop.call_soon_threadsafe(leave, error), sys.exit(4)))
        thread.start()
        while not all(task.done() for task in tasks) or thread.is_alive():
            await anyio.sleep(0)
        await anyio.sleep(0)
        await anyio.sleep(0)
    print("lived")

run_process(work)
print("ended")
"""


def test_an_exit_that_a_tool_leaves_behind_does_not_end_the_process() -> None:
    """Of a task, a callback, a timer, a thread."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, ["lived", "ended"]), ended.stderr
    assert "a tool left behind raised" in ended.stderr
