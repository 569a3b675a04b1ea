"""The exit codes of commands; docs/errors.md lists them."""

from __future__ import annotations

from typing import Final, NoReturn

import click

EXIT_DONE: Final = 0
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 3
EXIT_STOPPED: Final = 4
EXIT_BUDGET: Final = 5
EXIT_WAITING: Final = 6
EXIT_DENIED: Final = 7
EXIT_LOG_BROKEN: Final = 9
EXIT_INTERRUPTED: Final = 130

EXIT_CODE_BY_STATUS: Final = {
    "completed": EXIT_DONE,
    "stopped": EXIT_STOPPED,
    "over_budget": EXIT_BUDGET,
    "denied": EXIT_DENIED,
    "expired": EXIT_DENIED,
}
"""Exit code of a run by its status; every other status is a failure."""


def exit_with(code: int) -> NoReturn:
    """End the command with this exit code."""
    click.get_current_context().exit(code)
