"""Stopping a run whose head moves: with the log in memory and virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Append, HeadMoved, Log
from linestop.bus.stop_run import HELP_WITHIN_S, TRIES_BEFORE_HELP, catch_up, stop_number, stop_run
from linestop.errors import TimedOut, Unreachable
from linestop.schemas.broker_defaults import STOP_WITHIN_S
from linestop.schemas.events import Cue, Refused, Sealed, StopMode, Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

TENANT, RUN = TenantId("acme"), RunId("busy")
LAG_S = 0.001
"""The time of a round trip, so that virtual time passes with every attempt."""


class BusyLog:
    """A run's log in which the head moves before each append of the stop."""

    def __init__(self, broker: MemoryBroker, *, conflicts_to_cause: int, named: bool) -> None:
        self._inner = broker.log(["operator"])
        self._others = broker.log(["planner"])
        self._numbers = itertools.count(1_000)
        self._named = named
        self.conflicts_to_cause = conflicts_to_cause
        self.conflicts = 0
        self.full_loads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def load(self, *args: Any, **options: Any) -> Any:
        """Count that the whole run is read and not only its head."""
        self.full_loads += 1
        return await self._inner.load(*args, **options)

    async def append(self, append: Append, **options: Any) -> int:
        """Lose ``conflicts_to_cause`` times to a message that is not an event."""
        if self.conflicts_to_cause > 0:
            self.conflicts_to_cause -= 1
            n = next(self._numbers)
            noise = msgspec.structs.replace(append, role="planner", event="noise", n=n, payload=b"{}")
            await self._others.append(noise)
        try:
            return await self._inner.append(append, **options)
        except HeadMoved as moved:
            self.conflicts += 1
            await anyio.sleep(LAG_S)
            raise HeadMoved("moved", head_seq=moved.head_seq if self._named else 0) from None


class StopScene:
    """A broker in memory with one run, and an operator who wants to stop it."""

    def __init__(self, *, conflicts_to_cause: int = 0, named: bool = True) -> None:
        self.broker = MemoryBroker(virtual_now)
        self.log = BusyLog(self.broker, conflicts_to_cause=conflicts_to_cause, named=named)
        self.run = Run(TENANT, RUN)
        self.help_requests = 0
        self.encoder = EventEncoder(
            build="", blobs=self.broker.blobs(), random_source=random.Random(1), now=virtual_now
        )

    async def stop(
        self, request_help: Callable[[], Awaitable[object]] | None = None, *, mode: StopMode = StopMode.FENCE
    ) -> int:
        """Stop the run as ann."""
        log: Log = self.log  # pyright: ignore[reportAssignmentType] # the inner log has the rest

        async def counted() -> None:
            self.help_requests += 1
            assert request_help is not None
            await request_help()

        return await stop_run(
            log,
            self.encoder,
            self.run,
            lambda at: make_stop(at, mode),
            request_help=None if request_help is None else counted,
        )

    async def append(self, role: RoleName, event: Stopped | Sealed | Refused) -> None:
        """Append an event of another."""
        log, run = self.broker.log([role]), Run(TENANT, RUN)
        await catch_up(log, run)
        await log.append(await self.encoder.encode(run, role, event, Cue(kind="control")))

    async def run_from_log(self) -> Run:
        """The run folded from its log."""
        run = Run(TENANT, RUN)
        await catch_up(self.broker.log(), run)
        return run


def make_stop(run: Run, mode: StopMode) -> Stopped:
    """The stop of these tests."""
    return msgspec.structs.replace(stop_event(run, by="ann", why="enough"), mode=mode)


@pytest.mark.parametrize("named", [True, False], ids=["head-named", "head-not-named"])
def test_a_refused_stop_tries_again_at_the_real_head(*, named: bool) -> None:
    """Whether the refusal names that head or not."""

    async def main() -> None:
        scene = StopScene(conflicts_to_cause=2, named=named)
        assert await scene.stop() == 1
        assert (scene.log.conflicts, scene.help_requests) == (2, 0)
        assert stop_number(await scene.run_from_log()) == 1

    run_virtual(main)


