"""Whole logs for the tests of the checker, each made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.run_logs import SCENARIOS, Message

_LOGS: dict[str, list[Message]] = {}


@pytest.fixture
def log_of() -> Callable[[str], list[Message]]:
    """The log of a scenario, made once."""

    def get(name: str) -> list[Message]:
        if name not in _LOGS:
            _LOGS[name] = SCENARIOS[name]()
        return list(_LOGS[name])

    return get
