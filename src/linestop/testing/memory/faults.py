"""Fault injection for simulators: every operation of the in-memory broker calls these hooks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol


class Faults(Protocol):
    """The faults to inject. ``op`` is ``<interface>.<method>``, e.g. ``log.append``.

    Both coroutines may sleep, and may raise ``Unreachable``: from ``before``, the operation did not take place; from
    ``after``, it did, and only the reply is lost.
    """

    async def before(self, op: str) -> None:
        """Called before the operation takes place."""
        ...

    async def after(self, op: str) -> None:
        """Called when the operation has taken place and before its result is returned."""
        ...

    def copies(self, subject: str) -> Sequence[float]:
        """Return the delay in seconds of each copy of a delivery.

        ``(0.0,)`` is one copy at once, ``()`` is a loss, ``(0.0, 2.0)`` are two copies, other delays reorder.
        A delivery that a durable consumer loses is repeated after ``ack_wait``; a lost hint is gone.
        """
        ...


class NoFaults:
    """No faults."""

    async def before(self, op: str) -> None:
        """Let the operation take place."""

    async def after(self, op: str) -> None:
        """Let the result be returned."""

    def copies(self, subject: str) -> Sequence[float]:  # noqa: ARG002 - the protocol's
        """Deliver once and at once."""
        return (0.0,)


@asynccontextmanager
async def with_faults(faults: Faults, op: str) -> AsyncGenerator[None]:
    """Call the hooks before and after the body; an error of the body is its result, and is never lost."""
    await faults.before(op)
    yield
    await faults.after(op)
