"""The whole of a result that was cut is stored beside the log."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.builders import NOW

from linestop.actors.executor import Executor
from linestop.bus.stamp import Stamper
from linestop.sandbox.context import Context
from linestop.sandbox.perform import PerformLimits
from linestop.sandbox.registry import Registry
from linestop.sandbox.runner import RegistryRunner
from linestop.sandbox.tool import tool
from linestop.schemas.events import BlobRef, EffectStarted, Finished
from linestop.schemas.limits import BLOB_BYTES_MAX
from linestop.schemas.redact import Redactor
from linestop.schemas.subjects import TenantId
from linestop.schemas.work import CallWork, LongResult
from linestop.testing.memory import MemoryBroker

pytestmark = pytest.mark.anyio

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


async def test_what_is_kept_of_a_result_has_no_known_secret(tmp_path: Path) -> None:
    """The whole has passed the redactor like what the model sees, and its digest and size are the event's."""
    registry, broker = Registry(), MemoryBroker(lambda: NOW)
    registry.add(leak, "tests")
    runner = RegistryRunner(registry, tmp_path, limits=PerformLimits(redactor=Redactor([SECRET])))
    work = CallWork(
        tenant=ACME, run="r1", call="c1", attempt=1, tool="leak", contract_digest=leak.contract.digest(), args=b"{}",
        key="k" * 64, user="ann", tier="read", start_by=datetime.now(UTC) + timedelta(seconds=30), timeout_s=5.0,
        result_bytes_max=1_000,
    )  # fmt: skip
    (said,) = [each async for each in Executor(runner).perform((work,), EffectStarted(calls=(), worker="w#1"))]
    event = await stamper(broker).kept(ACME, said)
    assert isinstance(event, Finished)
    kept = event.result_ref
    assert kept is not None
    assert kept == BlobRef(sha256=event.result_sha256, bytes=event.result_bytes, type="text/plain")
    assert (await broker.blobs().get(ACME, kept.sha256)).decode() == WHOLE.replace(SECRET, "[redacted:secret]")


async def test_a_result_whose_whole_cannot_be_stored_is_not_lost() -> None:
    """It is appended as it was cut, and names no place."""
    event = Finished(call="c1", attempt=1, outcome="succeeded", result="x", result_bytes=BLOB_BYTES_MAX + 1)
    said = LongResult(event=event, whole="x" * (BLOB_BYTES_MAX + 1), type="text/plain")
    assert await stamper(MemoryBroker(lambda: NOW)).kept(ACME, said) == event
