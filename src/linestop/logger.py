"""Loggers that import structlog with the first entry they write.

Structlog imports rich and more, which takes longer than everything else that a command or a client imports; most of
them log nothing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import structlog


class Logger:
    """Writes log entries, each a name in snake case and its fields; structlog's configuration decides where."""

    def __init__(self, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _structlog(self) -> structlog.typing.FilteringBoundLogger:
        import structlog  # noqa: PLC0415 - see above

        logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(self._name)
        return logger

    def debug(self, event: str, **fields: object) -> None:
        """Write an entry for the search of a defect."""
        self._structlog.debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """Write an entry about normal work."""
        self._structlog.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write an entry about what the operator should look at."""
        self._structlog.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """Write an entry about what failed."""
        self._structlog.error(event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """Write an entry about what failed, with the traceback of the exception that is being handled."""
        self._structlog.exception(event, **fields)
