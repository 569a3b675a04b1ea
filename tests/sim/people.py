"""Clients, people and operators: they send tasks, decide, stop, and sometimes do not answer."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import msgspec
from tests.sim.faults import SeedFaults, seconds
from tests.sim.hardships import EVENTS
from tests.sim.loop import SimLoop
from tests.sim.outside import OutsideWorld

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import HeadMoved
from linestop.bus.streams import stream_names
from linestop.errors import Unreachable
from linestop.schemas import subjects
from linestop.schemas.events import AskedCall, Cue, Question
from linestop.schemas.messages import Control, Task
from linestop.schemas.run.call_states import CallState, Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import AgentName, RunId, TenantId, Verb
from linestop.testing.memory import MemoryBroker
from linestop.testing.memory.stream import Stored
from linestop.testing.virtual_time import virtual_now

TENANTS = (TenantId("acme"), TenantId("zeta"))
TRIES_MAX = 30


@dataclass(slots=True)
class Acknowledged:
    """What was acknowledged: tasks (tenant, agent, task), stops appended to the log, and control messages."""

    tasks: list[tuple[TenantId, str, Task]] = field(default_factory=list[tuple[TenantId, str, Task]])
    stops: list[tuple[TenantId, RunId, float]] = field(default_factory=list[tuple[TenantId, RunId, float]])
    controls: list[tuple[TenantId, RunId, Verb, float]] = field(
        default_factory=list[tuple[TenantId, RunId, Verb, float]]
    )


class FoldedRuns:
    """All runs, folded as their events are stored, without the interfaces of the bus."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.runs: dict[tuple[TenantId, RunId], Run] = {}
        broker.stream(stream_names.RUNS).listeners.append(self._on_event)

    def _on_event(self, stored: Stored) -> None:
        subject = subjects.parse_run_event(stored.subject)
        run = self.runs.get((subject.tenant, subject.run)) or Run(subject.tenant, subject.run)
        run.apply(stored.subject, stored.payload, stored.seq)
        if run.n:
            # A run into which only a squatter wrote is unknown to everybody.
            self.runs[subject.tenant, subject.run] = run


