"""``workers``: the workers and their roles."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.stack import background_stack, command

from linestop.bus.stores.worker_heartbeats import Heartbeat, ProcessLoad, WorkerStatus
from linestop.cli.doctor.stream_checks import CheckWarning
from linestop.cli.doctor.worker_checks import worker_cells, workers_sentence
from linestop.errors import LinestopError
from linestop.runtime.workers.worker_names import lock_name
from linestop.schemas.subjects import ACTORS, RoleName

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.broker
def test_every_role_of_a_running_process_has_its_line(tmp_path: Path) -> None:
    """With its worker, its state and the work it holds; roles without a worker are named."""
    with background_stack(tmp_path / "line") as system:
        ran = command(system.directory, "workers")
        assert ran.code == 0
        shown = {words[0]: words[1:3] for words in (text.split() for text in ran.out.splitlines()) if len(words) > 2}
        assert {role: shown[role][1] for role in ACTORS} == dict.fromkeys(ACTORS, "working")
        assert "These roles have no worker" not in ran.err


@pytest.mark.broker
def test_a_role_that_no_worker_does_is_named(tmp_path: Path) -> None:
    """It explains why a run stands still."""
    with background_stack(tmp_path / "line", actors=False) as system:
        ran = command(system.directory, "workers")
        assert (ran.code, ran.out) == (0, "")
        assert all(role in ran.err for role in ACTORS)


@pytest.mark.broker
def test_doctor_and_health_fail_while_a_role_has_no_worker(tmp_path: Path) -> None:
    """They name every such role; a check of one worker ignores the others."""
    with background_stack(tmp_path / "line", actors=False) as system:
        for words in (["doctor", "--json"], ["health"]):
            ran = command(system.directory, *words)
            assert ran.code == 1, words
            assert f"these roles have no worker: {', '.join(ACTORS)}" in ran.out + ran.err, words
        with lock_name(system.directory, "here"):
            assert command(system.directory, "health", "--worker", "here").code == 0


@pytest.mark.broker
def test_doctor_and_health_pass_when_every_role_has_a_worker(tmp_path: Path) -> None:
    """By one process, which they name."""
    with background_stack(tmp_path / "line") as system:
        found = {each["check"]: each for each in command(system.directory, "doctor", "--json").json}
        assert found["workers"]["level"] == "ok"
        assert found["workers"]["sentence"].startswith("every role has a worker (stack#")
        ran = command(system.directory, "health")
        assert (ran.code, "Workers: every role has a worker" in ran.out) == (0, True)


def living(role: RoleName, **fields: Any) -> WorkerStatus:
    """A worker that lives."""
    given: dict[str, Any] = {"worker": f"{role}#1", "host": "h", "version": "1", "started_at": AT, **fields}
    beat = Heartbeat(role=role, **given)
    return WorkerStatus(beat=beat, last_beat=AT, alive=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"state": "refusing", "why": "Its clock is 40 s off."}, "executor#1 decides nothing: Its clock is 40 s off"),
        ({"state": "ending"}, "this role has no worker: executor; start `linestop actor executor`, `up` or `dev`"),
    ],
)
def test_doctor_does_not_count_a_worker_that_does_nothing(fields: dict[str, Any], sentence: str) -> None:
    """One whose clock is wrong, or that is ending, does not do its role."""
    found = [living(role, **(fields if role == "executor" else {})) for role in ACTORS]
    with pytest.raises(LinestopError, match="this role has no worker: executor") as raised:
        workers_sentence(found)
    assert sentence in str(raised.value)
    # A second executor is enough; the first one's refusal is still reported.
    found.append(living("executor", worker="other#1"))
    if "why" in fields:
        with pytest.raises(CheckWarning, match="executor#1 decides nothing"):
            workers_sentence(found)
    else:
        assert workers_sentence(found).startswith("every role has a worker")


def test_a_skewed_clock_and_overload_are_warnings_of_doctor_and_shown_in_workers() -> None:
    """Each process once, however many roles it has."""
    load = ProcessLoad(runs=9, runs_max=64, starts=64, starts_max=64, waiting=7, lag_s=0.4)
    busy = "64 of 64 starts, 7 waiting for a place, steps begin 0.40 s late"
    found = [living(role, worker="w#1", clock_offset_s=-2.5, load=load) for role in ACTORS]
    with pytest.raises(CheckWarning) as raised:
        workers_sentence(found)
    warning = str(raised.value)
    assert warning.count("the clock of w#1 is -2.5 s from the broker's") == 1
    assert warning.count(f"w#1 is overloaded: 9 of 64 runs, {busy}") == 1
    assert worker_cells(found[0])[2] == f"working, overloaded: 9 of 64 runs, {busy}"
    free = ProcessLoad(runs=1, runs_max=64, starts=1, starts_max=64, waiting=0, lag_s=0)
    well = [living(role, clock_offset_s=0.5, load=free) for role in ACTORS]
    assert workers_sentence(well).startswith("every role has a worker")
    assert worker_cells(well[0])[2] == "working"


def test_workers_shows_who_refuses_work_or_is_silent() -> None:
    """With the reason, and how far its clock is off."""
    beat = Heartbeat(
        role="executor",
        worker="w#1",
        host="h",
        version="1",
        started_at=AT,
        state="refusing",
        why="its clock is off",
        clock_offset_s=-40.0,
        starts=1,
    )
    shown = worker_cells(WorkerStatus(beat=beat, last_beat=AT, alive=True))
    assert shown[2] == "refusing: its clock is off"
    assert shown[6:] == ("-40.0 s", "0 runs, 1 start")
    assert worker_cells(WorkerStatus(beat=beat, last_beat=AT, alive=False))[2] == "dead"
