"""The author of a page or an argument decides how much there is to compute, but cannot delay a stop."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from tests.e2e.loop_watch import watching_steps
from tests.e2e.one_process import OneProcess, one_process
from tests.e2e.scene import agent, log_lines
from tests.e2e.test_sizes import LARGE, playbook, until_done

from linestop import off_loop as off_loop_module
from linestop.models import open_model
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.decorator import tool
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.events import Policy
from linestop.schemas.run.call_states import Stage
from linestop.schemas.tool_contracts import canonical

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.broker]

STEP_S_MAX = 0.5
"""The longest step of the loop allowed; a stop takes some tens of steps, nearly all a thousand times shorter."""

NUMBERS = " ".join(str(number) for number in range(3_400))
HUGE_BYTES = 30_000_000
LARGE_BYTES = 3_000_000
HUGE: dict[str, Any] = {
    "text": "a key is sk- or not; " * (LARGE_BYTES // 21),
    "numbers": [1] * (HUGE_BYTES // 2),
    "secrets": "-----BEGIN PRIVATE KEY-----" * (HUGE_BYTES // 27),
    "texts": [":// and more of it"] * (LARGE_BYTES // 21),
}


def _endless(kind: str) -> Any:
    """A value that is small in memory, but endless or too deep as JSON."""
    value: Any = []
    if kind == "cyclic":
        value.append({"again": [value] * 100_000})
    for _ in range({"shared": 40, "deep": 100_000}.get(kind, 0)):
        value = [value, value] if kind == "shared" else [value]
    return value


LINKS = " ".join(f"https://host{number}.example/{number}" for number in range(3_000))


@tool(tier="read", owner="e2e", timeout_s=60)
async def page(ctx: Context) -> str:
    """Return a page of numbers.

    Args:
        ctx: The attempt.
    """
    del ctx
    return NUMBERS


@tool(tier="read", owner="e2e", timeout_s=60)
async def huge(ctx: Context, kind: str) -> Any:
    """Return thirty megabytes.

    Args:
        ctx: The attempt.
        kind: Of what.
    """
    del ctx
    return HUGE[kind] if kind in HUGE else _endless(kind)


@tool(tier="irreversible", owner="e2e", timeout_s=60, content=("body",))
async def send(ctx: Context, body: str) -> int:
    """Send a letter.

    Args:
        ctx: The attempt.
        body: What it says.
    """
    del ctx
    return len(body)


@tool(tier="irreversible", owner="e2e", timeout_s=60)
async def pay(ctx: Context, amounts: list[int], notes: list[str] | None = None) -> int:
    """Pay amounts.

    Args:
        ctx: The attempt.
        amounts: Cents.
        notes: What for.
    """
    del ctx, notes
    return len(amounts)


@asynccontextmanager
async def serving(directory: Path, text: str) -> AsyncGenerator[OneProcess]:
    """One process with the agent of this playbook."""
    registry = Registry()
    for each in (page, huge, send, pay):
        registry.add(each, "e2e")
    limits = LARGE
    async with one_process(directory, (text,), registry) as one:
        # A process imports its providers before it serves; so does this one.
        await open_model("playbook/clerk", base_url=one.model_url).aclose()
        version = agent(
            one.model_url,
            name="clerk",
            model="playbook/clerk",
            tools=registry.contracts(),
            limits=limits,
            policy=Policy(clear=("pay",)),
        )
        await one.scene.deploy(version)
        yield one


def asked(run: object) -> bool:
    """Whether the run waits for a person about every call of its proposal."""
    proposal = getattr(run, "proposal", None)
    return proposal is not None and all(call.stage is Stage.ASKED for call in proposal.calls)


async def test_a_page_of_numbers_and_calls_of_many_numbers_do_not_keep_a_stop_waiting(tmp_path: Path) -> None:
    """Each value of each call is searched in each page."""
    pages = [("page", "{}")]
    calls = [
        ("pay", canonical({"amounts": [10_000 * n + i for i in range(190)], "notes": ["x y"] * 9}).decode())
        for n in range(1, 17)
    ]
    text = playbook("clerk", *({"turn": n, "call": pages} for n in range(1, 9)), {"turn": 9, "call": calls})
    async with serving(tmp_path, text) as one:
        with watching_steps() as longest:
            await one.scene.task("numbers", name="clerk")
            await one.scene.until("numbers", asked, within_s=60)
            reply = await one.publish_and_wait("control.e2e.numbers.stop", b"{}")
            state = await until_done(one, "numbers")
    assert reply.status == "done"
    assert state.stopped is not None, log_lines(state)
    assert longest.seconds < STEP_S_MAX, longest.handle


@pytest.mark.parametrize("kind", list(HUGE))
async def test_a_result_of_thirty_megabytes_does_not_keep_a_stop_waiting(tmp_path: Path, kind: str) -> None:
    """The result is redacted, encoded, digested and stored in a thread, not in the loop."""
    text = playbook("clerk", {"turn": 1, "call": [("huge", f'{{"kind":"{kind}"}}')]}, {"turn": 2, "say": "done"})
    async with serving(tmp_path, text) as one:
        with watching_steps() as longest:
            await one.scene.task("huge", name="clerk")
            state = await until_done(one, "huge", within_s=90)
    assert state.sealed is not None
    assert state.sealed.status == "completed", log_lines(state)
    assert longest.seconds < STEP_S_MAX, longest.handle


class BlockedThreads:
    """Blocks all work in threads until the test releases it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.armed = True
        self.began = anyio.Event()
        self._released = threading.Event()
        to_thread = SimpleNamespace(run_sync=self._run_sync)
        patch.setattr(off_loop_module, "anyio", SimpleNamespace(CancelScope=anyio.CancelScope, to_thread=to_thread))

    async def _run_sync(self, work: Callable[[], Any], *, abandon_on_cancel: bool = False) -> Any:
        if self.armed:
            self.began.set()
        blocked = partial(self._work_when_released, work, wait=self.armed)
        return await anyio.to_thread.run_sync(blocked, abandon_on_cancel=abandon_on_cancel)

    def _work_when_released(self, work: Callable[[], Any], *, wait: bool) -> Any:
        if wait:
            self._released.wait()
        return work()

    def release(self) -> None:
        """Let all work continue."""
        self.armed = False
        self._released.set()


