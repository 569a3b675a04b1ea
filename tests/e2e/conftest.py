"""What the end-to-end tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Keep one event loop a module: what its tests work on (a server, processes) lives in it."""
    return "asyncio"
