"""The heartbeats of a process: how it takes leave."""

from __future__ import annotations

import pytest
from tests.run_logs import InMemory, ScriptedTurns, Tools

from linestop.bus.stores.worker_heartbeats import read_heartbeat
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.subjects import RoleName
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


@pytest.mark.parametrize("roles", [("planner",), ("executor",), ("validator", "approver", "budget", "recorder")])
def test_a_process_that_ends_reports_it_for_each_role(roles: tuple[RoleName, ...]) -> None:
    """Others need not wait for missed heartbeats, and `linestop workers` does not call it dead."""

    async def main() -> dict[str, str]:
        broker = MemoryBroker(virtual_now)
        config = ProcessSettings(worker="w#1", now=virtual_now, sweeping=False, drain_s=0.0)
        made = [make_role(role, requester=ScriptedTurns([]), runner=Tools({})) for role in roles]
        async with ActorProcess(InMemory(broker), made, config).running():
            pass
        values = await broker.bucket(stream_names.BEATS_BUCKET).values("")
        return {beat.role: beat.state for value in values if (beat := read_heartbeat(value)) is not None}

    assert run_virtual(main) == dict.fromkeys(roles, "ended")