STEPS: dict[str, list[tuple[str, str]]] = {
    **{kind: [("huge", f'{{"kind":"{kind}"}}')] for kind in ("shared", "cyclic", "deep", "numbers", "texts")},
    "amounts": [
        ("pay", canonical({"amounts": [10_000 * n + i for i in range(190)], "notes": ["x y"] * 9}).decode())
        for n in range(1, 17)
    ],
    "links": [("send", canonical({"body": LINKS}).decode())],
}


@pytest.mark.parametrize("kind", list(STEPS))
async def test_a_stop_does_not_wait_while_outside_data_is_processed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The threads are blocked until the stop is acknowledged, and then no step of the loop is long."""
    text = playbook("clerk", {"turn": 1, "call": [("page", "{}")]}, {"turn": 2, "call": STEPS[kind]})
    threads = BlockedThreads(monkeypatch)
    async with serving(tmp_path, text) as one:
        with watching_steps() as longest:
            await one.scene.task("blocked", name="clerk")
            try:
                with anyio.fail_after(60):
                    await threads.began.wait()
                reply = await one.publish_and_wait("control.e2e.blocked.stop", b"{}")
                stopped = await one.scene.fold("blocked")
            finally:
                threads.release()
            state = await until_done(one, "blocked", within_s=60)
    assert reply.status == "done"
    assert stopped.stopped is not None
    assert state.sealed is not None
    assert state.sealed.status == "stopped", log_lines(state)
    assert longest.seconds < STEP_S_MAX, longest.handle


async def test_many_calls_of_large_arguments_do_not_keep_a_stop_waiting(tmp_path: Path) -> None:
    """Sixteen calls of about 25 KB each: valid arguments, arguments of wrong types, and more values than are read."""
    valid = canonical({"amounts": list(range(2_000)), "notes": ["note " * 800] * 4}).decode()
    invalid = canonical({"amounts": ["one"] * 2_000, "notes": ["note " * 800] * 4}).decode()
    many = canonical({"amounts": [1] * 12_000}).decode()
    calls = [("pay", each) for each in (valid, invalid, many, many.replace("1", "2"))] * 4
    text = playbook("clerk", {"turn": 1, "call": calls}, {"turn": 2, "say": "done"})
    async with serving(tmp_path, text) as one:
        with watching_steps() as longest:
            await one.scene.task("large", name="clerk")
            await one.scene.until("large", lambda run: run.proposal is not None and run.proposal.judged, within_s=60)
            reply = await one.publish_and_wait("control.e2e.large.stop", b"{}")
            await until_done(one, "large")
    assert reply.status == "done"
    assert longest.seconds < STEP_S_MAX, longest.handle
