"""Fixtures shared by the end-to-end tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Keep one event loop a module: the server and the processes of its tests live in it."""
    return "asyncio"
