"""The cache of folded runs: what it drops, and that a new run costs the same however many runs are busy."""

from __future__ import annotations

import sys
from types import FrameType

import anyio
import msgspec
import pytest
from tests.run_logs import AGENT, RUN, TENANT, InMemory, ScriptedTurns, Tools

from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.runtime.run_cache import EVICTION_LOOKS_MAX, CachedRun, RunCache
from linestop.schemas.events import EffectStarted
from linestop.schemas.subjects import ACTORS, RunId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now


def add_busy(cache: RunCache, count: int) -> list[CachedRun]:
    """Add runs for which the process performs something."""
    entries: list[CachedRun] = []
    for n in range(count):
        entries.append(cache.get(TENANT, RunId(f"busy-{n}")))
        entries[-1].begin(1, anyio.CancelScope())
    return entries


@pytest.mark.parametrize("busy", [100, 5_000])
@pytest.mark.anyio
async def test_a_new_run_looks_at_few_of_the_busy_ones(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in entries of which the cache asks whether they are busy."""
    cache = RunCache(runs_max=50)
    add_busy(cache, busy)
    asked = 0

    def is_busy(entry: CachedRun) -> bool:
        nonlocal asked
        asked += 1
        return bool(entry.performing)

    monkeypatch.setattr(CachedRun, "is_busy", property(is_busy))
    for n in range(100):
        cache.get(TENANT, RunId(f"new-{n}"))
    assert 0 < asked <= 100 * EVICTION_LOOKS_MAX


@pytest.mark.anyio
async def test_the_run_that_was_not_used_for_longest_is_dropped_first_and_no_busy_one() -> None:
    """Also when busy runs are the oldest."""
    cache = RunCache(runs_max=4)
    busy = add_busy(cache, 2)
    for name in ("a", "b", "a", "c"):
        cache.get(TENANT, RunId(name))
    assert cache.peek(TENANT, RunId("b")) is None
    assert cache.peek(TENANT, RunId("a")) is not None
    assert all(cache.peek(*entry.key) is entry for entry in busy)
    assert len(cache) == 4


@pytest.mark.anyio
async def test_runs_that_are_no_longer_busy_are_dropped_in_the_end() -> None:
    """A cache that had to grow beyond its bound comes back to it."""
    cache = RunCache(runs_max=10)
    for entry in add_busy(cache, 100):
        entry.end(1)
    for n in range(100):
        cache.get(TENANT, RunId(f"new-{n}"))
    assert len(cache) == 10


@pytest.mark.anyio
async def test_only_runs_with_work_in_progress_are_at_work() -> None:
    """Draining and the reading of heads look at no other run."""
    cache = RunCache()
    first, second = add_busy(cache, 2)
    cache.get(TENANT, RunId("idle"))
    second.begin(2, anyio.CancelScope())
    first.end(1)
    second.end(1)
    assert cache.at_work() == [second]
    second.end(2)
    assert cache.at_work() == []


def calls_to_submit(busy: int) -> int:
    """The calls of functions from the arrival of a task to its seal, in a process with so many busy runs."""
    counted = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal counted
        counted += event.endswith("call")

    async def main() -> None:
        broker = MemoryBroker(virtual_now)
        await AgentStore(broker.bucket(stream_names.AGENTS_BUCKET)).deploy(AGENT)
        config = ProcessSettings(worker="w#1", now=virtual_now, sweeping=False, drain_s=0.0)
        roles = [make_role(role, requester=ScriptedTurns([]), runner=Tools({})) for role in ACTORS]
        process = ActorProcess(InMemory(broker), roles, config)
        sealed = anyio.Event()
        broker.stream(stream_names.RUNS).listeners.append(
            lambda stored: sealed.set() if ".sealed." in stored.subject else None
        )
        async with process.running():
            shell = process.shell
            for entry in add_busy(shell.cache, busy):
                started = EffectStarted(purpose="effect", worker="w#1", calls=())
                shell.capacity.reserve(entry.run, started)
                shell.capacity.begin(entry.run, started)
            sys.setprofile(count)
            await broker.publish(f"tasks.{TENANT}.a", msgspec.json.encode({"text": "go", "run": RUN}))
            await sealed.wait()
            sys.setprofile(None)

    try:
        run_virtual(main, seed=1)
    finally:
        sys.setprofile(None)
    return counted


def test_a_task_costs_the_same_with_5000_busy_runs_as_with_100() -> None:
    """From its arrival to its seal, in a process with all roles."""
    calls_to_submit(0)  # Fills caches of the process.
    assert calls_to_submit(5_000) <= 1.1 * calls_to_submit(100)
