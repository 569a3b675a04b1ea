"""How long one step of an event loop keeps it from everything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest


class LongestStep:
    """The longest step so far: seconds of processor time of the loop's own thread, so that a busy machine adds none."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.what = ""

    def add(self, seconds: float, what: object) -> None:
        """Note a step."""
        if seconds > self.seconds:
            self.seconds, self.what = seconds, repr(what)


@contextmanager
def watching_steps() -> Generator[LongestStep]:
    """Measure every callback and every step of a task that asyncio makes meanwhile."""
    longest = LongestStep()
    original = asyncio.Handle._run

    def run(self: Any) -> None:  # noqa: ANN401 - asyncio's handle
        began = time.thread_time()
        try:
            original(self)
        finally:
            longest.add(time.thread_time() - began, self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", run)
        yield longest
