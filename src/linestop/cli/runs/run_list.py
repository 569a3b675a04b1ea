"""The table that ``linestop runs`` prints."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

from linestop.cli.output import printing, wording
from linestop.cli.runs.closed_switches import closed_sentence
from linestop.client import Client
from linestop.client.result_types import RunLine
from linestop.errors import LinestopError
from linestop.schemas.dollars import rounded_dollars

TASK_CHARS_SHOWN: Final = 60


async def note_closed_switches(client: Client) -> None:
    """Note which kill switches are closed: a courtesy, whether or not they can be read."""
    with contextlib.suppress(LinestopError):
        if closed := await client.kill_switches.closed():
            printing.note(closed_sentence(closed))


def print_runs(lines: Sequence[RunLine]) -> None:
    """Print a row for each run."""
    columns = ("run", "agent", "status", "turns", "calls", "cost", "age", "task")
    rows = [
        (
            line.run,
            line.agent,
            line.status,
            str(line.turns),
            str(line.calls),
            rounded_dollars(line.cost_micros),
            wording.age(line.opened_at or line.last_at),
            _task_cell(line),
        )
        for line in lines
    ]
    printing.print_table(columns, rows, wrap=("task",))


def _task_cell(line: RunLine) -> str:
    """The task, and below it the reason for the run's status; a refused run has only the reason."""
    reason = f"{line.status}: {line.why}" if line.why else ""
    return "\n".join(wording.short(text, TASK_CHARS_SHOWN) for text in (line.text, reason) if text)
