"""The simulator: a thousand seeds are green, a seed is replayable, and every planted bug turns some seed red."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sim.__main__ import parse_seeds
from tests.sim.crowd import COST
from tests.sim.planted import PLANTED

ROOT = Path(__file__).parents[2]
SEEDS = 1_000
CHUNK = 250


def _simulate(*options: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    """Run the simulator in child processes: a simulated kill leaves coroutines that must never continue."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_no_seed_breaks_a_guarantee(first: int) -> None:
    """Every guarantee holds for each seed, whatever is lost, killed, frozen or decided at the wrong moment."""
    done = _simulate("--seeds", f"{first}-{first + CHUNK - 1}")
    assert done.returncode == 0, f"{done.stdout[-6_000:]}\n{done.stderr[-2_000:]}"
    assert f"{CHUNK} seeds" in done.stdout


@pytest.mark.parametrize(
    ("seeds", "runs", "paid_for"), [("1-3", 64, 20), ("2-2", 300, 100)], ids=["64 runs", "300 runs"]
)
def test_exactly_the_runs_complete_that_their_account_can_pay_for(seeds: str, runs: int, paid_for: int) -> None:
    """A third, with budget workers killed at random; the account is never over its limit, no run is stuck or lost."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    size = ("--runs", str(runs), "--paid-for", str(paid_for))
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.crowd", seeds, *size],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict["seed"] for verdict in verdicts] == parse_seeds(seeds)
    for verdict in verdicts:
        assert verdict["status"] == {"completed": paid_for, "over_budget": runs - paid_for}, verdict
        assert verdict["codes"] == {"budget": runs - paid_for}
        assert verdict["taken_micros"] == paid_for * COST, verdict
        assert verdict["kills"], verdict
        assert verdict["wrong"] == []
        assert verdict["events_max"] <= 10


def test_a_seed_gives_the_same_log_byte_for_byte() -> None:
    """Seeds are replayable: the digest of the log does not depend on process, addresses or hash seed."""
    runs = [_simulate("--seeds", "1-40", "--digest", hash_seed=hash_seed) for hash_seed in ("1", "2")]
    first, second = (
        sorted(line for line in run.stdout.splitlines() if line[:1].isdigit() and "red" not in line) for run in runs
    )
    assert len(first) == 40
    assert first == second


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_turns_some_seed_red(name: str) -> None:
    """The simulator finds this bug within the first thousand seeds, and names the broken guarantee."""
    planted = PLANTED[name]
    assert set(parse_seeds(planted.seeds)) <= set(range(SEEDS))
    done = _simulate("--seeds", planted.seeds, "--until-red", "--plant", name, "--hardship", planted.hardship)
    assert done.returncode == 1, done.stderr[-2_000:]
    assert PLANTED[name].found_by in done.stdout


def test_seeds_are_given_as_a_number_or_by_name() -> None:
    """``make sim SEEDS=…`` takes a number of seeds; a range or a list names them."""
    assert parse_seeds("3") == [1, 2, 3]
    assert parse_seeds("3,7-9") == [3, 7, 8, 9]
    assert parse_seeds("7-7") == [7]


@pytest.mark.parametrize("text", ["", "0", "some", "1-", "-3", "3,,7", "9-7"])
def test_an_invalid_seed_argument_is_refused(text: str) -> None:
    """A typing error must not look like a night without red seeds."""
    done = _simulate(f"--seeds={text}")
    assert done.returncode == 2
    assert "give how many (1000), a range (1001-2000) or several (3,7-9)" in done.stderr
    assert "Traceback" not in done.stderr
