"""A planner function that returns too much: its run ends at once with the reason, and other runs continue."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.stack import AGENT, stack

from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.client import Client
from linestop.models.planner_function import PLAN_BYTES_MAX, Plan
from linestop.schemas.model_messages import Message

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.e2e]


def plan(messages: tuple[Message, ...]) -> Plan:
    """Answer with the number of bytes that the task names."""
    return Plan(answer="x" * int(messages[0].text))


async def test_a_run_of_a_function_that_returns_40_mb_fails_with_a_sentence(tmp_path: Path) -> None:
    """Nothing of the result is stored; an answer that is only longer than allowed fails as with any other planner."""
    async with stack(tmp_path) as system, Client.connect(tmp_path) as client:
        async with await connect(system.server.credential("operator"), name="deploy") as connection:
            store = AgentStore(JetStream(connection).bucket(stream_names.AGENTS_BUCKET))
            desk = await store.current(AGENT)
            assert desk is not None
            await store.deploy(msgspec.structs.replace(desk, planner=f"python:{__name__}.plan"))
        run = (await client.submit(AGENT, str(40 * 1024 * 1024))).run
        outcome = await client.outcome(run, timeout_s=20)
        assert outcome.status == "failed"
        assert "The plan that the planner function returned has too many bytes" in outcome.why
        for size, status, why in ((100, "completed", ""), (PLAN_BYTES_MAX, "failed", "give a shorter one")):
            run = (await client.submit(AGENT, str(size))).run
            outcome = await client.outcome(run, timeout_s=20)
            assert (outcome.status, why in outcome.why) == (status, True)
