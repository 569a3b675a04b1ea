"""The sizes of streams: chosen from the disk at set-up, and needed for a number of runs a day."""

from __future__ import annotations

from pathlib import Path

import pytest

from linestop.bus.disk_space import MIB
from linestop.bus.server.recovery import INDEX_SHARE, MACHINE_SHARE
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes, streams
from linestop.bus.streams.stream_sizes import (
    SIZES_FILE,
    TOTAL_MIN_BYTES,
    ExpectedLoad,
    embedded_sizes,
    plan_sizes,
    sizes_for,
    store_sizes,
    stored_sizes,
)
from linestop.errors import ConfigError
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK, STREAMS_DISK_SHARE
from linestop.schemas.defaults import RUNS_DAYS_MAX

GIB = 1024 * MIB
MEASURED = {
    (1, 100): (8_844, 657, 5_993),
    (3, 100): (23_215, 953, 15_432),
    (10, 100): (73_354, 1_899, 48_169),
    (20, 100): (145_208, 3_263, 95_352),
    (1, 900): (8_844, 657, 5_995),
    (3, 900): (28_015, 953, 21_848),
    (10, 900): (94_953, 1_899, 77_140),
    (20, 900): (190_807, 3_263, 97_348),
}
"""Bytes a run in RUNS, in OUTCOMES and in the archive, by turns and text: what ``bench/sizes.py`` printed."""


@pytest.mark.parametrize("free", [0, GIB, 10 * GIB, 500 * GIB, 20_000 * GIB])
def test_all_streams_together_take_half_of_the_disk(free: int) -> None:
    """Hardly less, and never more unless the disk is nearly full; each stream has some space."""
    space = sizes_for(free)
    expected_bytes = max(int(free * STREAMS_DISK_SHARE), TOTAL_MIN_BYTES)
    assert 0.9 * expected_bytes < space.total <= expected_bytes
    specs = streams(space)
    assert sum(spec.config["max_bytes"] for spec in specs) <= space.total
    assert all(spec.config["max_bytes"] >= spec.config["max_msg_size"] for spec in specs)


def test_a_large_disk_is_of_no_use_to_a_broker_with_little_memory() -> None:
    """It has an index of its messages in memory."""
    memory = 8 * GIB
    space = sizes_for(500 * GIB, memory=memory)
    assert space.total <= memory * MACHINE_SHARE / INDEX_SHARE
    assert sizes_for(10 * GIB, memory=memory) == sizes_for(10 * GIB)


def test_sizes_are_chosen_once_for_a_state_folder(tmp_path: Path) -> None:
    """A later start uses the same, however the disk has changed; an older folder keeps its sizes."""
    space, is_new = embedded_sizes(tmp_path)
    assert (is_new, stored_sizes(tmp_path)) == (True, None)
    store_sizes(tmp_path, StreamSizes(runs=7 * MIB))
    assert embedded_sizes(tmp_path) == (StreamSizes(runs=7 * MIB), False)
    (tmp_path / "older" / "jetstream").mkdir(parents=True)
    assert embedded_sizes(tmp_path / "older") == (DEFAULT_SIZES, False)
    assert space.total >= TOTAL_MIN_BYTES
    (tmp_path / SIZES_FILE).write_text("{")
    with pytest.raises(ConfigError, match="does not contain the sizes of streams"):
        stored_sizes(tmp_path)


@pytest.mark.parametrize(("turns", "text"), MEASURED)
def test_a_plan_agrees_with_the_measurements(turns: int, text: int) -> None:
    """Never less than measured; for runs of three or more turns hardly more in the stream that matters."""
    found = plan_sizes(ExpectedLoad(runs_per_day=1, turns=turns, text_bytes=text), DEFAULT_SIZES)
    runs, outcomes, archive = MEASURED[turns, text]
    by_name = {line.stream: line for line in found.streams}
    assert runs <= by_name[stream_names.RUNS].run_bytes <= runs * (1.1 if turns >= 3 else 1.3)
    assert outcomes <= by_name[stream_names.OUTCOMES].run_bytes
    assert archive <= found.archive_day_bytes


@pytest.mark.parametrize(
    "load", [ExpectedLoad(runs_per_day=5_000, turns=6), ExpectedLoad(runs_per_day=100_000, turns=1, long_bytes=9_000)]
)
def test_a_plan_names_a_disk_on_which_it_fits(load: ExpectedLoad) -> None:
    """And its maximum number of runs for the sizes is exactly what fits in them."""
    small = sizes_for(10 * GIB)
    found = plan_sizes(load, small)
    assert not found.fits
    assert plan_sizes(load, sizes_for(found.disk_bytes)).fits
    assert not plan_sizes(load, sizes_for(int(found.disk_bytes * 0.95))).fits

    def bears(runs_per_day: int) -> bool:
        return plan_sizes(
            ExpectedLoad(runs_per_day=runs_per_day, turns=load.turns, long_bytes=load.long_bytes), small
        ).fits

    assert bears(found.runs_per_day_max)
    assert not bears(found.runs_per_day_max + 2)


def test_a_plan_adds_the_tenth_that_is_closed_to_new_work() -> None:
    """A stream that is full after 90 days refuses new work before."""
    (runs, *_) = plan_sizes(ExpectedLoad(runs_per_day=1_000, turns=3), DEFAULT_SIZES).streams
    assert runs.needed_bytes == int(runs.run_bytes * 1_000 * RUNS_DAYS_MAX / SPACE_FOR_NEW_WORK)
    assert runs.days == pytest.approx(DEFAULT_SIZES.runs * SPACE_FOR_NEW_WORK / runs.day_bytes, abs=0.1)
    assert ExpectedLoad(runs_per_day=1, turns=1).days == RUNS_DAYS_MAX
