"""All calls of a start at once: each has its own result and price."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from linestop.actors.judging.task_acceptance import tool_grant
from linestop.sandbox.files.workspace import Workspace
from linestop.sandbox.http.egress_client import EgressPolicy
from linestop.sandbox.tools.builtin import http_get
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import AnyTool, tool
from linestop.sandbox.tools.failures import ToolFailed, ToolUnknown
from linestop.sandbox.tools.registry import Registry, load_file
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.text.redaction import DEPTH_MAX, Redactor
from linestop.schemas.tool_contracts import ToolResult

if TYPE_CHECKING:
    from tests.sandbox.conftest import Servers

pytestmark = pytest.mark.anyio

PRICE = 70_000
PROCESS_TOOLS = load_file(Path(__file__).with_name("process_tools.py"))


def nested(levels: int) -> Any:
    """A list in a list, that many deep."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@tool(tier="irreversible", price_micros=PRICE)
async def deep(ctx: Context, levels: int) -> Any:
    """Return a nested value.

    Args:
        levels: How deep.
    """
    del ctx
    return nested(levels)


@tool(tier="irreversible", price_micros=PRICE)
def deep_thread(ctx: Context, levels: int) -> Any:
    """Return a nested value.

    Args:
        levels: How deep.
    """
    del ctx
    return nested(levels)


@tool(tier="irreversible", price_micros=PRICE, timeout_s=0.2)
async def ends(ctx: Context, how: str) -> str:
    """End in a chosen way.

    Args:
        how: Which way.
    """
    match how:
        case "nothing done":
            raise ToolFailed("busy", type="transient", retry_safe=True)
        case "refused":
            raise ToolFailed("no such order")
        case "unknown":
            raise ToolUnknown("the line went dead")
        case "never":
            await anyio.sleep_forever()
            return how
        case "refused host":
            return (await ctx.http.get("http://10.0.0.1/")).text
        case _:
            return how


@tool(tier="irreversible")
async def forward(ctx: Context, url: str) -> Any:
    """Return what a host answers, as it came.

    Args:
        url: Where.
    """
    return await ctx.http.get(url)


async def _happened(ctx: Context, how: str) -> bool | None:
    del ctx
    return how == "well"


ends_safely = tool(name="safely", tier="read", price_micros=PRICE, timeout_s=0.2)(ends.fn)
ends_probed = tool(name="probed", tier="irreversible", price_micros=PRICE, probe=_happened)(ends.fn)
TOOLS: dict[str, AnyTool] = {
    "deep": deep,
    "thread": deep_thread,
    "process": PROCESS_TOOLS["nested"],
    "ends": ends,
    "safely": ends_safely,
    "probed": ends_probed,
    "http.get": http_get,
    "forward": forward,
}


def work(name: str, number: int = 1, **args: Any) -> CallWork:
    """One attempt at a call of that tool."""
    contract, given = TOOLS[name].contract, msgspec.json.encode(args)
    return CallWork(
        tenant="acme",
        run="run-1",
        call=f"{name}-{number}",
        attempt=1,
        tool=contract.name,
        grant=tool_grant(contract),
        args=given,
        key=hashlib.sha256(given).hexdigest(),
        user="ann",
        tier=contract.tier,
        start_by=datetime.now(UTC) + timedelta(seconds=30),
        timeout_s=contract.timeout_s,
        result_bytes_max=16_384,
        cost_max_micros=contract.price_micros,
    )


def made(directory: Path, *allow: str) -> RegistryRunner:
    """A runner with the tools of this file."""
    registry = Registry()
    for each in TOOLS.values():
        registry.add(each, "tests")
    return RegistryRunner(registry, directory, egress=EgressPolicy(allow=allow))


@pytest.fixture
def runner(tmp_path: Path) -> RegistryRunner:
    """A runner that may reach no host."""
    return made(tmp_path)


async def results(found: AsyncIterator[tuple[CallWork, ToolResult, float]]) -> dict[str, ToolResult]:
    """The result of each call."""
    return {each.call: result async for each, result, _ in found}


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 450, 950, 5_000])
@pytest.mark.parametrize("name", ["deep", "thread", "process"])
async def test_a_result_nested_too_deep_is_a_finding_of_its_call_alone(
    runner: RegistryRunner, name: str, levels: int
) -> None:
    """The finding has the limit, the beginning is kept as text, and the other calls have their results."""
    works = (work("ends", 1, how="well"), work(name, levels=levels), work("ends", 2, how="fine"))
    found = await results(runner.run(works))
    assert [found[f"ends-{n}"].value for n in (1, 2)] == ["well", "fine"]
    done = found[f"{name}-1"]
    assert (done.outcome, done.error, len(done.findings)) == ("succeeded", None, 1)
    assert done.findings[0].endswith(f"its result is nested deeper than {DEPTH_MAX} levels: return a flatter one")
    assert isinstance(done.value, str)
    assert done.cost_micros == TOOLS[name].contract.price_micros


async def test_a_result_as_deep_as_allowed_is_stored(runner: RegistryRunner) -> None:
    """A result exactly at the limit does not fail."""
    found = await results(runner.run((work("deep", levels=DEPTH_MAX),)))
    assert found["deep-1"].value == nested(DEPTH_MAX)


async def test_brackets_in_a_text_do_not_count_as_nesting(tmp_path: Path, servers: Servers) -> None:
    """In any number, and with any escapes beside them."""
    texts = ['"' + "[" * 400, "{\\" * 400 + '\\"']
    server = await servers.start({"/": servers.response(msgspec.json.encode(texts), Content_Type="application/json")})
    found = await results(made(tmp_path, server.netloc).run((work("forward", url=server.url()),)))
    assert found["forward-1"].value == texts


