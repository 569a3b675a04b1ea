"""One seed: a world of workers, clients, people and faults, from beginning to end, and its problems."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import anyio
from tests.sim import checks
from tests.sim.evidence import Evidence, Ledger
from tests.sim.faults import FaultPlan, SeedFaults, draw_fault_plan, seconds
from tests.sim.hardships import TWINS, HardshipDriver, draw_disconnections, draw_hardship
from tests.sim.loop import SimLoop
from tests.sim.outside import OutsideWorld
from tests.sim.people import FoldedRuns, People
from tests.sim.script import CONTRACTS, Script, draw_accounts, draw_agents
from tests.sim.watched import WireRecord
from tests.sim.workers import SKEW_MAX_S, TOPOLOGIES, Worker

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.sandbox.tools.builtin import WAIT_FOR_EVENT
from linestop.schemas.subjects import RoleName
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import START, virtual_now

FAULTS_UNTIL_S = 45.0
"""Faults, kills and random decisions end then; from then on every run must end."""

TIMEOUT_S = 1_500.0
ACCOUNTS_RELEASED_S = 400.0
"""How long after the last run is sealed the sweeps may take to release what the accounts still hold."""


@dataclass(slots=True)
class Verdict:
    """The outcome of a seed: the digest of its log, its size, and all problems."""

    seed: int
    digest: str = ""
    events: int = 0
    effects: int = 0
    ended_s: float = 0.0
    problems: list[str] = field(default_factory=list[str])
    story: list[str] = field(default_factory=list[str])


class Simulation:
    """The world of one seed. Created and run inside a ``SimLoop``."""

    def __init__(self, seed: int) -> None:
        self.script = Script(seed)
        self.hardship = draw_hardship(self.script.chance("hardship"))
        if self.hardship.kind == "events":
            self.script.tools.append(WAIT_FOR_EVENT)
        self.faults = SeedFaults(self.script.chance("faults"))
        self.broker = MemoryBroker(virtual_now, faults=self.faults)
        self.outside = OutsideWorld(self.script, dict(CONTRACTS), self.hardship)
        self.wire_record = WireRecord(self.hardship)
        self.agents = draw_agents(self.script)
        self.accounts = draw_accounts(self.script)
        self.ledger = Ledger(self.broker, self.accounts)
        self.folded_runs = FoldedRuns(self.broker)
        names = [agent.name for agent in self.agents]
        self.people = People(self.broker, self.outside, folded_runs=self.folded_runs, faults=self.faults, agents=names)
        self.story: list[str] = []
        self.workers = [
            Worker(f"w{index}", roles, outside=self.outside, broker=self.broker, wire_record=self.wire_record)
            for index, roles in enumerate(self._topology())
        ]
        self.faults.plan = self._fault_plan()
        self.calm_s = max(FAULTS_UNTIL_S, self.hardship.ends_s)
        trouble = self.script.chance("trouble")
        self.hardship_driver = HardshipDriver(self.hardship, trouble, broker=self.broker, outside=self.outside)

    async def run(self) -> Verdict:
        """Run the seed to its end, then check the evidence."""
        loop = cast("SimLoop", asyncio.get_running_loop())
        store = AgentStore(self.broker.bucket(stream_names.AGENTS_BUCKET))
        for agent in self.agents:
            await store.deploy(agent)
        for spec in consumers():
            self.broker.queue(spec)
        clocks = self.script.chance("clocks")
        for worker in self.workers:
            worker.accounts = self.accounts
            worker.skew_s = clocks.uniform(-SKEW_MAX_S, SKEW_MAX_S) if clocks.random() < 0.5 else 0.0
            worker.start()
        self.faults.is_active = True
        loop.spawn(self.people.send_tasks(FAULTS_UNTIL_S))
        loop.spawn(self.people.act_on_runs())
        loop.spawn(self.people.stop_races(FAULTS_UNTIL_S))
        loop.spawn(self.hardship_driver.run(self.workers, self.agents, self.wire_record))
        for worker in self.workers if not self.hardship.excludes_other_faults else ():
            loop.spawn(self._disturb(worker))
        await anyio.sleep(FAULTS_UNTIL_S)
        self._end_faults()
        await anyio.sleep(self.calm_s - FAULTS_UNTIL_S)
        await self._wait_until_over()
        return self._verdict()

    def _topology(self) -> Sequence[tuple[RoleName, ...]]:
        drawn = self.script.chance("topology").choice(TOPOLOGIES)
        return TWINS if self.hardship.kind in {"worker lost", "workers cut"} else drawn

    def _fault_plan(self) -> FaultPlan:
        plan = draw_fault_plan(self.script.chance("weather"), [worker.name for worker in self.workers], FAULTS_UNTIL_S)
        if self.hardship.excludes_other_faults:
            return FaultPlan()
        if self.hardship.kind == "workers cut":
            chance = self.script.chance("cuts")
            if self.hardship.amount:
                return FaultPlan()
            return FaultPlan(
                partitions={worker.name: draw_disconnections(chance, FAULTS_UNTIL_S) for worker in self.workers}
            )
        if self.hardship.kind == "broker away":
            plan.outages.append((self.hardship.from_s, self.hardship.until_s))
        return plan

    # --- chaos -------------------------------------------------------------------------------------------------

    async def _disturb(self, worker: Worker) -> None:
        chance = self.script.chance("torment", worker.name)
        strikes = chance.choice((0, 1, 3, 6))
        for _ in range(strikes):
            await anyio.sleep(chance.expovariate(strikes / (FAULTS_UNTIL_S * 0.7)))
            if seconds() >= FAULTS_UNTIL_S:
                return
            await self._strike(worker, chance)

    async def _strike(self, worker: Worker, chance: random.Random) -> None:
        kind = chance.choice(("kill", "kill", "kill soon", "freeze", "drain", "clock"))
        self._add_to_story(f"{kind} {worker.process.name}")
        began = seconds()
        match kind:
            case "kill":
                worker.kill()
            case "kill soon":
                worker.kill(steps=chance.choice((1, 5, 30, 200)))
                await anyio.sleep(chance.choice((0.01, 0.5, 3.0)))
                worker.kill()
            case "freeze":
                worker.freeze()
                await anyio.sleep(min(chance.choice((0.3, 2.0, 8.0, 25.0)), max(0.0, FAULTS_UNTIL_S - 0.5 - seconds())))
                self.wire_record.disconnections.append((worker.process.name, began, seconds()))
                worker.thaw()
                return
            case "drain":
                await worker.drain()
            case _:
                worker.skew_s = chance.uniform(-SKEW_MAX_S, SKEW_MAX_S)
                return
        self.wire_record.disconnections.append((worker.process.name, began, float("inf")))
        await anyio.sleep(min(chance.choice((0.1, 1.0, 5.0, 20.0)), max(0.0, FAULTS_UNTIL_S - seconds())))
        self._add_to_story(f"start {worker.name}")
        worker.start()

    def _end_faults(self) -> None:
        self._add_to_story("calm")
        self.faults.is_active = False
        self.people.decides_promptly = True

    async def _wait_until_over(self) -> None:
        over_s = 0.0
        while seconds() < TIMEOUT_S:
            await anyio.sleep(5.0)
            if self.wire_record.troubles:
                return
            if not self._is_over():
                over_s = 0.0
            elif not over_s:
                over_s = seconds()
            elif not self.ledger.open_holds() or seconds() > over_s + ACCOUNTS_RELEASED_S:
                return

    def _is_over(self) -> bool:
        if self.broker.stream(stream_names.TASKS).matching(">"):
            return False
        runs = self.folded_runs.runs.values()
        outcomes = self.broker.stream(stream_names.OUTCOMES).matching(">")
        return all(run.sealed for run in runs) and len(outcomes) >= len(runs)

    def _add_to_story(self, text: str) -> None:
        self.story.append(f"{seconds():9.3f} s  -- {text}")

    def evidence(self) -> Evidence:
        """The evidence for the checks."""
        return Evidence(
            broker=self.broker,
            folded_runs=self.folded_runs,
            outside=self.outside,
            wire_record=self.wire_record,
            acknowledged=self.people.acknowledged,
            ledger=self.ledger,
            fault_plan=self.faults.plan,
            calm_s=self.calm_s,
            hardship=self.hardship,
            began=virtual_now() - timedelta(seconds=seconds()),
        )

    # --- the end -----------------------------------------------------------------------------------------------

    def _verdict(self) -> Verdict:
        stored = self.broker.stream(stream_names.RUNS).matching(">")
        digest = hashlib.sha256(b"".join(m.subject.encode() + b"\0" + m.payload + b"\n" for m in stored))
        return Verdict(
            seed=self.script.seed,
            digest=digest.hexdigest(),
            events=len(stored),
            effects=sum(self.outside.effects.values()),
            ended_s=seconds(),
            problems=checks.problems_of_seed(self.evidence()),
            story=self.story,
        )


def simulate(seed: int) -> tuple[Verdict, Evidence, Simulation]:
    """Run one seed in a new loop. The loop is not closed: a dead process must not get another step."""
    start = START + timedelta(hours=23, minutes=59, seconds=45) if seed % 7 == 0 else START
    loop = SimLoop(seed=seed, start=start)
    LOOPS_NOT_COLLECTED.append(loop)
    asyncio.set_event_loop(loop)

    async def main() -> tuple[Verdict, Evidence, Simulation]:
        simulation = Simulation(seed)
        verdict = await simulation.run()
        return verdict, simulation.evidence(), simulation

    return loop.run_until_complete(main())


LOOPS_NOT_COLLECTED: list[SimLoop] = []
"""Finished loops, stored so that none of their coroutines is collected (see ``loop.Process.may_step``)."""
