"""Ending when the program that reads the output is gone: silently, at once, and with clean-up.

A write to a closed pipe raises ``BrokenPipeError``, alone or in the group of the tasks that it ended. A command that
waits may write nothing for hours, so it also polls its pipes.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import Final

import anyio

STDOUT: Final = 1
STDERR: Final = 2
READER_POLL_S: Final = 0.5


def reader_is_gone(descriptors: Sequence[int] = (STDOUT, STDERR)) -> bool:
    """Whether one of these descriptors is a pipe or socket whose other end is closed."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


async def until_reader_is_gone(descriptors: Sequence[int] = (STDOUT, STDERR)) -> None:
    """Return when one of these descriptors has no reader any more."""
    # A pipe does not report that it was closed; it has to be polled.
    while not reader_is_gone(descriptors):  # noqa: ASYNC110 - as above
        await anyio.sleep(READER_POLL_S)


def is_closed_pipe(error: BaseException) -> bool:
    """Whether the error, or every error in the group, is a closed pipe."""
    if isinstance(error, BaseExceptionGroup):
        inner: tuple[BaseException, ...] = error.exceptions  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return all(is_closed_pipe(one) for one in inner)
    return isinstance(error, BrokenPipeError)


def discard_unread() -> None:
    """Discard the output that is still buffered for a closed pipe, so that Python reports no error at exit."""
    for stream, descriptor in ((sys.stdout, STDOUT), (sys.stderr, STDERR)):
        if reader_is_gone([descriptor]):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
        # The stream is None if the descriptor was closed from the start.
        if stream is not None:
            stream.flush()