@pytest.mark.parametrize("named", [True, False], ids=["head-named", "head-not-named"])
def test_only_the_head_is_read_if_it_is_the_next_event(*, named: bool) -> None:
    """So an attempt to stop costs two round trips however long the run is."""

    async def main() -> None:
        scene = StopScene(named=named)
        await scene.append("validator", Refused(code="no_agent", sentence="There is none."))
        assert await scene.stop() == 2
        assert (scene.log.conflicts, scene.log.full_loads) == (1, 0 if named else 1)

    run_virtual(main)


def test_a_stop_that_keeps_failing_asks_the_process_of_the_run_to_append_it() -> None:
    """Once, after a few attempts; then the stop is in the log, and nothing is appended twice."""

    async def main() -> None:
        scene = StopScene(conflicts_to_cause=10**9)

        async def ask() -> None:
            await scene.append("validator", make_stop(Run(TENANT, RUN), StopMode.FENCE))

        assert await scene.stop(ask) == 1
        assert (scene.log.conflicts, scene.help_requests) == (TRIES_BEFORE_HELP, 1)
        state = await scene.run_from_log()
        assert [entry.role for entry in state.entries if entry.name == "stopped"] == ["validator"]
        assert scene.run.stopped is not None
        assert scene.run.stopped.by == "ann"

    run_virtual(main)


def test_a_stop_that_cannot_request_help_continues_alone() -> None:
    """Neither an error nor a broker that does not reply prevents further attempts."""

    async def fails() -> None:
        raise Unreachable("no")

    async def hangs() -> None:
        await anyio.sleep(10 * HELP_WITHIN_S)

    async def main(ask: Callable[[], Awaitable[None]]) -> None:
        scene = StopScene(conflicts_to_cause=TRIES_BEFORE_HELP + 5)
        assert await scene.stop(ask) == 1
        assert scene.help_requests == 1
        assert (await scene.run_from_log()).stopped_role == "operator"

    for ask in (fails, hangs):
        run_virtual(lambda ask=ask: main(ask))  # type: ignore[misc]


def test_a_stop_is_never_reported_before_it_is_stored() -> None:
    """After its time limit the error says how often it lost, and whether the stop is stored."""

    async def nothing() -> None:
        return None

    async def main(ask: Callable[[], Awaitable[object]] | None, sentence: str) -> None:
        scene, began = StopScene(conflicts_to_cause=10**9), virtual_now()
        with pytest.raises(TimedOut, match=sentence):
            await scene.stop(ask)
        assert STOP_WITHIN_S <= (virtual_now() - began).total_seconds() < STOP_WITHIN_S + 1
        assert (await scene.run_from_log()).stopped is None

    run_virtual(lambda: main(nothing, "it is stored"))
    run_virtual(lambda: main(None, "stop it again"))


def test_an_ended_run_is_not_stopped_again() -> None:
    """Stopped or sealed: the number of the first stop is returned, or 0."""

    async def main() -> None:
        scene = StopScene()
        await scene.append("planner", make_stop(Run(TENANT, RUN), StopMode.FENCE))
        await catch_up(scene.log._inner, scene.run)  # pyright: ignore[reportPrivateUsage]
        assert await scene.stop() == 1
        assert (await scene.run_from_log()).n == 1
        await scene.append("recorder", Sealed(status="stopped"))
        scene.run = Run(TENANT, RUN)
        assert await scene.stop() == 1
        assert (await scene.run_from_log()).n == 2

    run_virtual(main)


def test_a_stop_ends_a_drain_and_not_the_other_way_round() -> None:
    """The first stop's author and reason stay; the calls that were to finish are cancelled."""

    async def main() -> None:
        scene = StopScene()
        assert await scene.stop(mode=StopMode.DRAIN) == 1
        assert await scene.stop(mode=StopMode.FENCE) == 1
        assert await scene.stop(mode=StopMode.DRAIN) == 1
        state = await scene.run_from_log()
        assert state.n == 2
        assert state.stopped is not None
        assert state.stopped.mode is StopMode.FENCE

    run_virtual(main)