class People:
    """All people outside. Until ``decides_promptly`` they act at random; then they answer every question."""

    def __init__(
        self,
        broker: MemoryBroker,
        outside: OutsideWorld,
        *,
        folded_runs: FoldedRuns,
        faults: SeedFaults,
        agents: list[str],
    ) -> None:
        self.acknowledged = Acknowledged()
        self.decides_promptly = False
        self._broker = broker
        self._outside = outside
        self._folded_runs = folded_runs
        self._faults = faults
        self._agents = agents
        self._chance = outside.script.chance("people")
        self._encoder = EventEncoder(build="sim", blobs=broker.blobs(), random_source=self._chance, now=virtual_now)
        self._stop_after_start_random = outside.script.chance("lurking")
        self._stop_after_start_share = self._stop_after_start_random.choice((0.0, 0.05, 0.2))
        broker.stream(stream_names.RUNS).listeners.append(self._stop_after_start)

    # --- clients ---------------------------------------------------------------------------------------------

    async def send_tasks(self, until_s: float) -> None:
        """Send two to four tasks, some twice, some under the key of another task."""
        chance = self._chance
        sent: list[tuple[TenantId, str, Task]] = []
        for index in range(chance.choice((2, 3, 4))):
            await anyio.sleep(chance.uniform(0.0, until_s / 4) if chance.random() < 0.7 else 0.0)
            tenant, agent = chance.choice(TENANTS), chance.choice(self._agents)
            task = Task(
                text=f"please do {chance.choice(('red', 'green', 'seven'))} " + "x" * chance.choice((1, 3_000)),
                user=chance.choice(("", "una", "ugo")),
                key=chance.choice(("", f"key-{index}")),
                run=chance.choice(("", "", "r1", f"run-{index}")),
                scope=None if chance.random() < 0.9 else (self._outside.script.tools[0].name,),
                limits={} if chance.random() < 0.8 else {"cost_max_micros": 5_000},
            )
            if sent and chance.random() < 0.3:
                tenant, agent, before = chance.choice(sent)
                changed = task.text if chance.random() < 0.4 else before.text
                task = msgspec.structs.replace(before, text=changed)
            sent.append((tenant, agent, task))
            cast("SimLoop", asyncio.get_running_loop()).spawn(self._send(tenant, agent, task))

    async def _send(self, tenant: TenantId, agent: str, task: Task) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self._broker.publish(subjects.task(tenant, AgentName(agent)), msgspec.json.encode(task))
            except Unreachable:
                await anyio.sleep(self._chance.uniform(0.1, 2.0))
                continue
            self.acknowledged.tasks.append((tenant, agent, task))
            return

    # --- people ----------------------------------------------------------------------------------------------

    async def act_on_runs(self) -> None:
        """Read the runs now and then, and send a control message about one of them."""
        while True:
            await anyio.sleep(self._chance.uniform(0.05, 4.0) if not self.decides_promptly else 1.0)
            runs = list(self._folded_runs.runs.values())
            if self.decides_promptly:
                for run in runs:
                    await self._decide_everything(run)
            elif runs:
                await self._send_random_control(self._chance.choice(runs))

    async def _decide_everything(self, state: Run) -> None:
        tenant, run = state.tenant, state.run
        if state.done:
            return
        if state.paused:
            await self.publish_control(tenant, run, "resume", Control(by="pia"))
        if state.spend_asked:
            await self.publish_control(tenant, run, "approve", Control(by="pia"))
        for call in state.proposal.calls if state.proposal else ():
            if call.stage is Stage.ASKED:
                for person in ("pia", "per"):
                    await self._decide(state, call, person, yes=True)

    async def _send_random_control(self, state: Run) -> None:
        tenant, run, chance = state.tenant, state.run, self._chance
        drawn = chance.random()
        if drawn < 0.06:
            await self.publish_control(tenant, run, "stop", Control(by="pia", why="enough"))
        elif drawn < 0.12:
            await self.stop_directly(tenant, run)
        elif drawn < 0.20:
            await self.publish_control(tenant, run, "pause", Control(by="pia"))
        elif drawn < 0.45:
            await self.publish_control(tenant, run, "resume", Control(by="pia"))
        if self._outside.hardship.is_active("events") and chance.random() < 0.5:
            await self.publish_control(
                tenant, run, "answer", Control(by="pia", event=chance.choice(EVENTS), answer="it is")
            )
        for call in state.proposal.calls if state.proposal else ():
            if call.stage is Stage.ASKED and chance.random() < 0.7:
                await self._decide(state, call, chance.choice(("pia", "per")), yes=chance.random() < 0.75)
        if state.spend_asked and chance.random() < 0.6:
            await self.publish_control(tenant, run, chance.choice(("approve", "deny")), Control(by="pia"))

    async def _decide(self, state: Run, call: CallState, person: str, *, yes: bool) -> None:
        tenant, run = state.tenant, state.run
        if isinstance(call.asked, Question):
            await self.publish_control(tenant, run, "answer", Control(by=person, call=call.call, answer="blue"))
        elif call.asked_about_outcome:
            happened = call.judged is not None and call.judged.effect_key in self._outside.keys
            action: Any = "done" if happened else "retry" if yes else "stop"
            await self.publish_control(tenant, run, "resolve", Control(by=person, call=call.call, action=action))
        elif isinstance(call.asked, AskedCall):
            shown = Control(
                by=person,
                call=call.call,
                args_sha256=call.asked.args_sha256,
                contract_digest=call.asked.contract_digest,
            )
            if not self.decides_promptly and self._chance.random() < 0.1:
                # A screen that shows an older question: such an approval must not count.
                shown = msgspec.structs.replace(shown, args_sha256="0" * 64)
            elif not self.decides_promptly and self._chance.random() < (
                0.7 if self._outside.hardship.kind == "edits" else 0.1
            ):
                await self.publish_control(tenant, run, "edit", msgspec.structs.replace(shown, args={"q": "green"}))
                return
            await self.publish_control(tenant, run, "approve" if yes else "deny", shown)

    async def publish_control(self, tenant: TenantId, run: RunId, verb: Verb, control: Control) -> None:
        """Publish one control message; a person without an acknowledgement sends it again later, or not at all."""
        try:
            subject = subjects.control(tenant, run, verb=verb)
            await self._broker.publish(subject, msgspec.json.encode(control))
        except Unreachable:
            return
        self.acknowledged.controls.append((tenant, run, verb, seconds()))

    async def stop_directly(self, tenant: TenantId, run: RunId) -> None:
        """Append ``operator.stopped`` directly, as ``linestop stop`` does with no actor alive."""
        log = self._broker.log(["operator"])
        for _ in range(TRIES_MAX):
            state = Run(tenant, run)
            try:
                for message in await log.load(tenant, run):
                    state.apply(message.subject, message.payload, message.seq)
                if state.stopped or state.sealed:
                    return
                event = stop_event(state, by="olga", why="line stopped")
                await log.append(await self._encoder.encode(state, "operator", event, Cue(kind="control", id="olga")))
            except (HeadMoved, Unreachable):
                await anyio.sleep(self._chance.uniform(0.0, 0.05))
                continue
            self.acknowledged.stops.append((tenant, run, seconds()))
            return

    async def stop_races(self, until_s: float) -> None:
        """Stop runs at unexpected moments, also runs that do not exist yet."""
        chance: random.Random = self._chance
        for _ in range(chance.choice((0, 1, 2, 4))):
            await anyio.sleep(chance.uniform(0.0, until_s))
            runs = list(self._folded_runs.runs) or [(TENANTS[0], RunId("run-0"))]
            await self.stop_directly(*chance.choice(runs))

    def _stop_after_start(self, stored: Stored) -> None:
        """Stop or pause some runs after a start is stored and before its acknowledgement, which then comes late.

        The started work then never begins. That is hardest to recognise for probes, so they get it most often.
        """
        subject = subjects.parse_run_event(stored.subject)
        if subject.event != "started" or not self._faults.is_active:
            return
        is_probe = b'"purpose":"probe"' in stored.payload
        if self._stop_after_start_random.random() >= (0.4 if is_probe else self._stop_after_start_share):
            return
        self._faults.delay_next_reply(self._stop_after_start_random.uniform(0.02, 1.5))
        loop = cast("SimLoop", asyncio.get_running_loop())
        if self._stop_after_start_random.random() < 0.6:
            loop.spawn(self.stop_directly(subject.tenant, subject.run))
        else:
            loop.spawn(self.publish_control(subject.tenant, subject.run, "pause", Control(by="pia")))
