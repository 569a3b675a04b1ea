"""The results that are reported of a start, and when they come too late to be the first report."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest
import tests.run_logs
from tests.run_logs import AGENT, RUN, TENANT, LiveRun, Tools, record

from linestop.schemas.events import Finished, Policy
from linestop.schemas.performer_interfaces import CallWork
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.tool_contracts import ToolResult

SLOW_S = 60.0
POSTING = msgspec.structs.replace(AGENT, policy=Policy(clear=("post",)))


class SlowTools(Tools):
    """Tools that have their result long after they should have ended."""

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Take your time."""
        await anyio.sleep(SLOW_S)
        async for done in super().run(works):
            yield done


async def wait(live_run: LiveRun) -> None:
    """Let the tool end."""
    del live_run
    await anyio.sleep(SLOW_S + 5)


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_result_is_late_if_its_attempt_was_given_up_before(monkeypatch: pytest.MonkeyPatch, is_slow: bool) -> None:
    """After its time an attempt is reported as unknown; a later result is marked as late, and settles it."""
    if is_slow:
        monkeypatch.setattr(tests.run_logs, "Tools", SlowTools)
    log = record([[("post", "a")]], wait, agent=POSTING)
    run = fold_messages(TENANT, RUN, log)
    results = [entry.event for entry in run.entries if isinstance(entry.event, Finished) and not entry.ignored]
    outcomes = [(event.outcome, event.late) for event in results]
    assert outcomes == ([("unknown", False), ("succeeded", True)] if is_slow else [("succeeded", False)])
