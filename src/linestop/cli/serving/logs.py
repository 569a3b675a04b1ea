"""The logs of a process: their level and their form."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

import structlog

from linestop.cli.output import printing
from linestop.errors import ConfigError

LOG_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs() -> None:
    """Write logs of the level LINESTOP_LOG to stderr, by default warnings: readable in a terminal, JSON elsewhere.

    Tools use Python's own logging, so their logs are written in the same form.
    """
    is_terminal = sys.stderr.isatty()
    level_name = os.environ.get("LINESTOP_LOG") or "warning"
    level = LOG_LEVELS.get(level_name.lower())
    if level is None:
        raise ConfigError(
            f"LINESTOP_LOG: {level_name!r} is not a level: write {', '.join(LOG_LEVELS)}, or leave it out."
        )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True) if is_terminal else structlog.processors.JSONRenderer()
    )
    shared_processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if is_terminal else [structlog.processors.format_exc_info]),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared_processors))
    tools = logging.getLogger("linestop")
    tools.handlers, tools.propagate = [handler], False
    tools.setLevel(level)
    structlog.configure(
        processors=[*shared_processors, *([_print_sentence] if is_terminal else []), renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _print_sentence(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Print a log event that has a sentence for people as that sentence alone."""
    if "sentence" not in event:
        return event
    printing.note(event["sentence"])
    raise structlog.DropEvent
