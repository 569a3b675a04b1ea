"""Fixtures shared by all tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run every asynchronous test on asyncio, the only event loop linestop supports."""
    return "asyncio"
