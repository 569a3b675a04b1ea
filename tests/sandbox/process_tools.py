"""Tools that run in a child process; the tests load them from this file."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec

from linestop.sandbox.tools.decorator import Context, ToolFailed, ToolUnknown, tool


class About(msgspec.Struct):
    """What the child knows of itself."""

    env: dict[str, str]
    group_leader: bool
    parent: int
    cwd: str
    stdin: str
    key: str


@tool(tier="read", kind="process", timeout_s=30)
def about(ctx: Context, n: Annotated[int, msgspec.Meta(ge=1)]) -> About:
    """Tell what the process was given.

    Args:
        ctx: The attempt.
        n: Any positive number.
    """
    assert n >= 1
    stdin = sys.stdin.read()
    leader = os.getpgrp() == os.getpid()
    return About(dict(os.environ), leader, os.getppid(), str(Path.cwd()), stdin, ctx.key)


def _forge() -> str:
    sys.stdout.write('{"value":"forged"}' * 100)
    sys.stdout.flush()
    os.write(2, b"\x00\x00\x00\x05[1,2]")
    return "real"


def _flood() -> str:
    for _ in range(64):
        os.write(1, b"x" * 1_048_576)
    return "done"


def _orphan() -> str:
    """Leave the result pipe to a grandchild that outlives this process."""
    if os.fork() == 0:
        signal_wait()
    os._exit(0)


def _fork() -> str:
    if os.fork() == 0:
        signal_wait()
    return "parent"


def _raise(error: BaseException) -> str:
    raise error


BEHAVIORS: dict[str, Callable[[], object]] = {
    "forge": _forge,
    "flood": _flood,
    "orphan": _orphan,
    "fork": _fork,
    "die": lambda: os.kill(os.getpid(), 9),
    "exit": lambda: os._exit(7),
    "sysexit": lambda: sys.exit("leaving"),
    "fail": lambda: _raise(ToolFailed("no such order", type="invalid", retry_safe=True)),
    "unknown": lambda: _raise(ToolUnknown("the line went dead")),
}


@tool(tier="irreversible", kind="process", timeout_s=30)
def misbehave(ctx: Context, how: str) -> str:
    """Misbehave in a chosen way."""
    ctx.workspace.write("pids", str(os.getpid()).encode())
    return str(BEHAVIORS[how]())


@tool(tier="irreversible", kind="process", timeout_s=30, price_micros=5)
def nested(ctx: Context, levels: int) -> Any:
    """Return a list in a list, that many deep."""
    del ctx
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def signal_wait() -> None:
    """Wait without end, holding all descriptors."""
    signal.pause()


@tool(tier="reversible", kind="process", timeout_s=30)
def hang(ctx: Context, grandchild: bool = False) -> None:
    """Write the ids of this process and perhaps a child's into the workspace, then hang."""
    pids = [os.getpid()]
    if grandchild:
        pids.append(subprocess.Popen(["/bin/sleep", "1000"]).pid)
    ctx.workspace.write("pids", " ".join(map(str, pids)).encode())
    signal_wait()


@tool(tier="irreversible", kind="process", timeout_s=30)
async def fetch(ctx: Context, url: str) -> str:
    """Fetch a URL from the child, through the guard."""
    return (await ctx.http.post(url, json={"key": ctx.key})).text
