"""Hardships, at most one per seed: something is away, slow or full for minutes, or has changed permanently.

Three seeds of five have one. It is drawn apart from everything else, so that it never changes other seeds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import anyio
import msgspec
from tests.sim.faults import seconds

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.schemas.agents import AgentVersion
from linestop.schemas.subjects import ACTORS, RoleName

if TYPE_CHECKING:
    from tests.sim.outside import OutsideWorld
    from tests.sim.watched import WireRecord
    from tests.sim.workers import Worker

    from linestop.testing.memory import MemoryBroker
    from linestop.testing.memory.stream import Stored

Kind = Literal[
    "role away",
    "worker lost",
    "provider away",
    "broker away",
    "replica lags",
    "outcomes full",
    "runs full",
    "busy",
    "events",
    "contracts change",
    "squatter",
    "workers cut",
    "edits",
]
"""``worker lost``: one of two equal workers dies as soon as it has started something, and stays away for minutes.

``busy``: a process is blocked, and none of its tasks runs meanwhile. ``events``: agents wait for events that services
report, before and after the wait begins. ``squatter``: a stolen credential writes rubbish into runs that are about to
be opened. ``workers cut``: each of two equal workers is cut off from the broker, again and again, for long enough to
seem dead; in half of the seeds at the worst moment: one when it appends a result, the other right after it has
appended the result of its own attempt.
"""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
LASTING: Final[frozenset[str]] = frozenset(
    {
        "role away",
        "worker lost",
        "provider away",
        "broker away",
        "outcomes full",
        "runs full",
    }
)
"""The hardships that have to end before everything works again."""

SHARE: Final = 0.6
TWINS: Final[tuple[tuple[RoleName, ...], ...]] = (ACTORS, ACTORS)
EVENTS: Final = ("paid", "sent")


@dataclass(frozen=True, slots=True)
class Hardship:
    """The hardship of a seed, with its time in true seconds; ``amount`` is a distance or duration in seconds."""

    kind: Kind | Literal[""] = ""
    from_s: float = 0.0
    until_s: float = 0.0
    amount: float = 0.0

    @property
    def excludes_other_faults(self) -> bool:
        """Whether the seed has no other faults, so that the exact time of its effects is known."""
        return self.kind in {"role away", "worker lost", "provider away"}

    @property
    def ends_s(self) -> float:
        """When the hardship is over; 0 for one that makes nothing worse."""
        return self.until_s if self.kind in LASTING else 0.0

    def is_active(self, *kinds: Kind) -> bool:
        """Whether the hardship is one of these kinds, and active now."""
        return self.kind in kinds and self.from_s <= seconds() < self.until_s


ONLY: list[Kind] = []
"""The kinds to draw, one in every seed; if empty, some seeds have one of all kinds."""


def draw_hardship(chance: random.Random) -> Hardship:
    """Draw the hardship of a seed."""
    if chance.random() >= SHARE and not ONLY:
        return Hardship()
    kind = chance.choice(ONLY or KINDS)
    from_s, for_s, amount = chance.uniform(2.0, 30.0), chance.uniform(60.0, 150.0), 0.0
    match kind:
        case "replica lags" | "busy":
            from_s, for_s, amount = 0.0, float("inf"), chance.choice((0.05, 0.4, 2.0))
        case "events" | "squatter" | "edits":
            from_s, for_s = 0.0, float("inf")
        case "workers cut":
            from_s, for_s, amount = 0.0, float("inf"), chance.choice((0.0, 8.0))
        case "contracts change":
            for_s = float("inf")
        case _:
            pass
    return Hardship(kind, from_s, from_s + for_s, amount)


def draw_disconnections(chance: random.Random, until_s: float) -> list[tuple[float, float]]:
    """Draw the times in which a worker is cut off."""
    found: list[tuple[float, float]] = []
    end = chance.uniform(0.0, 8.0)
    while (begin := end + chance.uniform(0.5, 6.0)) < until_s - 13.0:
        end = begin + chance.uniform(0.2, 12.0)
        found.append((begin, end))
    return found


class HardshipDriver:
    """Carries out the hardship of a seed."""

    def __init__(
        self, hardship: Hardship, chance: random.Random, *, broker: MemoryBroker, outside: OutsideWorld
    ) -> None:
        self.hardship = hardship
        self._chance = chance
        self._broker = broker
        self._outside = outside

    async def run(self, workers: Sequence[Worker], agents: Sequence[AgentVersion], wire_record: WireRecord) -> None:
        """Wait for the time of the hardship, then carry it out."""
        hardship = self.hardship
        await anyio.sleep(hardship.from_s)
        match hardship.kind:
            case "role away":
                role = self._chance.choice(ACTORS)
                await self._take_away([worker for worker in workers if role in worker.roles], wire_record)
            case "worker lost":
                await self._kill_after_next_start(self._chance.choice(workers), wire_record)
            case "outcomes full":
                stream = self._broker.stream(stream_names.OUTCOMES)
                stream.bytes_max = max(stream.bytes_used, 1)
                await anyio.sleep(hardship.until_s - seconds())
                stream.bytes_max = 0
            case "contracts change":
                await self._change(agents)
                await self._roll(workers, wire_record)
            case _:
                pass

    async def _take_away(self, workers: Sequence[Worker], wire_record: WireRecord) -> None:
        for worker in workers:
            wire_record.disconnections.append((worker.process.name, seconds(), float("inf")))
            worker.kill()
        await anyio.sleep(self.hardship.until_s - seconds())
        for worker in workers:
            worker.start()

    async def _kill_after_next_start(self, victim: Worker, wire_record: WireRecord) -> None:
        """Kill a worker a little after the next start that it stores."""
        started, name = anyio.Event(), f'"worker":"{victim.process.name}"'.encode()

        def stored(message: Stored) -> None:
            if ".started." in message.subject and name in message.payload:
                started.set()

        self._broker.stream(stream_names.RUNS).listeners.append(stored)
        with anyio.move_on_after(self.hardship.until_s - seconds()):
            await started.wait()
            await anyio.sleep(self._chance.choice((0.0, 0.01, 0.3)))
            await self._take_away([victim], wire_record)

    async def _change(self, agents: Sequence[AgentVersion]) -> None:
        """Deploy all agents again: each tool has another description, and some may do more than before."""
        contracts = self._outside.contracts
        for name, contract in contracts.items():
            wider = {"scopes": ("more",)} if self._chance.random() < 0.4 and contract.kind != "wait" else {}
            contracts[name] = msgspec.structs.replace(contract, description=f"{contract.description} again", **wider)
        store = AgentStore(self._broker.bucket(stream_names.AGENTS_BUCKET))
        for agent in agents:
            tools = tuple(contracts[tool.name] for tool in agent.tools)
            await store.deploy(msgspec.structs.replace(agent, prompt=f"{agent.prompt} Now.", tools=tools))

    async def _roll(self, workers: Sequence[Worker], wire_record: WireRecord) -> None:
        """Restart one worker after the other with the current tools; old and new workers run at the same time."""
        for worker in workers:
            await anyio.sleep(self._chance.choice((0.0, 0.2, 5.0)))
            wire_record.disconnections.append((worker.process.name, seconds(), float("inf")))
            await worker.drain()
            worker.start()
