"""Figures are kept as they are printed, and two files of them are compared figure by figure."""

from __future__ import annotations

import math

import pytest
from bench.compare import compare
from bench.report import Better, Machine, Report, median, percentile_99, significant


def report(python_ms: float = 10.0) -> Report:
    """A report without figures."""
    machine = Machine(
        at="2026-12-01",
        commit="abc",
        cores=2,
        processor="p",
        kernel="k",
        python="3.11",
        broker="b",
        load=1.5,
        python_ms=python_ms,
    )
    return Report(machine=machine)


def with_figure(value: float, *, name: str = "CPU", better: Better = "lower") -> Report:
    """A report with one figure of the bench ``turns``."""
    made = report()
    made.add("turns", "one process", name, value, "ms", better=better)
    return made


def test_a_figure_is_printed_in_one_line_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """The line and the file have the same value, with four digits."""
    made = with_figure(1.23456)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split() == ["turns", "one", "process", "CPU", "1.235", "ms"]
    assert made.figures[0].value == pytest.approx(1.235)


def test_what_could_not_be_measured_is_kept_with_its_reason() -> None:
    """The reason is the first error within a group, because that says what happened."""
    made = report()
    made.fail("turns", "six processes", ExceptionGroup("tasks", [ValueError("no broker")]))
    assert made.failed == {"turns, six processes": "ValueError: no broker"}


@pytest.mark.parametrize(
    ("before", "after", "better", "row"),
    [
        (2.0, 1.0, "lower", "2  1  0.50  better"),
        (1.0, 2.0, "lower", "1  2  2.00  worse"),
        (1.0, 2.0, "higher", "1  2  2.00  better"),
        (2.0, 1.0, "higher", "2  1  0.50  worse"),
        (1.0, 1.001, "lower", "1  1.001  1.00  same"),
        (0.0, 1.0, "lower", "0  1  -"),
    ],
)
def test_each_common_figure_has_its_ratio_and_a_verdict(before: float, after: float, better: Better, row: str) -> None:
    """The ratio is after to before; the figure says which direction is better."""
    table = compare(with_figure(before, better=better), with_figure(after, better=better))
    line = next(line for line in table.splitlines() if line.startswith("turns: one process: CPU"))
    assert line.removeprefix("turns: one process: CPU").split() == row.split()


def test_figures_that_only_one_file_has_are_named() -> None:
    """A figure that is missing is not taken for one that is equal."""
    table = compare(with_figure(1.0, name="old"), with_figure(1.0, name="new"))
    assert "Only before: turns: one process: old." in table
    assert "Only after: turns: one process: new." in table


def test_the_comparison_says_whether_the_machine_was_as_fast() -> None:
    """CPU times of two runs compare only if the machine was in the same phase."""
    assert "took 10 ms before and 25 ms after" in compare(report(10.0), report(25.0))


def test_the_99th_percentile_is_a_measured_value() -> None:
    """It is the value that 99 of 100 do not exceed."""
    assert percentile_99([float(number) for number in range(1, 101)]) == 99
    assert percentile_99([7.0]) == 7
    assert math.isnan(percentile_99([]))
    assert math.isnan(median([]))


@pytest.mark.parametrize(("value", "rounded"), [(0.0, 0.0), (123_456.0, 123_500.0), (0.00123456, 0.001235)])
def test_values_have_four_significant_digits(value: float, rounded: float) -> None:
    """More digits would be noise."""
    assert significant(value) == pytest.approx(rounded)
