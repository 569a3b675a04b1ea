"""Many runs on one account, whose budget workers are killed at random: exactly the runs that fit complete.

    python -m tests.sim.crowd 1-20                               # seeds; prints one JSON verdict per line
    python -m tests.sim.crowd 1-2 --runs 300 --paid-for 100      # more runs, on an account for a third of them

This world is separate, because the seeds of ``simulate`` test everything at once: here every request costs the same,
so the number of runs that the account can pay for is known.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import sys
from collections import Counter
from typing import Any, cast

import anyio
import msgspec
import structlog
from tests.sim.__main__ import parse_seeds
from tests.sim.faults import SeedFaults, seconds
from tests.sim.loop import SimLoop
from tests.sim.outside import OutsideWorld
from tests.sim.people import FoldedRuns
from tests.sim.script import CONTRACTS, ModelBehavior, Script
from tests.sim.simulate import LOOPS_NOT_COLLECTED
from tests.sim.watched import WireRecord
from tests.sim.workers import Worker

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers
from linestop.runtime.money.account_state import Account
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import AccountLimits, Limits
from linestop.schemas.events import ModelChoice, Stopped
from linestop.schemas.model_messages import Price
from linestop.schemas.performer_interfaces import ModelWork
from linestop.schemas.subjects import RoleName
from linestop.schemas.verify.check_log import verify
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import START, virtual_now

OUTPUT_TOKENS = 1_000
COST, COST_MAX = 1_000, 2_000
"""Cost and highest cost of the one model request of a run, in micro-dollars: input is free, half of the output used."""

TIMEOUT_S = 3_000.0
TOPOLOGY: tuple[tuple[RoleName, ...], ...] = (
    ("planner", "executor"),
    ("validator", "approver", "recorder"),
    ("budget",),
    ("budget",),
    ("budget",),
)


class FixedCostScript(Script):
    """A script in which every model request takes 0.5 to 3 seconds, costs the same and ends its run."""

    def model_behavior(self, work: ModelWork) -> ModelBehavior:
        """An answer of ``OUTPUT_TOKENS / 2`` tokens."""
        draw = self.chance("turn", work.run, work.attempt)
        return ModelBehavior(
            draw=draw,
            set_up_s=0.0,
            takes_s=draw.uniform(0.5, 3.0),
            hangs=False,
            failure=None,
            billed=True,
            usage_reported=True,
            retry_after_s=None,
            text="done",
            calls=(),
            out=OUTPUT_TOKENS // 2,
        )


AGENT = AgentVersion(
    name="ann",
    prompt="Do it.",
    tools=(),
    limits=Limits(wall_s=100),
    model=ModelChoice(model="playbook/first", price=Price(input=0, output=2_000_000), output_tokens_max=OUTPUT_TOKENS),
)


class Crowd:
    """The world of one seed: ``runs`` of one user, whose account can pay for ``paid_for`` of them.

    Created and run inside a ``SimLoop``.
    """

    def __init__(self, seed: int, *, runs: int, paid_for: int) -> None:
        script = FixedCostScript(seed)
        self.runs = runs
        self.limits = AccountLimits(user_day_micros=(paid_for - 1) * COST + COST_MAX)
        self.taken = self.kills = 0
        self.chance = script.chance("crowd")
        self.broker = MemoryBroker(virtual_now, faults=SeedFaults(script.chance("faults")))
        self.folded_runs = FoldedRuns(self.broker)
        self.limits_exceeded: list[str] = []
        outside, wire_record = OutsideWorld(script, CONTRACTS), WireRecord()
        self.workers = [
            Worker(f"w{index}", roles, outside=outside, broker=self.broker, wire_record=wire_record)
            for index, roles in enumerate(TOPOLOGY)
        ]
        self.broker.stream(stream_names.bucket_stream(stream_names.SHARED_BUCKET)).listeners.append(self._written)

    def _written(self, stored: Any) -> None:
        if ".account.user-" in stored.subject and stored.payload:
            self.taken = msgspec.json.decode(stored.payload, type=Account).taken
            if self.taken > self.limits.user_day_micros:
                self.limits_exceeded.append(f"{self.taken} of {self.limits.user_day_micros} are taken")

    async def run(self) -> dict[str, Any]:
        """Submit all runs at once, kill budget workers, and wait until all runs are over."""
        await AgentStore(self.broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        for spec in consumers():
            self.broker.queue(spec)
        for worker in self.workers:
            worker.accounts = self.limits
            worker.start()
        for index in range(self.runs):
            task = {"text": "please", "run": f"r{index:03}", "user": "ann"}
            await self.broker.publish("tasks.t.ann", msgspec.json.encode(task))
        loop = cast("SimLoop", asyncio.get_running_loop())
        for worker in self.workers:
            if worker.roles == ("budget",):
                loop.spawn(self._kill_repeatedly(worker))
        while seconds() < TIMEOUT_S and not all(run.sealed for run in self._runs()):  # noqa: ASYNC110 - virtual time
            await anyio.sleep(1.0)
        return self._verdict()

    def _runs(self) -> list[Any]:
        runs = list(self.folded_runs.runs.values())
        return [*runs, *[MissingRun()] * (self.runs - len(runs))]

    async def _kill_repeatedly(self, worker: Worker) -> None:
        for _ in range(self.chance.randint(2, 8)):
            await anyio.sleep(self.chance.expovariate(0.7))
            worker.kill(steps=self.chance.choice((0, 1, 3, 10, 40)))
            await anyio.sleep(self.chance.choice((0.05, 1.0, 4.0)))
            worker.kill()
            self.kills += 1
            worker.start()

    def _verdict(self) -> dict[str, Any]:
        wrong = list(self.limits_exceeded)
        for run in self.folded_runs.runs.values():
            messages = [
                (m.subject, m.payload, m.seq)
                for m in self.broker.stream(stream_names.RUNS).matching(f"runs.{run.tenant}.{run.run}.>")
            ]
            wrong += [f"{run.run}: {p.sentence}" for p in verify(run.tenant, run.run, messages).problems]
        stops = [e.event for run in self.folded_runs.runs.values() for e in run.entries if isinstance(e.event, Stopped)]
        return {
            "ended_s": round(seconds(), 1),
            "status": dict(Counter(run.sealed.status if run.sealed else "open" for run in self._runs())),
            "codes": dict(Counter(stop.code for stop in stops)),
            "taken_micros": self.taken,
            "kills": self.kills,
            "events_max": max(run.n for run in self.folded_runs.runs.values()),
            "wrong": wrong,
        }


class MissingRun:
    """A run that was never opened."""

    sealed = None


def crowd(seed: int, *, runs: int, paid_for: int) -> dict[str, Any]:
    """Run one seed in a new loop; see ``simulate``."""
    loop = SimLoop(seed=seed, start=START)
    LOOPS_NOT_COLLECTED.append(loop)
    asyncio.set_event_loop(loop)

    async def main() -> dict[str, Any]:
        return await Crowd(seed, runs=runs, paid_for=paid_for).run()

    return {"seed": seed, **loop.run_until_complete(main())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.sim.crowd")
    parser.add_argument("seeds", type=parse_seeds)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--paid-for", type=int, default=20)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with contextlib.suppress(BrokenPipeError):
        for number in options.seeds:
            random.seed(number)
            verdict = crowd(number, runs=options.runs, paid_for=options.paid_for)
            sys.stdout.write(msgspec.json.encode(verdict).decode() + "\n")
            sys.stdout.flush()
