"""Every bench can be called by its name, and measures real processes."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.__main__ import BENCHES, DEFAULT, main
from bench.report import ROOT
from bench.system.linestop_processes import ONE
from bench.system.process_use import with_children
from bench.system.project_folder import ASKS, environment, working_agent
from bench.system.running_system import TurnStart, running_system, turn_lengths

TWO_TURNS = working_agent(2, text=50)


def test_every_module_that_measures_is_listed() -> None:
    """A new file can be called only when ``python -m bench`` knows its name."""
    measuring = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "measure"
    }
    assert measuring == set(BENCHES)
    assert set(DEFAULT) < set(BENCHES)


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_says_what_it_measures(name: str) -> None:
    """The first line of its docstring is its line in ``--help``."""
    assert (importlib.import_module(f"bench.{name}").__doc__ or "").splitlines()[0].endswith(".")


def test_an_unknown_name_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the names that exist."""
    monkeypatch.setattr(sys, "argv", ["bench", "speed"])
    assert main() == 2
    assert "There is no bench speed; there is turns," in capsys.readouterr().err


def test_a_turn_lasts_until_the_next_one_of_its_run() -> None:
    """Turns of different runs overlap; the last turn of a run has no end."""
    starts = [TurnStart("a", 5, 1.0), TurnStart("b", 5, 1.5), TurnStart("a", 11, 3.0), TurnStart("b", 11, 3.0)]
    assert turn_lengths(starts) == [(5, 2.0), (5, 1.5)]


def test_the_processes_that_a_process_has_started_are_measured_too() -> None:
    """The archive is written by a child of the process that was started."""
    with subprocess.Popen(["sleep", "60"]) as child:
        found = with_children([os.getpid()])
        child.kill()
    assert found[0] == os.getpid()
    assert child.pid in found


def test_a_measured_process_sees_no_setting_of_the_caller() -> None:
    """A profile or a tracing endpoint in the environment would change what is measured."""
    found = environment(Path("/state"), {"LINESTOP_PROFILE": "prod", "OTEL_EXPORTER_OTLP_ENDPOINT": "x", "HOME": "/h"})
    assert found == {"HOME": "/h", "LINESTOP_DIR": "/state", "PYTHONPATH": str(ROOT)}


@pytest.mark.broker
@pytest.mark.e2e
@pytest.mark.anyio
async def test_runs_are_worked_on_by_the_processes_that_are_measured() -> None:
    """Turns, questions and the events of a turn are counted, and the processes are others than this one."""
    async with running_system([TWO_TURNS, ASKS], ONE) as system:
        assert os.getpid() not in system.pids
        starts = await system.complete(TWO_TURNS, 3)
        assert len(starts) == 6
        assert sum(await system.event_sizes(TWO_TURNS)) > 2 * 50
        load = await system.keep_busy(TWO_TURNS, 2, 0.2, warm_s=0.1)
        assert load.turns_s > 0
        assert load.cpu_ms > 0
        await system.submit(ASKS)
        await system.wait_until(lambda: system.asked == 1, within_s=30)
        with pytest.raises(TimeoutError, match=r"after 0\.05 s \d+ turns have begun and 1 questions"):
            await system.wait_until(lambda: system.asked == 2, within_s=0.05)
