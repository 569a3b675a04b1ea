"""Stopping a run whose head moves: the log in memory, and time that costs nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from linestop.bus.event_envelope import Stamper
from linestop.bus.interfaces import Append, HeadMoved, Log
from linestop.bus.operator_stop import ASK_WITHIN_S, STOP_WITHIN_S, TRIES_ALONE, catch_up, stop_number, stop_run
from linestop.errors import TimedOut, Unreachable
from linestop.schemas.events import Cue, Refused, Sealed, StopMode, Stopped
from linestop.schemas.run.make_stop import stopped
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RoleName, RunId, TenantId
from linestop.testing.memory import MemoryBroker
from linestop.testing.virtual_time import run_virtual, virtual_now

TENANT, RUN = TenantId("acme"), RunId("busy")
LAG_S = 0.001
"""What a round trip takes, so that virtual time goes on however often something is tried."""


class BusyLog:
    """The run's log as a stop sees it that always comes late: somebody moves the head before each of its appends."""

    def __init__(self, broker: MemoryBroker, *, losses: int, named: bool) -> None:
        self._inner = broker.log(["operator"])
        self._others = broker.log(["planner"])
        self._numbers = itertools.count(1_000)
        self._named = named
        self.losses = losses
        self.lost = 0
        self.read_whole = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else the port has
        return getattr(self._inner, name)

    async def load(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the port's
        """Count that the run is read and not its head alone."""
        self.read_whole += 1
        return await self._inner.load(*args, **options)

    async def append(self, append: Append, **options: Any) -> int:  # noqa: ANN401 - as the port's
        """Lose ``losses`` times to a message that is no event, as anybody's."""
        if self.losses > 0:
            self.losses -= 1
            n = next(self._numbers)
            noise = msgspec.structs.replace(append, role="planner", event="noise", n=n, payload=b"{}", event_id=f"x{n}")
            await self._others.append(noise)
        try:
            return await self._inner.append(append, **options)
        except HeadMoved as moved:
            self.lost += 1
            await anyio.sleep(LAG_S)
            raise HeadMoved("moved", head_seq=moved.head_seq if self._named else 0) from None


class Place:
    """A broker in memory with one run, and an operator who wants to stop it."""

    def __init__(self, *, losses: int = 0, named: bool = True) -> None:
        self.broker = MemoryBroker(virtual_now)
        self.log = BusyLog(self.broker, losses=losses, named=named)
        self.run = Run(TENANT, RUN)
        self.asked = 0
        self.stamper = Stamper(build="", blobs=self.broker.blobs(), chance=random.Random(1), now=virtual_now)

    async def stop(self, ask: Callable[[], Awaitable[object]] | None = None, *, mode: StopMode = StopMode.FENCE) -> int:
        """Stop it as ann."""
        log: Log = self.log  # pyright: ignore[reportAssignmentType] # the rest is the inner one's

        async def counted() -> None:
            self.asked += 1
            assert ask is not None
            await ask()

        return await stop_run(
            log, self.stamper, self.run, lambda at: wanted(at, mode), ask=None if ask is None else counted
        )

    async def say(self, role: RoleName, event: Stopped | Sealed | Refused) -> None:
        """Append an event of another."""
        log, run = self.broker.log([role]), Run(TENANT, RUN)
        await catch_up(log, run)
        await log.append(await self.stamper.stamp(run, role, event, Cue(kind="control")))

    async def truth(self) -> Run:
        """The run as the log tells it."""
        run = Run(TENANT, RUN)
        await catch_up(self.broker.log(), run)
        return run


def wanted(run: Run, mode: StopMode) -> Stopped:
    """The stop of these tests."""
    return msgspec.structs.replace(stopped(run, by="ann", why="enough"), mode=mode)


@pytest.mark.parametrize("named", [True, False], ids=["head-named", "head-not-named"])
def test_a_stop_that_loses_tries_again_from_the_real_head(*, named: bool) -> None:
    """Whether the refusal names it or not."""

    async def main() -> None:
        place = Place(losses=2, named=named)
        assert await place.stop() == 1
        assert (place.log.lost, place.asked) == (2, 0)
        assert stop_number(await place.truth()) == 1

    run_virtual(main)


@pytest.mark.parametrize("named", [True, False], ids=["head-named", "head-not-named"])
def test_of_a_head_that_follows_only_that_one_message_is_read(*, named: bool) -> None:
    """So a stop costs two round trips a try however long the run is."""

    async def main() -> None:
        place = Place(named=named)
        await place.say("validator", Refused(code="no_agent", sentence="There is none."))
        assert await place.stop() == 2
        assert (place.log.lost, place.log.read_whole) == (1, 0 if named else 1)

    run_virtual(main)


def test_a_stop_that_keeps_losing_has_the_process_that_works_on_the_run_say_it() -> None:
    """Once, after a few tries; what is then in the log is the stop, and nothing is said twice."""

    async def main() -> None:
        place = Place(losses=10**9)

        async def ask() -> None:
            await place.say("validator", wanted(Run(TENANT, RUN), StopMode.FENCE))

        assert await place.stop(ask) == 1
        assert (place.log.lost, place.asked) == (TRIES_ALONE, 1)
        state = await place.truth()
        assert [entry.role for entry in state.entries if entry.name == "stopped"] == ["validator"]
        assert place.run.stopped is not None
        assert place.run.stopped.by == "ann"

    run_virtual(main)


def test_a_stop_that_cannot_ask_for_help_goes_on_alone() -> None:
    """Neither an error nor a broker that does not answer keeps it from trying."""

    async def fails() -> None:
        raise Unreachable("no")

    async def hangs() -> None:
        await anyio.sleep(10 * ASK_WITHIN_S)

    async def main(ask: Callable[[], Awaitable[None]]) -> None:
        place = Place(losses=TRIES_ALONE + 5)
        assert await place.stop(ask) == 1
        assert place.asked == 1
        assert (await place.truth()).stopped_role == "operator"

    for ask in (fails, hangs):
        run_virtual(lambda ask=ask: main(ask))  # type: ignore[misc]


def test_a_stop_is_never_called_one_before_it_is_stored() -> None:
    """After its time it says how often it lost, and whether it is kept."""

    async def nothing() -> None:
        return None

    async def main(ask: Callable[[], Awaitable[object]] | None, said: str) -> None:
        place, began = Place(losses=10**9), virtual_now()
        with pytest.raises(TimedOut, match=said):
            await place.stop(ask)
        assert STOP_WITHIN_S <= (virtual_now() - began).total_seconds() < STOP_WITHIN_S + 1
        assert (await place.truth()).stopped is None

    run_virtual(lambda: main(nothing, "it is kept"))
    run_virtual(lambda: main(None, "stop it again"))


def test_a_run_that_is_over_is_left_alone() -> None:
    """Stopped or sealed: the first stop's number, or none."""

    async def main() -> None:
        place = Place()
        await place.say("planner", wanted(Run(TENANT, RUN), StopMode.FENCE))
        await catch_up(place.log._inner, place.run)  # pyright: ignore[reportPrivateUsage]
        assert await place.stop() == 1
        assert (await place.truth()).n == 1
        await place.say("recorder", Sealed(status="stopped"))
        place.run = Run(TENANT, RUN)
        assert await place.stop() == 1
        assert (await place.truth()).n == 2

    run_virtual(main)


def test_a_stop_ends_a_drain_and_not_the_other_way_round() -> None:
    """Who stopped the run, and why, stays; what was to run out is cancelled after all."""

    async def main() -> None:
        place = Place()
        assert await place.stop(mode=StopMode.DRAIN) == 1
        assert await place.stop(mode=StopMode.FENCE) == 1
        assert await place.stop(mode=StopMode.DRAIN) == 1
        state = await place.truth()
        assert state.n == 2
        assert state.stopped is not None
        assert state.stopped.mode is StopMode.FENCE

    run_virtual(main)
