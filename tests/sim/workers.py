"""The worker processes: ``ActorProcess`` of production over the broker in memory, each with its own clock."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from functools import partial
from typing import cast

import anyio
from tests.run_logs import InMemory
from tests.sim.faults import seconds
from tests.sim.loop import Process, SimLoop
from tests.sim.outside import OutsideWorld, SimRequester, SimRunner
from tests.sim.script import CHECKED_TOOL, check_result
from tests.sim.watched import WatchedLog, WireRecord

from linestop.bus.interfaces import Log
from linestop.errors import Unreachable
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.schemas.defaults import AccountLimits
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import virtual_now

SKEW_MAX_S = 0.9
"""Clocks of two workers differ by less than the grace in an effect's ``done_by`` (2 s)."""

TOPOLOGIES: tuple[tuple[tuple[RoleName, ...], ...], ...] = (
    (ACTORS,),
    (ACTORS, ACTORS),
    (ACTORS, ACTORS, ACTORS),
    (("planner", "executor"), ("validator", "approver", "budget", "recorder")),
    (("planner", "validator"), ("executor", "recorder"), ("approver", "budget")),
    (ACTORS, ("planner", "executor")),
    (("recorder", "budget", "validator", "approver"), ("planner", "executor"), ("executor", "planner", "approver")),
)


class WorkerBackend(InMemory):
    """The bus interfaces of one process, whose log is watched."""

    def __init__(self, broker: MemoryBroker, process: Process, wire_record: WireRecord) -> None:
        super().__init__(broker)
        self._process = process
        self._wire_record = wire_record

    def log(self, role: RoleName) -> Log:
        """The run log for ``role``."""
        return WatchedLog(self._broker, role, self._process, self._wire_record)


def _time_of(actor_processes: list[ActorProcess]) -> datetime:
    """The time for performers: that of their process, which corrects the clock of its machine."""
    return actor_processes[0].clock.now()


class Worker:
    """One worker name with its incarnations: at most one of them lives at a time."""

    def __init__(
        self,
        name: str,
        roles: tuple[RoleName, ...],
        *,
        outside: OutsideWorld,
        broker: MemoryBroker,
        wire_record: WireRecord,
    ) -> None:
        self.name = name
        self.roles = roles
        self.accounts = AccountLimits()
        self.skew_s = 0.0
        self.process = Process(f"{name}#0")
        self.process.alive = False
        self._outside = outside
        self._broker = broker
        self._wire_record = wire_record
        self._incarnation = 0
        self._end_requested = asyncio.Event()
        self._has_ended = asyncio.Event()

    def now(self) -> datetime:
        """This worker's own clock."""
        return virtual_now() + timedelta(seconds=self.skew_s)

    def start(self) -> None:
        """Start the next incarnation, if none lives."""
        if self.process.alive:
            return
        self._incarnation += 1
        self.process = process = Process(f"{self.name}#{self._incarnation}")
        self._end_requested = asyncio.Event()
        self._has_ended = asyncio.Event()
        process.at_death += [self._has_ended.set, partial(self._wire_record.record_death, process.name)]
        cast("SimLoop", asyncio.get_running_loop()).spawn(self._run_process(process, self._end_requested), process)

    def kill(self, steps: int = 0) -> None:
        """Kill the process now, or ``steps`` steps from now, between two awaits."""
        if steps:
            self.process.steps_left = steps
        else:
            self.process.kill()

    async def crash(self) -> None:
        """Die at once, and start again a second later, as under a supervisor."""
        process = self.process
        self._wire_record.disconnections.append((process.name, seconds(), float("inf")))
        process.kill()
        await self._restart_soon(process)

    def freeze(self) -> None:
        """Freeze the process, as SIGSTOP does."""
        self.process.frozen = True

    def thaw(self) -> None:
        """Continue the process, as SIGCONT does."""
        self.process.thaw(cast("SimLoop", asyncio.get_running_loop()))

    async def drain(self) -> None:
        """Ask the process to end, as SIGTERM does, and wait until it has ended or is killed."""
        self._end_requested.set()
        with anyio.move_on_after(30.0):
            await self._has_ended.wait()
        self.process.kill()

    async def _run_process(self, process: Process, ends: asyncio.Event) -> None:
        chance = random.Random(f"{self._outside.script.seed}:{process.name}")
        proof = partial(self._wire_record.proof, process.name)
        now = partial(_time_of, actor_processes := list[ActorProcess]())
        requester = SimRequester(self._outside, process, now, proof)
        tools = dict(self._outside.contracts)
        runner = SimRunner(self._outside, process, now, proof, tools)
        config = ProcessSettings(
            worker=process.name,
            build="sim",
            account_limits=self.accounts,
            checks={CHECKED_TOOL: check_result},
            tools=tuple(tools.values()),
            now=self.now,
            random_source=chance,
            drain_s=chance.choice((0.5, 6.0)),
        )
        backend = WorkerBackend(self._broker, process, self._wire_record)
        is_up = False
        try:
            actor_process = ActorProcess(
                backend, [make_role(role, requester=requester, runner=runner) for role in self.roles], config
            )
            actor_processes.append(actor_process)
            async with actor_process.running():
                is_up = True
                await ends.wait()
        except BaseException as error:
            if is_up or not isinstance(error, Unreachable):
                self._wire_record.troubles.append(f"{process.name} died of {error!r} at {seconds():.3f} s")
                raise
            # A worker that finds no broker ends; its supervisor starts it again.
            cast("SimLoop", asyncio.get_running_loop()).spawn(self._restart_soon(process))
        finally:
            process.kill()

    async def _restart_soon(self, process: Process) -> None:
        await anyio.sleep(1.0)
        if self.process is process:
            self.start()
