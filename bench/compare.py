"""Compares two files of figures: each figure that both have, with the ratio of after to before."""

from __future__ import annotations

from pathlib import Path

import msgspec
from bench.report import Figure, Report

Key = tuple[str, str, str]


def compare(before: Report, after: Report) -> str:
    """A table of all common figures, and the names of those that only one file has."""
    old, new = figures_by_key(before), figures_by_key(after)
    rows = [("figure", "before", "after", "ratio", "")]
    rows += [_row(key, old[key], new[key]) for key in new if key in old]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{name:{widths[0]}}  {was:>{widths[1]}}  {now:>{widths[2]}}  {ratio:>{widths[3]}}  {verdict}".rstrip()
        for name, was, now, ratio, verdict in rows
    ]
    speed = f"The machine: a fixed piece of Python took {before.machine.python_ms:g} ms before and "
    lines += [
        "",
        f"{speed}{after.machine.python_ms:g} ms after; load {before.machine.load:g} and {after.machine.load:g}.",
    ]
    for title, only in (("before", old.keys() - new.keys()), ("after", new.keys() - old.keys())):
        lines += [f"Only {title}: {_name(key)}." for key in sorted(only)]
    return "\n".join(lines)


def load_report(path: Path) -> Report:
    """Read a file of figures."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def figures_by_key(report: Report) -> dict[Key, Figure]:
    """The figures of a report by bench, configuration and name."""
    return {(figure.bench, figure.configuration, figure.name): figure for figure in report.figures}


def _name(key: Key) -> str:
    return f"{key[0]}: {key[1]}: {key[2]}"


def _row(key: Key, before: Figure, after: Figure) -> tuple[str, str, str, str, str]:
    if not before.value:
        return _name(key), f"{before.value:,g}", f"{after.value:,g}", "-", ""
    ratio = after.value / before.value
    is_better = ratio < 1 if after.better == "lower" else ratio > 1
    verdict = "same" if f"{ratio:.2f}" == "1.00" else "better" if is_better else "worse"
    return _name(key), f"{before.value:,g}", f"{after.value:,g}", f"{ratio:.2f}", verdict
