"""Perform a tool in a child process that can be killed.

The child is a new interpreter, not a fork of this process: it inherits no memory, no descriptors and no
environment but PATH and LANG, so it holds no secret of this process. It leads its own process group,
and the whole group is killed when the call ends, however it ends. Its result comes over a separate pipe:
its output is data, logged and bounded, and cannot be taken for a result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import struct
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from subprocess import PIPE, STDOUT

import anyio
import anyio.abc
import msgspec

from linestop import clock
from linestop.sandbox.files.workspace import WorkspaceLimits
from linestop.sandbox.http.egress_guard import EgressPolicy
from linestop.sandbox.tools.call_function import FunctionReply
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool
from linestop.sandbox.tools.failures import ToolFailed
from linestop.schemas.defaults import BLOB_BYTES_MAX, TOOL_OUTPUT_BYTES_MAX
from linestop.schemas.tool_contracts import ToolError

FILE_MODULE_PREFIX = "linestop_tools_"
"""Modules that the registry loads from a file carry this prefix: they cannot be imported by name."""

_REPLY_BYTES_MAX = BLOB_BYTES_MAX + 1024 * 1024
_CHILD_PROGRAM = str(Path(__file__).with_name("child_process.py"))
_log = logging.getLogger("linestop.tools")


class ContextFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A ``Context`` in the form that is sent to the child."""

    tenant: str
    run: str
    call: str
    attempt: int
    key: str
    user: str
    start_by: str
    deadline: str
    now: str = ""
    steady_s: float = 0.0
    workspace: str
    workspace_limits: WorkspaceLimits
    egress: EgressPolicy


class CallFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The only message to a child. ``sys_path`` comes first: without it the child cannot import the rest."""

    sys_path: list[str]
    module: str
    file: str
    tool: str
    args: msgspec.Raw
    context: ContextFrame


async def run_in_process(tool: AnyTool, ctx: Context, args: bytes) -> FunctionReply:
    """Perform ``tool`` in a child process. Its whole process group is killed on the way out, also after an error."""
    frame = msgspec.json.encode(_frame(tool, ctx, args))
    data, status = b"", 0
    async with _child(ctx) as (process, results):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_drain, process, tool.name)
            tasks.start_soon(_kill_when_done, process)
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                assert process.stdin is not None
                await process.stdin.send(struct.pack(">I", len(frame)) + frame)
                await process.stdin.aclose()
            data = await _read_frame(results)
            tasks.cancel_scope.cancel()
        _kill_group(process.pid)
        with anyio.CancelScope(shield=True):
            status = await process.wait()
    try:
        return msgspec.json.decode(data, type=FunctionReply)
    except msgspec.DecodeError:
        ending = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
        message = f"the process of tool {tool.name} {ending} without a result"
        return FunctionReply(error=ToolError(type="transient", message=message), unknown=True, cut_off=True)


@contextlib.asynccontextmanager
async def _child(ctx: Context) -> AsyncGenerator[tuple[anyio.abc.Process, int], None]:
    """Start the child and yield it with the descriptor of its result pipe."""
    with contextlib.ExitStack() as descriptors:
        (results, result_end), (liveness_end, liveness) = _pipes()
        for descriptor in (results, liveness):
            descriptors.callback(os.close, descriptor)
        os.set_blocking(results, False)
        try:
            process = await anyio.open_process(
                [sys.executable, "-I", "-B", _CHILD_PROGRAM, str(os.getpid()), str(result_end), str(liveness_end)],
                stdin=PIPE,
                stdout=PIPE,
                stderr=STDOUT,
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                cwd=ctx.workspace.root,
                start_new_session=True,
                pass_fds=(result_end, liveness_end),
            )
        except OSError as error:
            raise _not_started(error) from None
        finally:
            os.close(result_end)
            os.close(liveness_end)
        try:
            yield process, results
        finally:
            _kill_group(process.pid)
            with anyio.CancelScope(shield=True):
                await process.wait()
                await process.aclose()


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    try:
        first = os.pipe()
        try:
            return first, os.pipe()
        except OSError:
            for descriptor in first:
                os.close(descriptor)
            raise
    except OSError as error:
        raise _not_started(error) from None


def _not_started(error: OSError) -> ToolFailed:
    message = f"the process of a tool could not be started ({error.strerror}); try again later"
    return ToolFailed(message, type="transient", retry_safe=True)


def _frame(tool: AnyTool, ctx: Context, args: bytes) -> CallFrame:
    module = tool.fn.__module__
    is_loaded_by_file = module == "__main__" or module.startswith(FILE_MODULE_PREFIX)
    now, steady_s = clock.PROCESS_CLOCK.reading()
    return CallFrame(
        sys_path=[str(Path(path).absolute()) for path in sys.path],
        module="" if is_loaded_by_file else module,
        file=str(Path(tool.fn.__code__.co_filename).absolute()) if is_loaded_by_file else "",
        tool=tool.name,
        args=msgspec.Raw(args),
        context=ContextFrame(
            tenant=ctx.tenant,
            run=ctx.run,
            call=ctx.call,
            attempt=ctx.attempt,
            key=ctx.key,
            user=ctx.user,
            start_by=ctx.start_by.isoformat(),
            deadline=ctx.deadline.isoformat(),
            now=now.isoformat(),
            steady_s=steady_s,
            workspace=str(ctx.workspace.root),
            workspace_limits=ctx.workspace.limits,
            egress=ctx.http.policy,
        ),
    )


async def _read_frame(descriptor: int) -> bytes:
    """Read one length-prefixed frame; empty if the child closed its end before it was complete."""
    data = b""
    chunks: list[bytes] = []
    bytes_left = struct.calcsize(">I")
    for part in ("length", "frame"):
        chunks.clear()
        while bytes_left > 0:
            await anyio.wait_readable(descriptor)
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(descriptor, min(bytes_left, 1 << 20))
                if not chunk:
                    return b""
                chunks.append(chunk)
                bytes_left -= len(chunk)
        data = b"".join(chunks)
        if part == "length":
            bytes_left = struct.unpack(">I", data)[0]
            if bytes_left > _REPLY_BYTES_MAX:
                return b""
    return data


async def _drain(process: anyio.abc.Process, name: str) -> None:
    bytes_read = 0
    assert process.stdout is not None
    async for chunk in process.stdout:
        if bytes_read < TOOL_OUTPUT_BYTES_MAX:
            shown = chunk[: TOOL_OUTPUT_BYTES_MAX - bytes_read]
            _log.debug("output of tool %s: %s", name, ascii(shown.decode("utf-8", "replace")))
        bytes_read += len(chunk)


async def _kill_when_done(process: anyio.abc.Process) -> None:
    """Kill the group once the child has ended: a grandchild may hold the result pipe open, without a result to send."""
    await process.wait()
    _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
