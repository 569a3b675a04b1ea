"""Faults on the way to the broker and back, drawn from the seed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
from tests.sim.loop import PROCESS

from linestop.errors import Unreachable

REPLY_TIMEOUT_S = 2.0
"""How long a client waits for a reply before it reports the broker as unreachable."""


@dataclass(slots=True)
class FaultPlan:
    """The faults of a seed: probabilities per operation, and windows (in seconds) in which nothing gets through."""

    unreachable: float = 0.0
    reply_lost: float = 0.0
    reply_late: float = 0.0
    late_max_s: float = 0.0
    dropped: float = 0.0
    doubled: float = 0.0
    delayed: float = 0.0
    delayed_max_s: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    partitions: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])


def draw_fault_plan(chance: random.Random, names: Sequence[str], until_s: float) -> FaultPlan:
    """Draw the weather of a seed: a third of them calm, a third rough, a third foul."""
    kind = chance.choice(("calm", "rough", "foul"))
    if kind == "calm":
        return FaultPlan(delayed=0.05, delayed_max_s=0.05)
    scale = 1.0 if kind == "rough" else 3.0
    plan = FaultPlan(
        unreachable=0.01 * scale,
        reply_lost=0.008 * scale,
        reply_late=0.06 * scale,
        late_max_s=chance.choice((0.5, 5.0, 9.0)),
        dropped=0.02 * scale,
        doubled=0.03 * scale,
        delayed=0.1 * scale,
        delayed_max_s=chance.choice((0.1, 1.0, 6.0)),
    )
    for _ in range(chance.choice((0, 1, 2))):
        begin = chance.uniform(0.0, until_s - 8.0)
        plan.outages.append((begin, begin + chance.uniform(0.5, 7.0)))
    for name in names:
        if chance.random() < 0.25 * scale:
            begin = chance.uniform(0.0, until_s - 12.0)
            plan.partitions.setdefault(name, []).append((begin, begin + chance.uniform(1.0, 11.0)))
    return plan


class SeedFaults:
    """The faults of one seed; see ``linestop.testing.memory.Faults``. Off until ``is_active`` is set."""

    def __init__(self, chance: random.Random) -> None:
        self.plan = FaultPlan()
        self.is_active = False
        self._next_reply_delay_s = 0.0
        self._chance = chance

    def delay_next_reply(self, delay_s: float) -> None:
        """Delay the next reply, which is the reply to the current request."""
        self._next_reply_delay_s = delay_s

    async def before(self, op: str) -> None:
        """Deliver the request, or lose it."""
        if not self.is_active:
            if self._is_outage():
                await anyio.sleep(REPLY_TIMEOUT_S / 2)
                raise Unreachable(f"The broker did not answer to {op}.")
            return
        if self._is_disconnected() or self._chance.random() < self.plan.unreachable:
            await anyio.sleep(self._chance.uniform(0.0, REPLY_TIMEOUT_S))
            raise Unreachable(f"The broker did not answer to {op}.")
        await self._transmit()

    async def after(self, op: str) -> None:
        """Deliver the reply, perhaps late or never."""
        if not self.is_active:
            return
        drawn = self._chance.random()
        plan = self.plan
        if self._next_reply_delay_s:
            delay_s, self._next_reply_delay_s = self._next_reply_delay_s, 0.0
            await anyio.sleep(delay_s)
        if self._is_disconnected() or drawn < plan.reply_lost:
            await anyio.sleep(REPLY_TIMEOUT_S)
            raise Unreachable(f"The broker's reply to {op} was lost.")
        if drawn < plan.reply_lost + plan.reply_late:
            await anyio.sleep(self._chance.uniform(0.05, plan.late_max_s))
        else:
            await self._transmit()

    def copies(self, subject: str) -> Sequence[float]:
        """The delays of the deliveries of a message: one, none, two, or late."""
        del subject
        if not self.is_active:
            return () if self._is_outage() else (0.0,)
        drawn = self._chance.random()
        plan = self.plan
        if self._is_outage() or drawn < plan.dropped:
            return ()
        if drawn < plan.dropped + plan.doubled:
            return (0.0, self._chance.uniform(0.0, plan.delayed_max_s))
        if drawn < plan.dropped + plan.doubled + plan.delayed:
            return (self._chance.uniform(0.0, plan.delayed_max_s),)
        return (0.0,)

    async def _transmit(self) -> None:
        await anyio.sleep(self._chance.expovariate(1_000.0) if self._chance.random() < 0.3 else 0.0)

    def _is_disconnected(self) -> bool:
        process = PROCESS.get()
        if process is None:
            return self._is_outage()
        windows = self.plan.partitions.get(process.name.partition("#")[0], [])
        return self._is_outage() or _within(windows)

    def _is_outage(self) -> bool:
        return _within(self.plan.outages)


def _within(windows: list[tuple[float, float]]) -> bool:
    if not windows:
        return False
    now_s = seconds()
    return any(begin <= now_s < end for begin, end in windows)


def seconds() -> float:
    """True virtual seconds since the simulation began."""
    return asyncio.get_running_loop().time()
