"""The aims are computed from the figures that the benches report."""

from __future__ import annotations

import math

import msgspec
import pytest
from bench.aims import AIMS, Aim, aims_table, turns_table
from bench.report import ROOT, Report
from tests.bench.test_figures import report

CPU = "one process, sync 1s, 16 in flight"


def with_cpu(ms: float, *, three: float | None = None) -> Report:
    """A report with the CPU time of a turn, in one process and perhaps in three."""
    made = report()
    made.add("turns", CPU, "CPU", ms, "ms a turn")
    if three is not None:
        made.add("turns", CPU.replace("one process", "three processes"), "CPU", three, "ms a turn")
    return made


@pytest.mark.parametrize("aim", AIMS, ids=lambda aim: aim.text)
def test_each_aim_names_figures_that_its_bench_reports(aim: Aim) -> None:
    """A renamed figure would otherwise be shown as not measured."""
    for bench, _, name in filter(None, (aim.figure, aim.to)):
        source = (ROOT / "bench" / f"{bench}.py").read_text(encoding="utf-8")
        assert name in source or "{name} of a turn to the floor's" in source


def test_a_missed_aim_is_bold_and_an_unmeasured_one_is_a_dash() -> None:
    """So a reader sees at once what remains to be done."""
    table = aims_table([("before", with_cpu(2.6)), ("now", with_cpu(1.5, three=2.9))])
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in table.splitlines()}
    assert rows["aim"] == ["limit", "before", "now |"]
    assert rows["one process, 16 in flight: CPU of a turn"] == ["≤ 1.6 ms", "**2.6 ms**", "1.5 ms |"]
    assert rows["three processes, 16 in flight: CPU of a turn to one process"] == ["≤ 2", "—", "1.93 |"]


def test_an_aim_may_be_a_lower_limit() -> None:
    """Speeds must be at least as high as the aim, costs at most."""
    aim = Aim(text="", figure=("turns", CPU, "CPU"), limit=0.4, at_least=True)
    assert aim.is_met(0.4)
    assert not aim.is_met(0.39)
    assert not msgspec.structs.replace(aim, at_least=False).is_met(0.41)
    assert math.isnan(aim.value(report()))


def test_the_table_of_turns_has_only_what_was_measured() -> None:
    """A column without a figure stays empty."""
    lines = turns_table(with_cpu(1.5)).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| sync 1s | one | 16 |  |  | 1.5 |  |  |  |  |"
