"""When a run is advanced although nothing happens."""

from __future__ import annotations

import random
from datetime import datetime

import anyio
import msgspec
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns, Tools

from linestop.bus.interfaces import Timers
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.events import Finished
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import ACTORS, RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


class RecordingBackend(InMemory):
    """Ports that note which durable timers are set."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.set: list[tuple[str, datetime]] = []
        self.cancelled: list[str] = []

    def timers(self, role: RoleName) -> Timers:
        """The timers, with calls of ``set`` recorded."""
        return RecordingTimers(super().timers(role), self.set, self.cancelled)


class RecordingTimers:
    """The timers of a role; what is set and cancelled is recorded too."""

    def __init__(self, inner: Timers, recorded: list[tuple[str, datetime]], cancelled: list[str]) -> None:
        self._inner = inner
        self._cancelled = cancelled
        self._recorded = recorded

    async def set(self, tenant: TenantId, run: RunId, name: str, at: datetime) -> None:
        """Note it and set it."""
        self._recorded.append((name, at))
        await self._inner.set(tenant, run, name, at)

    async def cancel(self, tenant: TenantId, run: RunId, name: str) -> None:
        """Note it and cancel it."""
        self._cancelled.append(name)
        await self._inner.cancel(tenant, run, name)


def test_of_two_long_waits_the_sooner_has_the_timer_and_each_is_set_once() -> None:
    """Both are deadlines of one name: the later one gets its timer when the sooner one is over."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        waits = ScriptedTurns([[("wait.until", "3000"), ("wait.until", "2000")]])
        roles = [make_role(role, requester=waits, runner=Tools({})) for role in ACTORS]
        ports = RecordingBackend(broker)
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1), sweeping=False)
        began = virtual_now()
        async with ActorProcess(ports, roles, config).running():
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "wait", "run": RUN}))
            await anyio.sleep(3_100)
            found = await broker.log().load(TENANT, RUN)
        assert [(name, round((at - began).total_seconds())) for name, at in ports.set] == [
            ("executor-wait", 2_000),
            ("executor-wait", 3_000),
        ]
        run = fold_messages(TENANT, RUN, [(m.subject, m.payload, m.seq) for m in found])
        ends = [entry.event for entry in run.entries if isinstance(entry.event, Finished)]
        assert [round((event.at - began).total_seconds()) for event in ends] == [2_000, 3_000]

    run_virtual(main, seed=1)


def test_an_ended_run_leaves_no_timer() -> None:
    """Stopped in a long wait, its timer is cancelled with the seal."""

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        roles = [
            make_role(role, requester=ScriptedTurns([[("wait.until", "3000")]]), runner=Tools({})) for role in ACTORS
        ]
        ports = RecordingBackend(broker)
        config = ProcessSettings(worker="w#1", now=virtual_now, random_source=random.Random(1), sweeping=False)
        async with ActorProcess(ports, roles, config).running():
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "wait", "run": RUN}))
            await anyio.sleep(5)
            assert ([name for name, _ in ports.set], ports.cancelled) == (["executor-wait"], [])
            await broker.publish(f"control.{TENANT}.{RUN}.stop", b'{"by": "ann", "why": "enough"}')
            await anyio.sleep(1)
        assert set(ports.cancelled) == {"executor-wait"}
        assert broker.stream(stream_names.TIMERS).matching("timers.set.>") == []

    run_virtual(main, seed=1)
