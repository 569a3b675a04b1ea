"""Virtual time: waiting is free, seeds decide the order, and a program that cannot continue is reported."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from linestop.errors import Defect
from linestop.testing.virtual_time import START, Deadlock, VirtualLoop, run_virtual, virtual_now


def test_thirty_days_pass_in_no_time() -> None:
    """Sleeping advances the virtual clock, not the real one."""
    began = time.monotonic()

    async def main() -> timedelta:
        before = virtual_now()
        await anyio.sleep(30 * 86_400)
        return virtual_now() - before

    assert run_virtual(main) == timedelta(days=30)
    assert time.monotonic() - began < 2


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    """A task group's sleepers finish by deadline, whatever order they were started in."""
    woken: list[float] = []

    async def sleeper(delay_s: float) -> None:
        await anyio.sleep(delay_s)
        woken.append(delay_s)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for delay_s in (3.0, 1.0, 2.0):
                group.start_soon(sleeper, delay_s)

    run_virtual(main, seed=1)
    assert woken == [1.0, 2.0, 3.0]


def test_fail_after_counts_virtual_seconds() -> None:
    """A deadline cuts a longer wait at exactly its time."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(60):
                await anyio.sleep(3_600)
        return asyncio.get_running_loop().time()

    assert run_virtual(main) == pytest.approx(60)


def _order(seed: int | None) -> list[int]:
    order: list[int] = []

    async def worker(number: int) -> None:
        await anyio.sleep(1)
        order.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(worker, number)

    run_virtual(main, seed=seed)
    return order


def test_a_seed_repeats_its_interleaving_and_seeds_differ() -> None:
    """The same seed gives the same order; many seeds give many orders."""
    assert _order(7) == _order(7)
    assert len({tuple(_order(seed)) for seed in range(20)}) > 10
    assert _order(None) == _order(None)


def test_a_program_that_cannot_continue_is_a_deadlock_that_names_the_place() -> None:
    """Waiting for an event that nothing will set names the task, the function and the file."""

    async def wait_forever() -> None:
        await anyio.Event().wait()

    with pytest.raises(Deadlock, match="Nothing is ready") as caught:
        run_virtual(wait_forever)
    assert "1 tasks wait forever" in str(caught.value)
    assert "Event.wait" in str(caught.value)


def test_a_loop_that_spins_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy loop that never lets time pass ends with an error instead of hanging."""
    monkeypatch.setattr("linestop.testing.virtual_time.TURNS_AT_ONE_INSTANT_MAX", 1_000)

    async def spin() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    with pytest.raises(Deadlock, match="spins"):
        run_virtual(spin)


def test_the_clock_starts_at_the_given_time() -> None:
    """``start`` is the date at loop time 0."""

    async def main() -> datetime:
        await anyio.sleep(1.5)
        return virtual_now()

    start = datetime(2030, 5, 1, tzinfo=UTC)
    assert run_virtual(main, start=start) == start + timedelta(seconds=1.5)
    loop = VirtualLoop()
    assert loop.now() == START
    loop.close()


def test_virtual_now_outside_a_virtual_loop_is_a_defect() -> None:
    """Real loops have no virtual clock, and the error says so."""

    async def main() -> None:
        virtual_now()

    with pytest.raises(Defect, match="run_virtual"):
        asyncio.run(main())


def test_an_error_in_main_reaches_the_caller() -> None:
    """``run_virtual`` raises the error of ``main``."""

    async def main() -> None:
        await anyio.sleep(1)
        raise ValueError("from main")

    with pytest.raises(ValueError, match="from main"):
        run_virtual(main, seed=3)
