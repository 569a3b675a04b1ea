"""Stopping many runs at once: a bounded number of them at a time, and each read and written once."""

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
    asked: Counter[str] = Counter()
    async with stack(tmp_path) as line, Client.connect(line.directory, as_="operator") as operator:
        async with anyio.create_task_group() as tasks:
            for index in range(RUNS):
                tasks.start_soon(partial(operator.submit, "desk", "hang", run=f"r{index}", user="ann"))
        log = operator.bus.log()
        for name in ("load", "head", "message_at", "append", "open_runs"):
            monkeypatch.setattr(log, name, _counted(asked, name, getattr(log, name)))
        monkeypatch.setattr(operator.bus, "log", lambda: log)
        found = await operator.stop_all(scope, why="enough")
    assert (len(found.stopped), found.over, found.failed) == (RUNS, 0, {})
    # A run that goes on meanwhile refuses a stop and names its head, which is read.
    lost = asked["append"] - RUNS
    assert asked["load"] <= RUNS + lost
    assert lost <= RUNS // 4
    assert (asked["head"], asked["open_runs"]) == (0, 2)


def _counted(
    asked: Counter[str], name: str, call: Callable[..., Awaitable[object]]
) -> Callable[..., Awaitable[object]]:
    async def counted(*args: object, **options: object) -> object:
        asked[name] += 1
        return await call(*args, **options)

    return counted
