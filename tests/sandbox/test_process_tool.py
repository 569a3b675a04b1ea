"""Tools in child processes: a clean start, no forged result, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from linestop.sandbox.tools.perform_call import perform
from linestop.sandbox.tools.registry import load_file

if TYPE_CHECKING:
    from tests.sandbox.conftest import MakeContext, Servers

    from linestop.sandbox.tools.context import Context
    from linestop.sandbox.tools.decorator import AnyTool
    from linestop.schemas.tool_contracts import ToolResult

pytestmark = pytest.mark.anyio

PROCESS_TOOLS = load_file(Path(__file__).with_name("process_tools.py"))


async def run(made: AnyTool, ctx: Context, args: bytes, scope: anyio.CancelScope | None = None) -> ToolResult:
    """Perform and close the client."""
    async with ctx.http:
        return await perform(made, ctx, args, scope=scope)


def message(result: ToolResult) -> str:
    """The sentence of the error."""
    assert result.error is not None
    return result.error.message


async def test_a_child_gets_a_clean_start(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the parent, no input, its own group, the workspace as its directory."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-for-you")
    ctx = make_context()
    result = await run(PROCESS_TOOLS["about"], ctx, b'{"n":1}')
    assert result.outcome == "succeeded", result
    about = result.value
    assert set(about["env"]) <= {"PATH", "LANG", "LC_CTYPE"}
    assert about["group_leader"] is True
    assert about["parent"] == os.getpid()
    assert about["cwd"] == str(ctx.workspace.root)
    assert about["stdin"] == ""
    assert about["key"] == ctx.key


@pytest.mark.parametrize(
    ("how", "outcome", "text"),
    [
        ("forge", "succeeded", "real"),
        ("flood", "succeeded", "done"),
        ("fork", "succeeded", "parent"),
        ("die", "unknown", "was killed by signal 9 without a result"),
        ("exit", "unknown", "ended with exit code 7 without a result"),
        ("orphan", "unknown", "ended with exit code 0 without a result"),
        ("sysexit", "unknown", "raised SystemExit: leaving"),
        ("fail", "failed", "no such order"),
        ("unknown", "unknown", "the line went dead"),
    ],
)
async def test_a_child_that_misbehaves_is_contained(
    make_context: MakeContext, how: str, outcome: str, text: str
) -> None:
    """Its output is data, a death without a result gives none, and no process is left."""
    ctx = make_context()
    open_before = _descriptors()
    result = await run(PROCESS_TOOLS["misbehave"], ctx, msgspec.json.encode({"how": how}))
    assert result.outcome == outcome, result
    assert (result.value if outcome == "succeeded" else message(result)).endswith(text)
    (group,) = await _pids(ctx)
    with anyio.fail_after(20):
        while _group_lives(group) or _descriptors() > open_before:  # noqa: ASYNC110 - the end of a group sends no signal
            await asyncio.sleep(0.01)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def _gone(pid: int) -> None:
    with anyio.fail_after(20):
        while _alive(pid):  # noqa: ASYNC110 - nor does the death of a stranger
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _pids(ctx: Context) -> list[int]:
    """The ids that the hanging tool writes, as soon as they are there."""
    path = ctx.workspace.root / "pids"
    with anyio.fail_after(20):
        while not path.exists():  # noqa: ASYNC110 - written by another process
            await asyncio.sleep(0.01)
    return [int(word) for word in path.read_bytes().split()]


@pytest.mark.parametrize("way", ["stop", "cancel"])
async def test_an_interrupted_child_dies_with_its_children(make_context: MakeContext, way: str) -> None:
    """The whole process group is killed, however the call ends."""
    ctx = make_context()
    scope = anyio.CancelScope()
    task = asyncio.create_task(run(PROCESS_TOOLS["hang"], ctx, b'{"grandchild":true}', scope=scope))
    child, grandchild = await _pids(ctx)
    assert _alive(grandchild)
    if way == "stop":
        scope.cancel()
        assert (await task).outcome == "unknown"
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not _alive(child)
    await _gone(grandchild)


PARENT = """
import asyncio, datetime, sys
from pathlib import Path
from linestop.sandbox.tools.context import Context
from linestop.sandbox.http.egress_client import EgressClient, EgressPolicy
from linestop.sandbox.tools.perform_call import perform
from linestop.sandbox.tools.registry import load_file
from linestop.sandbox.files.workspace import Workspace

tool = load_file(Path(sys.argv[1]))["hang"]
soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)
http = EgressClient(EgressPolicy(), deadline=soon)
ctx = Context(tenant="t", run="r", call="c", attempt=1, key="k", user="u", start_by=soon, deadline=soon,
              workspace=Workspace(Path(sys.argv[2])), http=http)
asyncio.run(perform(tool, ctx, b'{"grandchild":true}'))
"""


async def test_a_child_dies_with_a_killed_parent(make_context: MakeContext) -> None:
    """A kill -9 of the runtime leaves neither the child nor the grandchild."""
    ctx = make_context()
    tools = Path(__file__).with_name("process_tools.py")
    command = [sys.executable, "-c", PARENT, str(tools), str(ctx.workspace.root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=environment) as parent:  # noqa: ASYNC220 - it is killed like a stranger
        try:
            child, grandchild = await _pids(ctx)
            assert _alive(child)
            assert _alive(grandchild)
        finally:
            parent.send_signal(signal.SIGKILL)
    await _gone(child)
    await _gone(grandchild)


async def test_a_child_sends_through_the_guard_and_reports_it(make_context: MakeContext, servers: Servers) -> None:
    """Its requests are in the result, refused ones included, and count for its outcome."""
    server = await servers.start({"/": servers.response(b"thanks"), "/gone": servers.response(b"", "200 OK")})
    fetch = PROCESS_TOOLS["fetch"]
    result = await run(fetch, make_context((server.netloc,)), msgspec.json.encode({"url": server.url()}))
    assert (result.outcome, result.value) == ("succeeded", "thanks")
    assert [(egress.host, egress.method, egress.status) for egress in result.egress] == [(server.netloc, "POST", 200)]
    assert server.requests[0].body == msgspec.json.encode({"key": "k" * 64})
    refused = await run(fetch, make_context(), msgspec.json.encode({"url": server.url()}))
    assert refused.outcome == "unknown"
    assert [egress.status for egress in refused.egress] == [0]
