"""The full text of a truncated result is stored beside the log."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import msgspec
import pytest
from tests.builders import NOW
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns, Tools

from linestop.actors.executor import Executor
from linestop.actors.judging.task_acceptance import tool_grant
from linestop.bus.event_message import EventEncoder
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.perform_call import PerformLimits
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.defaults import BLOB_BYTES_MAX
from linestop.schemas.events import BlobRef, EffectStarted, Finished
from linestop.schemas.performer_interfaces import CallWork, LongResult
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import ACTORS, TenantId
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.tool_contracts import ToolResult
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.virtual_time import run_virtual, virtual_now

ACME = TenantId("acme")
SECRET = "hunter2hunter2"
WHOLE = f"{SECRET} and {'more ' * 10_000}"


@tool(tier="read", owner="tests")
async def leak(ctx: Context) -> str:
    """Return more than it should."""
    del ctx
    return WHOLE


def encoder(broker: MemoryBroker) -> EventEncoder:
    """The encoder, which stores long texts."""
    return EventEncoder(build="", blobs=broker.blobs(), random_source=random.Random(1), now=lambda: NOW)


@pytest.mark.anyio
async def test_a_stored_full_result_contains_no_known_secret(tmp_path: Path) -> None:
    """The full text is redacted like the text for the model, and the event holds its digest and size."""
    registry, broker = Registry(), MemoryBroker(lambda: NOW)
    registry.add(leak, "tests")
    runner = RegistryRunner(registry, tmp_path, limits=PerformLimits(redactor=Redactor([SECRET])))
    work = CallWork(
        tenant=ACME,
        run="r1",
        call="c1",
        attempt=1,
        tool="leak",
        grant=tool_grant(leak.contract),
        args=b"{}",
        key="k" * 64,
        user="ann",
        tier="read",
        start_by=datetime.now(UTC) + timedelta(seconds=30),
        timeout_s=5.0,
        result_bytes_max=1_000,
    )
    (result,) = [each async for each in Executor(runner).perform((work,), EffectStarted(calls=(), worker="w#1"))]
    assert isinstance(result, LongResult)
    event = await encoder(broker).store_full_result(ACME, result)
    assert isinstance(event, Finished)
    blob_ref = event.result_ref
    assert blob_ref is not None
    assert blob_ref == BlobRef(sha256=event.result_sha256, bytes=event.result_bytes, type="text/plain")
    assert (await broker.blobs().get(ACME, blob_ref.sha256)).decode() == WHOLE.replace(SECRET, "[redacted:secret]")


@pytest.mark.anyio
async def test_a_result_whose_full_text_cannot_be_stored_is_not_lost() -> None:
    """It is appended truncated, without a reference."""
    event = Finished(call="c1", attempt=1, outcome="succeeded", result="x", result_bytes=BLOB_BYTES_MAX + 1)
    result = LongResult(event=event, full_text="x" * (BLOB_BYTES_MAX + 1), type="text/plain")
    assert await encoder(MemoryBroker(lambda: NOW)).store_full_result(ACME, result) == event


class SlowBlobs(NoFaults):
    """Storing blobs takes time."""

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s

    async def before(self, op: str) -> None:
        """Wait, if a blob is stored."""
        if op == "blobs.put":
            await anyio.sleep(self._takes_s)


@pytest.mark.parametrize(("takes_s", "is_stored"), [(1.0, True), (60.0, False)])
def test_a_slow_blob_delays_no_other_result_and_survives_a_stop(*, takes_s: float, is_stored: bool) -> None:
    """Calls that had finished before the stop keep their result, however long storing long texts takes."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now, faults=SlowBlobs(takes_s))
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        tools = Tools({"long": ToolResult(outcome="succeeded", value=WHOLE)})
        model = ScriptedTurns([[("look", "long"), ("look", "short"), ("look", "slow")]])
        roles = [make_role(role, requester=model, runner=tools) for role in ACTORS]
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1))
        async with ActorProcess(InMemory(broker), roles, config).running() as host:
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
        finished = run.calls["c1a"].finished
        assert finished is not None
        assert (finished.result_ref is not None) == is_stored

    run_virtual(main, seed=1)
