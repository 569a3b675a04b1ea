"""The program that a ``kind="process"`` tool runs in; ``linestop.sandbox.tools.process_tool`` starts it by path.

It starts in isolated mode with an empty environment, so its import path comes with the call. Until then only the
standard library is available.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import inspect
import json
import os
import resource
import signal
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linestop.sandbox.tools.call_function import FunctionReply
    from linestop.sandbox.tools.context import Context

_PR_SET_PDEATHSIG = 1


def main(parent: int, result_pipe: int, liveness: int) -> None:
    """Read one call from standard input, perform it, write its reply to the descriptor ``result_pipe``."""
    die_with_parent(parent, liveness)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for descriptor in (result_pipe, liveness):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - takes no keyword
    frame = _read_frame()
    sys.path[:] = json.loads(frame)["sys_path"]

    import msgspec  # noqa: PLC0415 - only now known where from

    reply = msgspec.json.encode(_perform(frame))
    with os.fdopen(result_pipe, "wb") as stream:
        stream.write(struct.pack(">I", len(reply)) + reply)


def die_with_parent(parent: int, liveness: int) -> None:
    """Have this process and its group killed when ``parent`` dies, even by SIGKILL.

    ``liveness`` is a pipe that only the parent holds open: when its last descriptor is closed, the kernel signals
    the pipe's owner, which is the whole group, grandchildren included. PR_SET_PDEATHSIG comes earlier, namely when
    the thread that started this process ends. That signal must not simply kill this process: the pipe would have no
    owner any more, and the grandchildren would live on. So its handler kills the group.
    """
    if not sys.platform.startswith("linux"):
        return
    leader = os.getpid()

    def end_group(_number: int, _frame: object) -> None:
        if os.getpid() == leader:  # a fork of this process inherits the handler, but must not end the group
            os.killpg(leader, signal.SIGKILL)

    parent_died = signal.SIGRTMAX - 7
    signal.signal(parent_died, end_group)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, parent_died, 0, 0, 0)
    fcntl.fcntl(liveness, fcntl.F_SETOWN, -leader)
    fcntl.fcntl(liveness, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(liveness, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    if os.getppid() != parent:  # it died before the signal was requested
        os.killpg(leader, signal.SIGKILL)


def _read_frame() -> bytes:
    """Read the call, then detach from standard input, so that a tool that reads it gets nothing."""
    stream = sys.stdin.buffer
    (length,) = struct.unpack(">I", stream.read(4))
    frame = stream.read(length)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return frame


def _perform(encoded: bytes) -> FunctionReply:
    # Imported here because sys.path has only just been set; see the docstring of the module.
    import msgspec  # noqa: PLC0415

    from linestop.sandbox.tools.call_function import invoke_async, invoke_sync, message_of, not_begun, with_egress  # noqa: PLC0415
    from linestop.sandbox.tools.failures import ToolFailed  # noqa: PLC0415
    from linestop.sandbox.tools.process_tool import CallFrame  # noqa: PLC0415
    from linestop.sandbox.tools.registry import load_file, load_module  # noqa: PLC0415

    frame = msgspec.json.decode(encoded, type=CallFrame)
    try:
        tools = load_file(Path(frame.file)) if frame.file else load_module(frame.module)
        tool = tools[frame.tool]
        kwargs = tool.bind(bytes(frame.args))
    except BaseException as error:  # noqa: BLE001 - the tool's module may raise anything; its function was not called
        message = f"tool {frame.tool} cannot be loaded in its process: {message_of(error)}"
        return not_begun(ToolFailed(message, retry_safe=True))

    async def in_loop() -> FunctionReply:
        ctx = _context(frame.context)
        async with ctx.http:
            return with_egress(await invoke_async(tool, ctx, kwargs), ctx.http)

    if inspect.iscoroutinefunction(tool.fn):
        return asyncio.run(in_loop())
    return invoke_sync(tool, _context(frame.context), kwargs)


def _context(frame: Any) -> Context:  # noqa: ANN401 - a ContextFrame, whose module is imported late
    from linestop import clock  # noqa: PLC0415
    from linestop.sandbox.files.workspace import Workspace  # noqa: PLC0415
    from linestop.sandbox.http.egress_client import EgressClient  # noqa: PLC0415
    from linestop.sandbox.tools.context import Context  # noqa: PLC0415

    # The worker's clock may differ from the machine's; the steady clock is the same in both processes.
    clock.PROCESS_CLOCK.follow(datetime.fromisoformat(frame.now), frame.steady_s)
    start_by, deadline = (datetime.fromisoformat(text) for text in (frame.start_by, frame.deadline))
    return Context(
        tenant=frame.tenant,
        run=frame.run,
        call=frame.call,
        attempt=frame.attempt,
        key=frame.key,
        user=frame.user,
        start_by=start_by,
        deadline=deadline,
        workspace=Workspace(Path(frame.workspace), frame.workspace_limits),
        http=EgressClient(frame.egress, deadline=deadline, start_by=start_by),
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
