"""Stopping many runs at once: a bounded number concurrently, and each is read and written once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.stack import stack

from linestop.client import Client
from linestop.client.stop_scope import CONCURRENT_STOPS_MAX

pytestmark = [pytest.mark.anyio, pytest.mark.broker]

RUNS = 2 * CONCURRENT_STOPS_MAX


@pytest.mark.parametrize("scope", ["all", "user:ann"])
async def test_each_run_of_a_scope_is_read_once_and_written_once(
    tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a thousand runs take seconds: ``bench/stopping.py`` measures that."""
    requests: Counter[str] = Counter()
    async with stack(tmp_path) as system, Client.connect(system.directory, as_="operator") as operator:
        async with anyio.create_task_group() as tasks:
            for index in range(RUNS):
                tasks.start_soon(partial(operator.submit, "desk", "hang", run=f"r{index}", user="ann"))
        log = operator.bus.log()
        for name in ("load", "head", "message_at", "append", "open_runs"):
            monkeypatch.setattr(log, name, _counted(requests, name, getattr(log, name)))
        monkeypatch.setattr(operator.bus, "log", lambda: log)
        stopped_runs = await operator.stop_all(scope, why="enough")
    assert (len(stopped_runs.stopped), stopped_runs.over, stopped_runs.failed) == (RUNS, 0, {})
    # If a run moves meanwhile, the append of its stop is refused with the new head, which is read.
    refused_appends = requests["append"] - RUNS
    assert requests["load"] <= RUNS + refused_appends
    assert refused_appends <= RUNS // 4
    assert (requests["head"], requests["open_runs"]) == (0, 2)


def _counted(
    requests: Counter[str], name: str, method: Callable[..., Awaitable[object]]
) -> Callable[..., Awaitable[object]]:
    async def counted(*args: object, **options: object) -> object:
        requests[name] += 1
        return await method(*args, **options)

    return counted