async def test_a_nested_response_of_a_host_is_text(tmp_path: Path, servers: Servers) -> None:
    """``http.get`` returns it as text; for a tool that passes it on it is a finding."""
    bomb = b"[" * 700 + b"]" * 700
    server = await servers.start({"/": servers.response(bomb, Content_Type="application/json")})
    works = (work("http.get", url=server.url()), work("forward", url=server.url()), work("ends", how="well"))
    found = await results(made(tmp_path, server.netloc).run(works))
    assert found["http.get-1"].value["text"] == bomb.decode()
    assert found["ends-1"].value == "well"
    assert (found["forward-1"].outcome, found["forward-1"].value) == ("succeeded", bomb.decode())
    assert len(found["forward-1"].findings) == 1


async def test_a_call_without_a_workspace_is_not_begun(tmp_path: Path) -> None:
    """It did nothing, costs nothing and may be made again; for a probe the outcome stays unknown."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "run-2").write_text("a file where the workspace should be")
    broken = [msgspec.structs.replace(work(name, how="well"), run="run-2") for name in ("ends", "probed")]
    broken[1] = msgspec.structs.replace(broken[1], probe=True)
    found = await results(made(tmp_path).run((*broken, work("ends", 2, how="fine"))))
    assert found["ends-2"].value == "fine"
    assert [found[f"{name}-1"].outcome for name in ("ends", "probed")] == ["failed", "unknown"]
    error = found["ends-1"].error
    assert error is not None
    assert (error.type, error.retry_safe, error.known_by) == ("transient", True, "not_begun")
    assert found["ends-1"].cost_micros == 0


async def test_a_call_that_fails_in_this_process_does_not_affect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An effect becomes unknown, a read simply fails; both cost the most that they may have cost."""
    inner = Redactor.is_clean

    def broken_for(redactor: Redactor, text: str) -> bool:
        if text == '"well"':
            raise ZeroDivisionError
        return inner(redactor, text)

    monkeypatch.setattr(Redactor, "is_clean", broken_for)
    broken = [work(name, how="well") for name in ("safely", "probed")]
    found = await results(made(tmp_path).run((*broken, work("ends", how="fine"))))
    assert found["ends-1"].value == "fine"
    for name, outcome in (("safely-1", "failed"), ("probed-1", "unknown")):
        error = found[name].error
        assert error is not None
        assert (found[name].outcome, error.retry_safe, found[name].cost_micros) == (outcome, outcome == "failed", PRICE)
        assert "could not be performed to its end" in error.message


async def test_results_from_before_the_stop_are_yielded(runner: RegistryRunner) -> None:
    """Results that came while their reader was busy are not lost with the cancelled call."""
    finished_calls: list[str] = []
    works = (work("ends", 1, how="well"), work("ends", 2, how="fine"), work("ends", 3, how="never"))
    with anyio.CancelScope() as scope:
        async for each, _, _ in runner.run(works):
            finished_calls.append(each.call)
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
    assert sorted(finished_calls) == ["ends-1", "ends-2"]


@pytest.mark.parametrize(
    ("name", "how", "outcome", "cost"),
    [
        ("ends", "well", "succeeded", PRICE),
        ("ends", "refused", "failed", PRICE),
        ("ends", "refused host", "unknown", PRICE),
        ("ends", "unknown", "unknown", PRICE),
        ("safely", "unknown", "failed", PRICE),
        ("ends", "nothing done", "failed", 0),
        ("safely", "nothing done", "failed", 0),
    ],
)
async def test_a_call_costs_its_price_unless_it_did_nothing(
    runner: RegistryRunner, name: str, how: str, outcome: str, cost: int
) -> None:
    """A tool does not report its usage, so the whole price is charged, also where repeating is safe."""
    result = (await results(runner.run((work(name, how=how),))))[f"{name}-1"]
    assert (result.outcome, result.cost_micros) == (outcome, cost)


async def test_a_call_that_was_not_begun_a_dry_run_and_a_probe_cost_nothing(runner: RegistryRunner) -> None:
    """None of them does anything that costs money."""
    expired = msgspec.structs.replace(work("ends", how="well"), start_by=datetime.now(UTC) - timedelta(seconds=1))
    dry = msgspec.structs.replace(work("ends", 2, how="well"), dry_run=True)
    probe = msgspec.structs.replace(work("probed", how="well"), probe=True, cost_max_micros=0)
    found = await results(runner.run((expired, dry, probe)))
    outcomes = {call: (result.outcome, result.cost_micros) for call, result in found.items()}
    assert outcomes == {"ends-1": ("never_started", 0), "ends-2": ("succeeded", 0), "probed-1": ("succeeded", 0)}


def folder_of_run(folder: Path) -> Path:
    """The folder of the workspace of the run of ``work``."""
    one = work("ends", how="well")
    return folder / one.tenant / one.run


async def test_a_call_that_puts_nothing_into_its_workspace_leaves_no_folder(tmp_path: Path) -> None:
    """Neither alone nor beside others; files in it stay."""
    runner = made(tmp_path)
    await results(runner.run((work("ends", how="well"), work("ends", 2, how="fine"))))
    assert folder_of_run(tmp_path).parent.exists()
    assert not Workspace(folder_of_run(tmp_path)).root.exists()
    first = Workspace.create(tmp_path, "t", "kept")
    first.remove_if_empty()
    assert not first.root.exists()
    first.write("a", b"1")
    first.remove_if_empty()
    assert first.read("a") == b"1"
