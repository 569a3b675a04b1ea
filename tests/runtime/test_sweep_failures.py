"""A sweep that cannot advance a run: a refusal is one line of the log, and only a defect has a traceback."""

from __future__ import annotations

import anyio
import pytest
import structlog.testing
from tests.bus.test_deadlines_on_time import virtually
from tests.virtual_processes import EACH, ScriptedModel, agent, calls, processes

from linestop.errors import TooLarge
from linestop.runtime.housekeeping.stalled_run_sweep import Sweep
from linestop.schemas.defaults import SWEEP_EVERY_S


@pytest.mark.parametrize(
    ("error", "level", "has_traceback"),
    [(TooLarge("RUNS is full."), "warning", False), (ValueError("a defect"), "error", True)],
)
def test_a_full_log_costs_the_sweep_a_line_and_no_traceback(
    error: Exception, level: str, has_traceback: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each round in which it is tried."""

    async def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(Sweep, "_advance", refuse)

    async def main() -> None:
        model = ScriptedModel([calls(("pay", {"q": "1"}))])
        async with processes(EACH, model, version=agent(), sweeping=True):
            await anyio.sleep(3 * SWEEP_EVERY_S)

    with structlog.testing.capture_logs() as logged:
        virtually(main)
    lines = [line for line in logged if line["event"] == "sweep_advance_failed"]
    assert len(lines) >= 1
    assert {(line["log_level"], line["error"], bool(line.get("exc_info"))) for line in lines} == {
        (level, str(error), has_traceback)
    }
