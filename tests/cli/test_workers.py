"""``workers``: who does which role."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.stack import background_stack, command

from linestop.bus.beats import Beat, Worker
from linestop.cli.workers import row
from linestop.schemas.subjects import ACTORS

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.broker
def test_every_role_of_a_running_process_has_its_line(tmp_path: Path) -> None:
    """With its worker, its state and what it holds; a role that nobody does is named where one is missing."""
    with background_stack(tmp_path / "line") as line:
        ran = command(line.directory, "workers")
        assert ran.code == 0
        shown = {words[0]: words[1:3] for words in (text.split() for text in ran.out.splitlines()) if len(words) > 2}
        assert {role: shown[role][1] for role in ACTORS} == dict.fromkeys(ACTORS, "working")
        assert "No worker does this" not in ran.err


@pytest.mark.broker
def test_a_role_that_no_worker_does_is_named(tmp_path: Path) -> None:
    """So that nobody has to guess why a run stands still."""
    with background_stack(tmp_path / "line", actors=False) as line:
        ran = command(line.directory, "workers")
        assert (ran.code, ran.out) == (0, "")
        assert all(role in ran.err for role in ACTORS)


def test_a_worker_that_refuses_or_fell_silent_says_so() -> None:
    """With the reason, and how far its clock is off."""
    beat = Beat(
        role="executor", worker="w#1", host="h", version="1", started_at=AT, state="refusing",
        why="its clock is off", clock_offset_s=-40.0, starts=1,
    )  # fmt: skip
    shown = row(Worker(beat=beat, last_beat=AT, alive=True))
    assert shown[2] == "refusing: its clock is off"
    assert shown[6:] == ("-40.0 s", "0 runs, 1 start")
    assert row(Worker(beat=beat, last_beat=AT, alive=False))[2] == "dead"
