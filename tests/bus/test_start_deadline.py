"""A stop that arrives between a start and its first byte: nothing is sent, although the log cannot be read yet."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns

from linestop.bus.event_message import EventEncoder
from linestop.bus.stop_run import catch_up, stop_run
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.models.may_still_begin import require_fresh
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.model_messages import ModelFailed
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.start_deadline import IS_STOPPED, STOPPED_FIRST, TOO_LATE, reason_not_to_begin
from linestop.schemas.subjects import ACTORS
from linestop.schemas.tool_contracts import ToolResult
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


class Preparing:
    """A tool that cannot be interrupted for a moment before it sends anything."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        for work in works:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.0)
            self.reasons.append(reason_not_to_begin(None))
            yield work, ToolResult(outcome="never_started", begun=False), 1.0


@pytest.mark.parametrize("stops", [True, False])
def test_a_stop_hint_prevents_calls_that_have_not_begun(stops: bool) -> None:
    """Also while another pass works on the run, so that its log cannot be read."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        tools = Preparing()
        roles = [make_role(role, requester=ScriptedTurns([[("look", "a")]]), runner=tools) for role in ACTORS]
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1))
        async with ActorProcess(InMemory(broker), roles, config).running() as host:
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "look a", "run": RUN}))
            await anyio.sleep(0.5)
            entry = host.shell.cache.peek(TENANT, RUN)
            assert entry is not None
            assert entry.performing
            async with entry.lock:
                if stops:
                    run, log = Run(TENANT, RUN), broker.log(["operator"])
                    await catch_up(log, run)
                    encoder = EventEncoder(
                        build="t", blobs=broker.blobs(), random_source=random.Random(2), now=virtual_now
                    )
                    await stop_run(log, encoder, run, lambda state: stop_event(state, by="ann", why="enough"))
                await anyio.sleep(1.0)
                assert entry.run.stopped is None
                assert tools.reasons == [STOPPED_FIRST if stops else ""]

    run_virtual(main, seed=1)


def test_a_model_call_that_may_not_begin_says_why() -> None:
    """Too late, or stopped first; in both cases it did not begin and is not charged."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    with pytest.raises(ModelFailed, match=TOO_LATE[1:]) as late:
        require_fresh(past)
    token = IS_STOPPED.set(lambda: True)
    try:
        with pytest.raises(ModelFailed, match=STOPPED_FIRST[1:]) as first:
            require_fresh(None)
    finally:
        IS_STOPPED.reset(token)
    assert [(failed.value.begun, failed.value.possibly_billed) for failed in (late, first)] == [(False, False)] * 2
    require_fresh(None)
