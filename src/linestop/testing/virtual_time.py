"""An event loop whose time is a number: waiting costs nothing, and a seed decides who runs first.

When nothing is ready the loop jumps to the next scheduled callback instead of sleeping, so an hour of
time-outs passes in a millisecond. With a seed, every ready callback is drawn at random, which explores other
interleavings of the same program; the same seed gives the same run. When nothing is ready and nothing is
scheduled, the program can never continue: a ``Deadlock`` is raised that names the waiting tasks and where they wait.

Everything that waits through the running loop uses this time: ``asyncio``, and ``anyio`` on it (task
groups, ``sleep``, ``fail_after``). Threads and real sockets do not: do not wait for them under a virtual loop.
"""

from __future__ import annotations

import asyncio
import collections
import random
import selectors
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from linestop.errors import Defect

T = TypeVar("T")

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which a virtual loop starts, by default."""

TURNS_AT_ONE_INSTANT_MAX: Final = 1_000_000
"""How often the loop may turn without time passing before it counts as spinning."""

_WAITERS_SHOWN_MAX: Final = 20


class Deadlock(Defect):
    """Raised when the program under a virtual loop can never continue; names the tasks that wait forever."""


class _ShuffledReady(collections.deque[asyncio.Handle]):
    """The loop's ready queue, with random draws instead of first in, first out."""

    def __init__(self, random_source: random.Random) -> None:
        super().__init__()
        self._random_source = random_source

    def popleft(self) -> asyncio.Handle:
        chosen = self._random_source.randrange(len(self))
        if chosen:
            self[0], self[chosen] = self[chosen], self[0]
        return super().popleft()


class _JumpingSelector(selectors.SelectSelector):
    """A selector that lets the loop jump where another selector would block."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            self._idle(timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop under virtual time.

    ``seed`` draws the order of ready callbacks; without one it is asyncio's own, first in, first out.
    ``start`` is the value of ``now()`` at loop time 0.
    """

    def __init__(self, *, seed: int | None = None, start: datetime = START) -> None:
        self._elapsed_s = 0.0
        self._start = start
        self._turns_at_this_instant = 0
        super().__init__(_JumpingSelector(self._on_idle))
        if seed is not None:
            # asyncio reads its ready queue only with popleft(), so the queue decides the order.
            # The draws must be deterministic, not secret.
            self._ready = _ShuffledReady(random.Random(seed))  # noqa: S311

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._elapsed_s

    def now(self) -> datetime:
        """Return the virtual date and time, in UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def compute(self, seconds: float) -> None:
        """Let time pass while nothing else of the program runs, as a long computation does."""
        self._elapsed_s += seconds

    def _on_idle(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            raise Deadlock(self._describe("Nothing is ready and nothing is scheduled"))
        if timeout_s > 0:
            self._elapsed_s += timeout_s
            self._turns_at_this_instant = 0
            return
        self._turns_at_this_instant += 1
        if self._turns_at_this_instant > TURNS_AT_ONE_INSTANT_MAX:
            self._turns_at_this_instant = 0
            raise Deadlock(self._describe("The loop spins without time passing"))

    def _describe(self, problem: str) -> str:
        waiting = sorted(_waits_at(task) for task in asyncio.all_tasks(self))
        shown = waiting[:_WAITERS_SHOWN_MAX]
        if len(waiting) > len(shown):
            shown.append(f"and {len(waiting) - len(shown)} more")
        listed = "".join(f"\n  {line}" for line in shown)
        return f"{problem} at {self._elapsed_s:.6f} virtual seconds; {len(waiting)} tasks wait forever:{listed}"


def run_virtual(main: Callable[[], Awaitable[T]], *, seed: int | None = None, start: datetime = START) -> T:
    """Run ``main`` to its end under virtual time and return its result.

    Raises:
        Deadlock: ``main`` waits for something that can never happen.
    """

    async def entry() -> T:
        return await main()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed=seed, start=start)) as runner:
        return runner.run(entry())


def virtual_now() -> datetime:
    """Return the virtual date and time of the running loop, which must be a ``VirtualLoop``."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise Defect("virtual_now() was called outside a VirtualLoop; run the program with run_virtual().")
    return loop.now()


def _waits_at(task: asyncio.Task[object]) -> str:
    """Name a task and the innermost line at which it waits."""
    stack = task.get_stack()
    if not stack:
        return f"{task.get_name()}: not started"
    frame = stack[-1]
    coroutine = task.get_coro()
    inner = getattr(coroutine, "cr_await", None)
    # A task's stack has only its outermost frame; the chain of awaits leads to the line at which it really waits.
    while (deeper := getattr(inner, "cr_frame", None)) is not None:
        frame = deeper
        inner = getattr(inner, "cr_await", None)
    return f"{task.get_name()}: {frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}"
