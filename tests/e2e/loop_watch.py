"""Measures how long one step of an event loop blocks the loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest


class LongestStep:
    """The longest step so far, in seconds of processor time of the loop's thread, so that a busy machine adds none."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.handle = ""

    def add(self, seconds: float, handle: object) -> None:
        """Record a step."""
        if seconds > self.seconds:
            self.seconds, self.handle = seconds, repr(handle)


@contextmanager
def watching_steps() -> Generator[LongestStep]:
    """Measure every callback and every step of a task that asyncio runs inside the block.

    What other tests left in memory is frozen first: a collection would walk it in some step, and be charged to that
    step.
    """
    longest = LongestStep()
    original = asyncio.Handle._run

    def run(self: Any) -> None:
        began = time.thread_time()
        try:
            original(self)
        finally:
            longest.add(time.thread_time() - began, self)

    gc.collect()
    gc.freeze()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", run)
            yield longest
    finally:
        gc.unfreeze()
