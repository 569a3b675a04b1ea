"""The open runs that the sweep follows: as the log has them, at the cost of what has changed."""

from __future__ import annotations

import random
from collections import Counter

import anyio
import pytest

from linestop.bus.interfaces import Append
from linestop.errors import Unreachable
from linestop.runtime.housekeeping.open_runs import FOLLOW_WITHIN_S, LIST_AGAIN_AFTER_S, OpenRuns
from linestop.schemas.defaults import SWEEP_EVERY_S
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker, NoFaults
from linestop.testing.memory.log import MemoryLog
from linestop.testing.virtual_time import run_virtual, virtual_now

TENANT = TenantId("acme")


class Counted(NoFaults):
    """Counts the requests; fails those of the name in ``failing``."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.failing = ""

    async def before(self, op: str) -> None:
        """Count the request, or fail it."""
        self.requests[op] += 1
        if op == self.failing:
            raise Unreachable("no reply")


class Bench:
    """A log, and what a sweep knows of it."""

    def __init__(self) -> None:
        self.faults = Counted()
        self.broker = MemoryBroker(virtual_now, faults=self.faults)
        self.log = self.broker.log(["validator", "recorder"])
        self.known = OpenRuns(self.log)
        self.heads: dict[RunId, tuple[int, int]] = {}

    async def append(self, run: str, role: RoleName, event: str) -> None:
        """Append the run's next event."""
        key = RunId(run)
        n, seq = self.heads.get(key, (0, 0))
        append = Append(tenant=TENANT, run=key, role=role, event=event, n=n + 1, head_seq=seq, payload=b"{}")
        self.heads[key] = (n + 1, await self.log.append(append))

    async def begin(self, *runs: str) -> None:
        """Let these runs begin."""
        for run in runs:
            await self.append(run, "validator", "opened")


def test_many_rounds_list_all_runs_once_and_read_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in listings, and in messages that a round reads, with 2,000 runs stored."""

    async def main() -> None:
        bench, read = Bench(), 0
        inner = MemoryLog.run_changes

        async def counted(log: MemoryLog, after: object) -> object:
            nonlocal read
            changes = await inner(log, after)  # type: ignore[arg-type] # handed on
            read += len(changes.begun) + len(changes.sealed)
            return changes

        monkeypatch.setattr(MemoryLog, "run_changes", counted)
        await bench.begin(*(f"old-{n}" for n in range(2_000)))
        assert len(await bench.known.read()) == 2_000
        for n in range(100):
            await anyio.sleep(SWEEP_EVERY_S)
            await bench.begin(f"new-{n}")
            await bench.append(f"new-{n}", "recorder", "sealed")
            assert len(await bench.known.read()) == 2_000
        assert bench.faults.requests["log.open_runs"] == 1
        assert read == 200

    run_virtual(main, seed=1)


@pytest.mark.parametrize("seed", range(20))
def test_the_known_runs_are_the_open_runs_of_the_log(seed: int) -> None:
    """Whatever began and ended between two rounds, and also after rounds that failed."""

    async def main() -> None:
        bench, dice = Bench(), random.Random(seed)
        for n in range(60):
            await bench.begin(f"r{n}")
            for name in list(bench.heads):
                if dice.random() < 0.1:
                    is_over = dice.random() < 0.5
                    await bench.append(name, "recorder" if is_over else "validator", "sealed" if is_over else "judged")
            bench.faults.failing = "log.run_changes" if dice.random() < 0.2 else ""
            await anyio.sleep(SWEEP_EVERY_S)
            if bench.faults.failing:
                with pytest.raises(Unreachable):
                    await bench.known.read()
            elif dice.random() < 0.7:
                assert set(await bench.known.read()) == set(await bench.log.open_runs())

    run_virtual(main, seed=seed)


def test_all_runs_are_listed_again_after_an_hour_and_after_a_pause() -> None:
    """A run that left the log without a seal is forgotten then; a run that turned out to be over at once."""

    async def main() -> None:
        bench = Bench()
        await bench.begin("a", "b")
        assert len(await bench.known.read()) == 2
        bench.known.remove((TENANT, RunId("b")))
        await anyio.sleep(SWEEP_EVERY_S)
        assert await bench.known.read() == [(TENANT, "a")]
        await anyio.sleep(FOLLOW_WITHIN_S + 1)
        assert len(await bench.known.read()) == 2
        assert bench.faults.requests["log.open_runs"] == 2
        for _ in range(int(LIST_AGAIN_AFTER_S / SWEEP_EVERY_S) + 1):
            await anyio.sleep(SWEEP_EVERY_S)
            await bench.known.read()
        assert bench.faults.requests["log.open_runs"] == 3

    run_virtual(main, seed=1)
