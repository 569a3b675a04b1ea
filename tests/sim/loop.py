"""An event loop with processes: the steps of a killed process never run again, those of a frozen one run later.

Every task and callback of asyncio carries a context, and the context names the process that created it. So a kill
takes effect between any two steps of a process, exactly as SIGKILL does: none of its ``finally`` and ``except`` blocks
runs. A frozen process (SIGSTOP) keeps the steps that became due meanwhile and runs them when it wakes.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVarTuple, cast

from anyio._backends import _asyncio as anyio_asyncio

from linestop.testing.virtual_time import VirtualLoop

Ts = TypeVarTuple("Ts")
BROKER_MODULES = "linestop.testing.memory"


class Process:
    """One simulated process: a worker in one of its incarnations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.steps_left = 0
        """Steps until the process dies; 0 if it does not."""
        self.at_death: list[Callable[[], None]] = []
        self._suspended: list[asyncio.Handle] = []

    def may_step(self, handle: asyncio.Handle) -> bool:
        """Whether this step runs now; a step of a dead or frozen process is put aside."""
        if self.alive and self.steps_left:
            self.steps_left -= 1
            if not self.steps_left:
                self.kill()
        if self.alive and not self.frozen:
            return True
        # Stored also for a dead process: a suspended coroutine that is collected would run its ``finally``.
        self._suspended.append(handle)
        return False

    def kill(self) -> None:
        """End the process, as SIGKILL does."""
        if self.alive:
            self.alive = False
            for callback in self.at_death:
                callback()

    def thaw(self, loop: SimLoop) -> None:
        """Continue a frozen process with the steps that became due meanwhile."""
        self.frozen = False
        loop.resume(self._suspended)
        self._suspended = []


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
"""The process of a step; None for the world outside: broker, clients, people, tools, models."""


class SimLoop(VirtualLoop):
    """A virtual loop with processes; the same seed gives the same order of steps."""

    def __init__(self, *, seed: int, start: datetime) -> None:
        super().__init__(seed=seed, start=start)
        nothing = asyncio.Handle(lambda: None, (), self)
        nothing.cancel()
        cast("Any", self)._ready = _Ready(random.Random(seed), nothing)
        self.outside = contextvars.Context()
        self._tasks_created: list[asyncio.Task[Any]] = []
        self._numbers = iter(range(1 << 60))
        self.set_task_factory(self._make_task)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Schedule a callback; callbacks of the broker belong to no process, in every step."""
        owner = getattr(callback, "__self__", None)
        if type(owner).__module__.startswith(BROKER_MODULES):
            context = self.outside.copy()
        return super().call_at(when, callback, *args, context=context)

    def spawn(self, coroutine: Any, process: Process | None = None) -> asyncio.Task[Any]:
        """Start a task of the world outside, or the first task of a process."""
        context = self.outside.copy()
        context.run(PROCESS.set, process)
        return self.create_task(coroutine, context=context)

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Put steps back that were put aside."""
        self._ready.extend(handles)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = _NumberedTask(coroutine, number=next(self._numbers), loop=loop, **options)
        self._tasks_created.append(task)
        return task


class _NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address, so that a seed is the same everywhere."""

    def __init__(self, coroutine: Any, *, number: int, **options: Any) -> None:
        # Before the task enters any set.
        self.number = number
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Ready(collections.deque[asyncio.Handle]):
    """The ready queue: steps are drawn at random, without those of dead and frozen processes."""

    def __init__(self, draw: random.Random, nothing: asyncio.Handle) -> None:
        super().__init__()
        self._draw = draw
        self._nothing = nothing

    def popleft(self) -> asyncio.Handle:
        chosen = int(self._draw.random() * len(self))
        if chosen:
            self[0], self[chosen] = self[chosen], self[0]
        handle = super().popleft()
        if handle.cancelled():
            return handle
        # typeshed does not have the context of a handle.
        process = cast("Any", handle)._context.get(PROCESS)
        if process is None or process.may_step(handle):
            return handle
        return self._nothing


class _OrderedSet(dict[Any, None]):
    """A set that iterates in the order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(super().__iter__()))


def order_cancellations() -> None:
    """Let anyio cancel in the order of insertion; its sets are ordered by address, which no seed controls."""
    scope = cast("Any", anyio_asyncio.CancelScope)
    original = scope.__init__

    def ordered(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._child_scopes = _OrderedSet()
        self._tasks = _OrderedSet()

    scope.__init__ = ordered
