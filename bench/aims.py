"""The aims that linestop is measured by, as the Markdown tables of ``docs/performance.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Final

import msgspec
from bench.compare import Key, figures_by_key
from bench.report import Report
from bench.system.brokers import BROKERS
from bench.system.linestop_processes import SEPARATIONS
from bench.turns import IN_FLIGHT_FULL

AT_16: Final = "sync 1s, 16 in flight"
ALONE: Final = "sync 1s, 1 in flight"


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, or its ratio to another one (``to``), and the limit that it must not pass."""

    text: str
    figure: Key
    to: Key | None = None
    limit: float
    at_least: bool = False
    unit: str = ""
    scale: float = 1.0

    def value(self, report: Report) -> float:
        """The measured value; NaN if it was not measured."""
        figures = figures_by_key(report)
        value = figures[self.figure].value if self.figure in figures else math.nan
        if self.to is not None:
            value = value / figures[self.to].value if self.to in figures else math.nan
        return value * self.scale

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


def _turns(configuration: str, name: str) -> Key:
    return "turns", configuration, name


AIMS: Final = (
    Aim(
        text="one process, 16 in flight: CPU of a turn",
        figure=_turns(f"one process, {AT_16}", "CPU"),
        limit=1.6,
        unit="ms",
    ),
    Aim(
        text="one process, 16 in flight: turns, as a part of the floor's",
        figure=_turns(f"one process, {AT_16}", "turns of the floor's"),
        limit=0.4,
        at_least=True,
    ),
    Aim(
        text="three processes, 16 in flight: CPU of a turn to one process",
        figure=_turns(f"three processes, {AT_16}", "CPU"),
        to=_turns(f"one process, {AT_16}", "CPU"),
        limit=2.0,
    ),
    Aim(
        text="six processes, 16 in flight: CPU of a turn to one process",
        figure=_turns(f"six processes, {AT_16}", "CPU"),
        to=_turns(f"one process, {AT_16}", "CPU"),
        limit=3.0,
    ),
    Aim(
        text="stored in RUNS for a turn",
        figure=_turns(f"one process, {AT_16}", "stored in RUNS"),
        limit=6.5,
        unit="KB",
        scale=1e-3,
    ),
    Aim(
        text="one process: p50 of a turn alone to the floor's",
        figure=_turns(f"one process, {ALONE}", "p50 of a turn to the floor's"),
        limit=1.4,
    ),
    Aim(
        text="p50 of a turn at event 1,500 to event 20 of a run",
        figure=("long_runs", "one process", "event 1,500 to event 20"),
        limit=1.2,
    ),
    Aim(
        text="turns with 256 runs in flight to 64 in flight",
        figure=_turns("one process, sync 1s, 256 in flight", "turns"),
        to=_turns("one process, sync 1s, 64 in flight", "turns"),
        limit=1.0,
        at_least=True,
    ),
    Aim(
        text="p50 until a task is accepted, beside 5,000 busy runs to beside 100",
        figure=("submitting", "one process", "p50 beside 5,000 busy runs to beside 100"),
        limit=1.0,
    ),
    Aim(
        text="idle CPU with 5,000 finished runs to none",
        figure=("idle", "one process", "CPU with 5,000 finished runs to none"),
        limit=1.0,
    ),
    Aim(
        text="events that an archive reads when it catches up",
        figure=("archive_catching_up", "nothing else", "events archived"),
        limit=20_000,
        at_least=True,
        unit="/s",
    ),
    *(
        Aim(text=f"`{command}`", figure=("commands", command, "p50"), limit=250, unit="ms")
        for command in ("linestop --version", "linestop runs", "linestop show")
    ),
    Aim(
        text="`linestop dev` in an empty folder, until it is ready",
        figure=("starting", "linestop dev in an empty folder", "until ready"),
        limit=1.5,
        unit="s",
    ),
    Aim(
        text="kill -9 of a worker, until its successor's first work",
        figure=("starting", "kill -9 with 16 runs in flight", "until the successor's first work"),
        limit=0.5,
        unit="s",
    ),
)

TURN_COLUMNS: Final = {
    "turns of the floor's": "turns of the floor's",
    "turns": "turns/s",
    "CPU": "CPU ms a turn",
    "CPU of the broker": "the broker's",
    "stored in RUNS": "bytes a turn",
    "p50 of a turn to the floor's": "p50 to the floor's",
    "p99 of a turn to the floor's": "p99",
}
"""The figures of a configuration of ``turns``, and the heading of each."""


def aims_table(reports: Sequence[tuple[str, Report]]) -> str:
    """A row for each aim, with a column for each named report; a missed aim is bold."""
    rows = [["aim", "limit", *(name for name, _ in reports)]]
    for aim in AIMS:
        limit = f"{'≥' if aim.at_least else '≤'} {aim.limit:,g} {aim.unit}".strip()
        rows.append([aim.text, limit, *(_cell(aim, aim.value(report)) for _, report in reports)])
    return _markdown(rows)


def turns_table(report: Report) -> str:
    """A row for each measured configuration of ``turns``."""
    rows = [["broker", "processes", "in flight", *TURN_COLUMNS.values()]]
    figures = figures_by_key(report)
    for broker, separation, in_flight in product(BROKERS, SEPARATIONS, IN_FLIGHT_FULL):
        configuration = f"{separation.name}, {broker.name}, {in_flight} in flight"
        found = [figures.get(_turns(configuration, name)) for name in TURN_COLUMNS]
        if any(found):
            processes = separation.name.split()[0]
            cells = [_number(figure.value) if figure else "" for figure in found]
            rows.append([broker.name, processes, str(in_flight), *cells])
    return _markdown(rows)


def _cell(aim: Aim, value: float) -> str:
    if math.isnan(value):
        return "—"
    text = f"{_number(value)} {aim.unit}".strip()
    return text if aim.is_met(value) else f"**{text}**"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])
