"""The whole of a result that was cut is stored beside the log."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.builders import NOW
from tests.run_logs import AGENT, RUN, TENANT, InMemory, Scripted, Tools

from linestop.actors.executor import Executor
from linestop.actors.task_opening import grant
from linestop.bus import stream_names
from linestop.bus.agent_versions import AgentStore
from linestop.bus.event_envelope import Stamper
from linestop.runtime.actor_process import Host
from linestop.runtime.process_settings import HostConfig
from linestop.runtime.role_factory import make_role
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.perform_call import PerformLimits
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.defaults import BLOB_BYTES_MAX
from linestop.schemas.events import BlobRef, EffectStarted, Finished
from linestop.schemas.performer_interfaces import CallWork, LongResult
from linestop.schemas.redaction import Redactor
from linestop.schemas.run.state import fold_messages
from linestop.schemas.subjects import ACTORS, TenantId
from linestop.schemas.tool_contracts import ToolResult
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

ACME = TenantId("acme")
SECRET = "hunter2hunter2"
WHOLE = f"{SECRET} and {'more ' * 10_000}"


@tool(tier="read", owner="tests")
async def leak(ctx: Context) -> str:
    """Say more than it should."""
    del ctx
    return WHOLE


def stamper(broker: MemoryBroker) -> Stamper:
    """What stores long texts."""
    return Stamper(build="", blobs=broker.blobs(), chance=random.Random(1), now=lambda: NOW)


@pytest.mark.anyio
async def test_what_is_kept_of_a_result_has_no_known_secret(tmp_path: Path) -> None:
    """The whole has passed the redactor like what the model sees, and its digest and size are the event's."""
    registry, broker = Registry(), MemoryBroker(lambda: NOW)
    registry.add(leak, "tests")
    runner = RegistryRunner(registry, tmp_path, limits=PerformLimits(redactor=Redactor([SECRET])))
    work = CallWork(
        tenant=ACME, run="r1", call="c1", attempt=1, tool="leak", grant=grant(leak.contract), args=b"{}",
        key="k" * 64, user="ann", tier="read", start_by=datetime.now(UTC) + timedelta(seconds=30), timeout_s=5.0,
        result_bytes_max=1_000,
    )  # fmt: skip
    (said,) = [each async for each in Executor(runner).perform((work,), EffectStarted(calls=(), worker="w#1"))]
    assert isinstance(said, LongResult)
    event = await stamper(broker).kept(ACME, said)
    assert isinstance(event, Finished)
    kept = event.result_ref
    assert kept is not None
    assert kept == BlobRef(sha256=event.result_sha256, bytes=event.result_bytes, type="text/plain")
    assert (await broker.blobs().get(ACME, kept.sha256)).decode() == WHOLE.replace(SECRET, "[redacted:secret]")


@pytest.mark.anyio
async def test_a_result_whose_whole_cannot_be_stored_is_not_lost() -> None:
    """It is appended as it was cut, and names no place."""
    event = Finished(call="c1", attempt=1, outcome="succeeded", result="x", result_bytes=BLOB_BYTES_MAX + 1)
    said = LongResult(event=event, whole="x" * (BLOB_BYTES_MAX + 1), type="text/plain")
    assert await stamper(MemoryBroker(lambda: NOW)).kept(ACME, said) == event


class SlowBlobs(NoFaults):
    """Blobs take their time."""

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s

    async def before(self, op: str) -> None:
        """Wait, if it is about a blob."""
        if op == "blobs.put":
            await anyio.sleep(self._takes_s)


@pytest.mark.parametrize(("takes_s", "is_kept"), [(1.0, True), (60.0, False)])
def test_no_result_waits_for_the_blob_of_another_and_no_stop_ends_it(*, takes_s: float, is_kept: bool) -> None:
    """What had ended before the stop is told as it ended, however long the store of long texts takes."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=SlowBlobs(takes_s))
        await AgentStore(broker.shared(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        tools = Tools({"long": ToolResult(outcome="succeeded", value=WHOLE)})
        model = Scripted([[("look", "long"), ("look", "short"), ("look", "slow")]])
        roles = [make_role(role, caller=model, runner=tools) for role in ACTORS]
        config = HostConfig(worker="w#1", now=virtual_now, chance=random.Random(1))
        async with Host(InMemory(broker), roles, config).running() as host:
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "look", "run": RUN}))
            await anyio.sleep(0.5)
            entry = host.shell.cache.peek(TENANT, RUN)
            assert entry is not None
            assert entry.run.calls["c1b"].fate == "done", "a short result does not wait"
            await broker.publish(f"control.{TENANT}.{RUN}.stop", msgspec.json.encode({"by": "pia"}))
            await anyio.sleep(30)
        found = await broker.log().load(TENANT, RUN)
        run = fold_messages(TENANT, RUN, [(m.subject, m.payload, m.seq) for m in found])
        assert run.sealed is not None
        fates = {fate.call: fate.fate for fate in run.sealed.receipt}
        assert fates == {"c1a": "done", "c1b": "done", "c1c": "failed"}
        told = run.calls["c1a"].finished
        assert told is not None
        assert (told.result_ref is not None) == is_kept

    run_virtual(main, seed=1)
