"""The console that draws tables and the demo; in a module of its own, because rich takes long to import."""

from __future__ import annotations

from rich.console import Console


class PipeConsole(Console):
    """A console that raises for a closed pipe like every other write; rich's own ends the process instead."""

    def on_broken_pipe(self) -> None:
        """Raise the ``BrokenPipeError`` that is being handled."""
        self.quiet = True
        raise BrokenPipeError
