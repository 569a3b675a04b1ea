"""Printing: data on stdout, progress on stderr, control characters escaped.

Texts of models, tools and strangers are shown with their control characters escaped; ``--json`` prints them
exactly, as JSON in which those characters are escaped, too.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Final, TextIO

import click
import msgspec

from linestop.cli.output.closed_pipes import STDERR, STDOUT
from linestop.cli.output.terminal_escape import HIDDEN, escape_controls, wrap_for, writes_unicode
from linestop.schemas.messages import Reply

WIDTH_PIPED: Final = 160
"""Columns of a table that does not go to a terminal."""

NO_BREAK: Final = "\xa0"
WRAPPED_WIDTH_MIN: Final = 16
GAP_WIDTH: Final = 3
"""Columns that a wrapped cell needs at least, and columns between two cells."""

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")
_UNSAFE_IN_JSON = re.compile(f"[\x7f-\x9f{HIDDEN}]")


def print_text(text: str, *, hang: int = 0, block: bool = False) -> None:
    """Print data on stdout, escaped: one line, which a narrow terminal continues ``hang`` spaces in.

    With ``block`` line breaks are preserved. Texts of others in it must then stand alone, or be one line: a reason with
    a line break could look like a line of linestop.
    """
    click.echo(wrap_for(sys.stdout, escape_controls(text, block=block), hang=hang))


def note(text: str, *, hang: int = 0, block: bool = False) -> None:
    """Print progress on stderr, otherwise like ``print_text``."""
    click.echo(wrap_for(sys.stderr, escape_controls(text, block=block), hang=hang), err=True)


@contextmanager
def reserve_stdout_for_data() -> Generator[TextIO]:
    """Redirect the prints of others (a tool, a library) to stderr, and yield the real stdout for data."""
    sys.stdout.flush()
    saved = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as data:
            yield data
    finally:
        sys.stdout.flush()
        os.dup2(saved, STDOUT)
        os.close(saved)


def print_json(value: object, *, file: TextIO | None = None) -> None:
    """Print one JSON document (or one line of a stream of them) on stdout, or into ``file``."""
    text = msgspec.json.encode(value).decode()
    # JSON does not escape some characters that terminals obey; inside its strings an escape means the same.
    unsafe = _UNSAFE_IN_JSON if writes_unicode(sys.stdout) else _BEYOND_ASCII
    click.echo(unsafe.sub(_json_escape, text), file=file)


def _json_escape(match: re.Match[str]) -> str:
    """A character as a JSON escape, or as two if it lies beyond the basic plane."""
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: Sequence[str] = ()) -> None:
    """Print a table on stdout, its cells escaped; only the columns in ``wrap`` are broken into lines.

    Ids must stay whole to be copied, so on a screen that is too narrow for them each row becomes a block.
    """
    # Imported here: rich takes longer to import than everything else that a command imports.
    from rich import box  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from linestop.cli.output.rich_console import PipeConsole  # noqa: PLC0415

    console = PipeConsole(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = PipeConsole(file=sys.stdout, highlight=False, markup=False, emoji=False, width=WIDTH_PIPED)
    cells = [[escape_controls(cell, block=True) for cell in row] for row in rows]
    column_widths_min = [
        WRAPPED_WIDTH_MIN if name in wrap else max([cell_len(name), *(cell_len(row[at]) for row in cells)])
        for at, name in enumerate(columns)
    ]
    if sum(column_widths_min) + GAP_WIDTH * (len(columns) - 1) > console.width:
        for row in cells:
            click.echo(_row_as_lines(columns, row, wrap, width=console.width))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in wrap)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _row_as_lines(columns: Sequence[str], row: Sequence[str], wrap: Sequence[str], *, width: int) -> str:
    """A row as lines: its first cell, then the short cells, then a line for each long one."""
    rest = list(zip(columns, row, strict=True))[1:]
    # A cell and its name stay together; the terminal breaks a line that is longer than the screen.
    pairs = [f"{name} {cell}".replace(" ", NO_BREAK) for name, cell in rest if cell and name not in wrap]
    short_ones = textwrap.wrap(
        "   ".join(pairs),
        width=width,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    long_ones = [f"  {name} {cell}" for name, cell in rest if cell and name in wrap]
    return "\n".join([row[0], *(line.replace(NO_BREAK, " ") for line in short_ones), *long_ones])


def print_reply(reply: Reply, *, as_json: bool) -> None:
    """Print the reply to a control message."""
    if as_json:
        print_json(reply)
    else:
        print_text(f"{reply.run}: {reply.sentence}")
