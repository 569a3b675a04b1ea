"""The output of the demo: titles, notes and the live log; with colours in a terminal, plain text elsewhere."""

from __future__ import annotations

import sys
import termios
import textwrap
from typing import Final

import anyio
from rich.console import Console
from rich.markup import escape

from linestop.archive.row_sources import cost_micros
from linestop.cli.demo.lines import describe
from linestop.cli.output import printing
from linestop.cli.output.rich_console import PipeConsole
from linestop.cli.runs.run_report import entry_document
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry

PLAIN_WIDTH: Final = 100
WIDTH_MAX: Final = 140
COST_WIDTH: Final = 9
ASK_WITHIN_S: Final = 20.0
COLOUR_BY_ROLE: Final = {
    "planner": "cyan",
    "validator": "magenta",
    "approver": "yellow",
    "budget": "blue",
    "executor": "green",
    "recorder": "white",
    "operator": "red",
}


class Screen:
    """Writes to stdout. ``interactive``: a person at the terminal can be asked."""

    def __init__(self, console: Console | None = None) -> None:
        terminal = sys.stdout.isatty()
        self.console = console or PipeConsole(width=None if terminal else PLAIN_WIDTH, highlight=False)
        self.interactive = self.console.is_terminal and sys.stdin.isatty()
        self.width = min(self.console.width, WIDTH_MAX)

    def title(self, text: str) -> None:
        """Begin a story."""
        self.console.print(f"\n[bold]{escape(self._wrapped(text))}[/bold]", soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a remark about the log."""
        self.console.print(f"[dim]{escape(self._wrapped(text))}[/dim]", soft_wrap=True)

    def result(self, text: str) -> None:
        """Print the result of a story."""
        wrapped = self._wrapped(f"✓ {text}").removeprefix("✓")
        self.console.print(f"[bold green]✓[/bold green]{escape(wrapped)}", soft_wrap=True)

    def end(self, seconds: float, *, what_next: str) -> None:
        """Print that all stories are over, and the next steps."""
        self.console.print(f"\nAll three stories ended as expected, in {seconds:.1f} s.\n")
        self.console.print(escape(what_next))

    def entry(self, entry: Entry, run: Run) -> None:
        """Show one event: n, role, event, detail, cost."""
        text = describe(entry.event, run) if entry.event is not None else f"ignored: {entry.ignored}"
        cost = cost_micros(entry.event)
        price = rounded_dollars(cost) if cost else ""
        text_width = self.width - (4 + 11 + 11 + COST_WIDTH + 1)
        text = text.replace("\n", " ")
        text = text if len(text) <= text_width else text[: text_width - 1] + "…"
        colour = COLOUR_BY_ROLE.get(entry.role, "white")
        self.console.print(
            f"{entry.n:>3} [{colour}]{entry.role:<10}[/{colour}] {entry.name:<10} "
            + (
                f"{escape(text):<{text_width + len(escape(text)) - len(text)}} [dim]{price:>{COST_WIDTH}}[/dim]"
                if price
                else escape(text)
            ),
            soft_wrap=True,
        )

    def _wrapped(self, text: str) -> str:
        """The text wrapped to the screen, each line below the first word of the first one."""
        text_without_marker = text.lstrip(" -✓")
        return textwrap.fill(
            text_without_marker,
            width=self.width,
            initial_indent=text[: len(text) - len(text_without_marker)],
            subsequent_indent=" " * (len(text) - len(text_without_marker)),
            break_long_words=False,
            break_on_hyphens=False,
        )

    async def ask(self, question: str) -> bool | None:
        """Ask yes or no; None if there is no terminal, or no answer within ``ASK_WITHIN_S``."""
        if not self.interactive:
            return None
        # Input that was typed before the question was shown does not answer it.
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        self.console.print(f"[bold yellow]{escape(question)}[/bold yellow] \\[Y/n] ", end="")
        with anyio.move_on_after(ASK_WITHIN_S):
            await anyio.wait_readable(sys.stdin)
            return not sys.stdin.readline().strip().lower().startswith("n")
        self.console.print()
        return None


class JsonScreen(Screen):
    """Writes every event and every result as a line of JSON to stdout, and text for people to stderr."""

    def __init__(self) -> None:
        super().__init__(PipeConsole(stderr=True, width=PLAIN_WIDTH, highlight=False))
        self.interactive = False
        self._story = 0

    def title(self, text: str) -> None:
        """Begin a story."""
        self._story += 1
        printing.print_json({"story": self._story, "title": text})

    def result(self, text: str) -> None:
        """Print the result of a story."""
        printing.print_json({"story": self._story, "result": text})

    def entry(self, entry: Entry, run: Run) -> None:
        """Show one event with all its data."""
        printing.print_json({"story": self._story, "run": run.run, **entry_document(entry)})

    def end(self, seconds: float, *, what_next: str) -> None:
        """Print that all stories are over, and the next steps."""
        del what_next
        printing.print_json({"stories": self._story, "seconds": round(seconds, 1)})
