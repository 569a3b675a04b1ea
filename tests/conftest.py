"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.run_logs import SCENARIOS, Message
from tests.small_disk import small_disk

__all__ = ["anyio_backend", "log_of", "small_disk"]

_LOGS: dict[str, list[Message]] = {}


@pytest.fixture
def anyio_backend() -> str:
    """Run every asynchronous test on asyncio, the only event loop linestop supports."""
    return "asyncio"


@pytest.fixture
def log_of() -> Callable[[str], list[Message]]:
    """Return the whole log of a scenario of ``run_logs``; each log is created once."""

    def get(name: str) -> list[Message]:
        if name not in _LOGS:
            _LOGS[name] = SCENARIOS[name]()
        return list(_LOGS[name])

    return get
