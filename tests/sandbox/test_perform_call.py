"""Performing calls: results, and the errors of calls without a result."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

import anyio
import msgspec
import pytest

from linestop.errors import Defect
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool, tool
from linestop.sandbox.tools.failures import ToolFailed, ToolUnknown
from linestop.sandbox.tools.perform_call import PerformLimits, perform
from linestop.schemas.defaults import BLOB_BYTES_MAX, TOOL_THREADS_MAX
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.tool_contracts import ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sandbox.conftest import MakeContext, Servers

pytestmark = pytest.mark.anyio


def declared(fn: Callable[..., Any], **options: Any) -> AnyTool:
    """The tool t that the decorator creates from ``fn``."""
    decorator = cast("Callable[..., Callable[..., AnyTool]]", tool)
    return decorator(**{"name": "t", "tier": "irreversible", **options})(fn)


async def run(made: AnyTool, ctx: Context, args: bytes = b"{}", **more: Any) -> ToolResult:
    """Perform and close the client."""
    async with ctx.http:
        return await perform(made, ctx, args, **more)


def message(result: ToolResult) -> str:
    """The sentence of the error."""
    assert result.error is not None
    return result.error.message


async def test_a_result_comes_back_as_json(make_context: MakeContext) -> None:
    """Every value is checked against the declared type, for both kinds of tools that run in this process."""

    async def wait(ctx: Context, n: int) -> dict[str, list[int]]:
        """Text."""
        await asyncio.sleep(0)
        return {ctx.key: [n]}

    def work(ctx: Context, n: int) -> dict[str, list[int]]:
        """Text."""
        assert threading.current_thread() is not threading.main_thread()
        return {ctx.key: [n]}

    for fn in (wait, work):
        result = await run(declared(fn), make_context(), b'{"n":3}')
        assert result == ToolResult(outcome="succeeded", value={"k" * 64: [3]})


async def _raises(ctx: Context, error: str) -> int:  # noqa: ARG001 - a tool takes one
    """Text."""
    errors: dict[str, BaseException] = {
        "transient": ToolFailed("busy", type="transient", retry_safe=True),
        "rate": ToolFailed("slow down", type="rate_limit", retry_safe=True, retry_after_s=9),
        "bug": ZeroDivisionError("division by zero"),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
        "long": ValueError("x" * 9_000),
        "secret": ValueError("login hunter2hunter2 failed for sk-" + "ant-api03-" + "a1" * 20),
        "unknown": ToolUnknown("the line went dead"),
    }
    raise errors[error]


@pytest.mark.parametrize(
    ("error", "outcome", "kind", "text"),
    [
        ("transient", "failed", "transient", "busy"),
        ("rate", "failed", "rate_limit", "slow down"),
        ("bug", "unknown", "permanent", "tool t raised ZeroDivisionError: division by zero"),
        ("exit", "unknown", "permanent", "tool t raised SystemExit: 3"),
        ("cancelled", "unknown", "permanent", "tool t raised CancelledError: "),
        ("secret", "unknown", "permanent", "[redacted:secret] failed for [redacted:anthropic_key]"),
        ("unknown", "unknown", "transient", "the line went dead"),
    ],
)
async def test_an_exception_of_a_tool_becomes_an_error(
    make_context: MakeContext, error: str, outcome: str, kind: str, text: str
) -> None:
    """Never a traceback or a secret; a ``ToolFailed`` is believed, and a bug leaves the effect open."""
    limits = PerformLimits(redactor=Redactor(["hunter2hunter2"]))
    args = msgspec.json.encode({"error": error})
    result = await run(declared(_raises), make_context(), args, limits=limits)
    assert result.outcome == outcome
    assert result.error is not None
    assert result.error.type == kind
    assert result.error.message.endswith(text)
    assert "Traceback" not in result.error.message
    assert result.error.retry_safe is (error in {"transient", "rate"})
    assert result.error.retry_after_s == (9 if error == "rate" else None)


async def _ends_itself(ctx: Context, how: str) -> int:
    """Text."""
    del ctx
    task = asyncio.current_task()
    assert task is not None
    if how == "later":
        asyncio.get_running_loop().call_later(0, task.cancel)
    else:
        task.cancel()
    await asyncio.Event().wait()
    return 1


@pytest.mark.parametrize("how", ["now", "later"])
async def test_a_tool_that_cancels_its_task_cancels_itself_alone(make_context: MakeContext, how: str) -> None:
    """The outcome of the call is unknown; its performer and the rest of the process continue."""
    args = msgspec.json.encode({"how": how})
    with anyio.fail_after(5):
        result = await run(declared(_ends_itself), make_context(), args)
    assert result.outcome == "unknown"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_message_is_short(make_context: MakeContext) -> None:
    """A model does not have to read a dump."""
    assert len(message(await run(declared(_raises), make_context(), b'{"error":"long"}'))) == 500


async def test_unknown_is_failed_where_repeating_is_safe(make_context: MakeContext) -> None:
    """No person is needed for a call that can simply be repeated."""
    result = await run(declared(_raises, idempotent=True), make_context(), b'{"error":"unknown"}')
    assert result.outcome == "failed"
    assert result.error is not None
    assert (result.error.type, result.error.retry_safe) == ("transient", True)


async def _returns(ctx: Context, what: str) -> dict[str, int]:
    """Text."""
    values: dict[str, Any] = {
        "type": {"a": "one"},
        "nan": {"a": float("nan")},
        "object": object(),
        "large": {"a" * (BLOB_BYTES_MAX + 1): 1},
        "coroutine": asyncio.sleep(0) if what == "coroutine" else None,
        "none": None,
    }
    assert ctx
    return cast("dict[str, int]", values[what])


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("type", "does not fit the declared return type: Expected `int`, got `str`"),
        ("nan", "does not fit the declared return type"),
        ("none", "does not fit the declared return type"),
        ("object", "cannot be written as JSON"),
        ("large", f"at most {BLOB_BYTES_MAX}: return less"),
        ("coroutine", "declare it with async def"),
    ],
)
async def test_a_result_of_a_read_that_does_not_fit_is_a_clear_failure(
    make_context: MakeContext, what: str, text: str
) -> None:
    """Permanent, naming the tool, before anything depends on the result."""
    result = await run(declared(_returns, tier="read"), make_context(), msgspec.json.encode({"what": what}))
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.type == "permanent"
    assert message(result).startswith("tool t: its result") or message(result).startswith("tool t: it returned")
    assert text in message(result)


async def test_secrets_in_a_result_are_removed(make_context: MakeContext) -> None:
    """Values for the log and the prompt pass the redactor."""

    async def leak(ctx: Context) -> dict[str, str]:
        """Text."""
        return {"env": f"{ctx.user} hunter2hunter2"}

    limits = PerformLimits(redactor=Redactor(["hunter2hunter2"]))
    assert (await run(declared(leak), make_context(), limits=limits)).value == {"env": "ann [redacted:secret]"}


async def test_arguments_that_do_not_fit_never_reach_the_tool(make_context: MakeContext) -> None:
    """The model can correct the failure."""
    result = await run(declared(_raises), make_context(), b'{"error":1}')
    assert result.error is not None
    assert (result.outcome, result.error.type, result.error.retry_safe) == ("failed", "invalid", True)


async def test_a_call_past_its_start_by_is_not_begun(make_context: MakeContext) -> None:
    """Under every contract nothing happened, and the call may be started again."""
    calls: list[str] = []

    async def note(ctx: Context) -> None:
        """Text."""
        calls.append(ctx.call)

    for options in ({}, {"idempotent": True}):
        result = await run(declared(note, **options), make_context(start_in_s=-0.001))
        assert (result.outcome, result.begun, message(result)[:31]) == (
            "never_started",
            False,
            "the call missed its start_by an",
        )
        assert result.error is not None
        assert (result.error.type, result.error.retry_safe) == ("transient", True)
    assert calls == []


async def test_a_wait_is_not_performed_here(make_context: MakeContext) -> None:
    """The log carries out waits; sending one to the sandbox is a defect."""

    async def sleep(ctx: Context) -> None:
        """Text."""
        assert ctx

    made = declared(sleep)
    made.contract = msgspec.structs.replace(made.contract, kind="wait")
    with pytest.raises(Defect, match="is a wait: the run loop performs it"):
        await run(made, make_context())


async def _forever(ctx: Context) -> None:
    """Text."""
    try:
        await asyncio.Event().wait()
    finally:
        ctx.workspace.write("cancelled", b"")


@pytest.mark.parametrize(
    ("options", "outcome", "retry_safe"),
    [({}, "unknown", False), ({"idempotent": True}, "failed", True), ({"tier": "read"}, "failed", True)],
)
@pytest.mark.parametrize("way", ["timeout", "deadline", "stop"])
async def test_an_interrupted_call_is_unknown_unless_it_is_safe(
    make_context: MakeContext, options: dict[str, Any], outcome: str, retry_safe: bool, way: str
) -> None:
    """By a timeout, the deadline of the run or a stop: the tool is cancelled, and the result reports what is known."""
    ctx = make_context(deadline_in_s=0.05 if way == "deadline" else 30)
    made = declared(_forever, timeout_s=0.05 if way == "timeout" else 20, **options)
    scope = anyio.CancelScope()
    if way == "stop":
        asyncio.get_running_loop().call_later(0.02, scope.cancel)
    result = await run(made, ctx, scope=scope)
    assert (result.outcome, result.error and result.error.retry_safe) == (outcome, retry_safe)
    assert ("was stopped" if way == "stop" else "did not end within") in message(result)
    assert ctx.workspace.read("cancelled") == b""


async def test_a_call_that_was_stopped_before_it_began_did_nothing(make_context: MakeContext) -> None:
    """Even where interrupting would leave it unknown."""
    scope = anyio.CancelScope()
    scope.cancel()
    ctx = make_context()
    result = await run(declared(_forever), ctx, scope=scope)
    assert (result.outcome, result.begun) == ("never_started", False)
    assert result.error is not None
    assert result.error.retry_safe is True
    assert ctx.workspace.list() == ()


async def test_cancelling_the_caller_cancels_the_tool(make_context: MakeContext) -> None:
    """Without a scope the cancellation passes through to the caller."""
    ctx = make_context()
    task = asyncio.create_task(run(declared(_forever, timeout_s=20), ctx))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ctx.workspace.read("cancelled") == b""


async def test_a_thread_is_abandoned_at_once(make_context: MakeContext) -> None:
    """Its outcome is unknown unless repeating is safe; the thread continues, and its late result is dropped."""
    release, ended = threading.Event(), threading.Event()

    def block(ctx: Context) -> str:
        """Text."""
        release.wait(20)
        ended.set()
        return ctx.run

    for options, outcome in (({}, "unknown"), ({"idempotent": True}, "failed")):
        scope = anyio.CancelScope()
        asyncio.get_running_loop().call_later(0.02, scope.cancel)
        result = await run(declared(block, timeout_s=20, **options), make_context(), scope=scope)
        assert result.outcome == outcome
        assert "its thread cannot be cancelled" in message(result)
        assert not ended.is_set()
    release.set()
    await asyncio.to_thread(ended.wait, 20)
    assert ended.is_set()


async def test_the_number_of_hung_threads_is_bounded(make_context: MakeContext) -> None:
    """Beyond the limit a call is not begun; once threads return, calls begin again."""
    release = threading.Event()

    def block(ctx: Context) -> str:
        """Text."""
        release.wait(20)
        return ctx.run

    made = declared(block, timeout_s=20)
    hung = [asyncio.create_task(run(made, make_context())) for _ in range(TOOL_THREADS_MAX)]
    await asyncio.sleep(0)
    result = await run(made, make_context())
    assert f"all {TOOL_THREADS_MAX} tool threads are busy" in message(result)
    assert result.error is not None
    assert (result.outcome, result.begun, result.error.retry_safe) == ("never_started", False, True)
    release.set()
    assert {task.outcome for task in await asyncio.gather(*hung)} == {"succeeded"}
    assert (await run(made, make_context())).outcome == "succeeded"


async def _post(ctx: Context, url: str, then: str = "") -> str:
    """Text."""
    answer = await ctx.http.post(url, json={"n": 1}, headers={"Idempotency-Key": ctx.key})
    if then == "crash":
        raise RuntimeError("a bug after the effect")
    if then == "fail":
        raise ToolFailed("the shop said no", type="permanent")
    if then == "unfit":
        return cast("str", 1)
    return answer.text


@pytest.mark.parametrize(
    ("path", "then", "outcome"),
    [
        ("/", "", "succeeded"),
        ("/", "crash", "unknown"),
        ("/", "unfit", "succeeded"),
        ("/", "fail", "failed"),
        ("/gone", "", "unknown"),
        ("/denied", "", "unknown"),
    ],
)
async def test_a_call_that_failed_after_sending_is_unknown(
    make_context: MakeContext, servers: Servers, path: str, then: str, outcome: str
) -> None:
    """The outcome "failed" would invite the model to repeat it; only a ``ToolFailed`` of the tool denies the effect."""

    async def hang_up(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await servers.start({"/": servers.response(b"ok"), "/gone": hang_up})
    url = "http://10.0.0.1/" if path == "/denied" else server.url(path)
    args = msgspec.json.encode({"url": url, "then": then})
    result = await run(declared(_post), make_context((server.netloc,)), args)
    assert result.outcome == outcome
    assert len(result.egress) == 1
    safe = await run(declared(_post, idempotent=True), make_context((server.netloc,)), args)
    assert safe.outcome == ("succeeded" if outcome == "succeeded" else "failed")


class Receipt(msgspec.Struct):
    """What a mail service answers."""

    id: int


async def _forward(ctx: Context, url: str) -> Receipt:
    """Text."""
    return cast("Receipt", await ctx.http.post(url, json={}))


@pytest.mark.parametrize(
    ("path", "outcome", "kind"),
    [
        ("/ok", "succeeded", None),
        ("/other", "succeeded", None),
        ("/busy", "failed", "rate_limit"),
        ("/no", "failed", "permanent"),
        ("/broken", "unknown", "transient"),
    ],
)
async def test_a_response_may_be_returned_as_it_came(
    make_context: MakeContext, servers: Servers, path: str, outcome: str, kind: str | None
) -> None:
    """Its status decides, and its body is checked against the declared type."""
    json = {"Content_Type": "application/json"}
    server = await servers.start(
        {
            "/ok": servers.response(b'{"id":7}', **json),
            "/other": servers.response(b'{"id":"x"}', **json),
            "/busy": servers.response(b"", "429 Too Many Requests", Retry_After="12"),
            "/no": servers.response(b"", "403 Forbidden"),
            "/broken": servers.response(b"", "503 Service Unavailable"),
        }
    )
    args = msgspec.json.encode({"url": server.url(path)})
    result = await run(declared(_forward), make_context((server.netloc,)), args)
    assert result.outcome == outcome
    assert (result.error.type if result.error else None) == kind
    if path == "/ok":
        assert result.value == {"id": 7}
    if path == "/busy":
        assert result.error is not None
        assert result.error.retry_after_s == 12
