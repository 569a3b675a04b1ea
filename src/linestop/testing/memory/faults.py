"""Where a simulator gets its hands in: every operation of the in-memory broker asks these hooks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol


class Faults(Protocol):
    """What may go wrong. ``op`` is ``<port>.<method>``, e.g. ``log.append``.

    Both coroutines may sleep, and may raise ``Unreachable``: from ``before``, nothing has happened; from
    ``after``, it has, and only the answer is lost.
    """

    async def before(self, op: str) -> None:
        """Called before the operation takes place."""
        ...

    async def after(self, op: str) -> None:
        """Called when the operation has taken place and before its answer is given."""
        ...

    def copies(self, subject: str) -> Sequence[float]:
        """Return after how many seconds each copy of a delivery arrives.

        ``(0.0,)`` is once and at once, ``()`` is lost, ``(0.0, 2.0)`` comes twice, other delays reorder.
        What a durable consumer loses comes again after ``ack_wait``; a lost hint is gone.
        """
        ...


class NoFaults:
    """Nothing goes wrong."""

    async def before(self, op: str) -> None:
        """Let it be done."""

    async def after(self, op: str) -> None:
        """Let it be answered."""

    def copies(self, subject: str) -> Sequence[float]:  # noqa: ARG002 - the protocol's
        """Deliver once and at once."""
        return (0.0,)


@asynccontextmanager
async def with_faults(faults: Faults, op: str) -> AsyncGenerator[None]:
    """Ask the hooks before and after the body; an error of the body is its answer, and is not lost."""
    await faults.before(op)
    yield
    await faults.after(op)
