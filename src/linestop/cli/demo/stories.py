"""The three stories of the demo. Each runs, shows its log, and then checks that it ended as expected.

The checks matter: a demo that only prints could print anything. ``StoryFailed`` ends the demo with exit code 1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from linestop.cli.approval_questions import reason_of_model
from linestop.cli.demo.processes import Stage, wait_for_shop
from linestop.cli.demo.screen import ASK_WITHIN_S, Screen
from linestop.cli.demo.shop import SLOW_BATCH_NUMBER
from linestop.client import Client
from linestop.errors import Defect
from linestop.schemas.dollars import rounded_dollars
from linestop.schemas.events import AnyEvent, Asked, EffectStarted, Finished, Granted, Sealed
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry

STORY_WITHIN_S: Final = 60.0
DEMO_PERSON: Final = "the-demo"
ORDER_TASK: Final = "Order 1042 arrived broken. Please help."
PARCEL_TASK: Final = "Where is parcel 77?"
LETTERS_TASK: Final = "Send the spring letter to batches 1, 2, 3 and 4."
E = TypeVar("E", bound=AnyEvent)
OnEntry = Callable[[Run, Entry], Awaitable[None]]


class StoryFailed(Defect):
    """Raised when a story did not end as expected; the message names the expectation that did not hold."""


async def refund(stage: Stage, screen: Screen) -> None:
    """A refund that waits for a person, and is paid once although the executor is killed in the middle."""
    screen.title("1 of 3 · A refund: approved by a person, and paid once although the executor is killed")
    approvals: list[bool] = []

    async def on_entry(run: Run, entry: Entry) -> None:
        if isinstance(entry.event, Asked):
            approvals.append(await _decide(stage.client, screen, run))
        if _is_first_start(run, entry, "refunds.create"):
            await _kill_in_the_middle(stage, screen)

    run = await follow(stage.client, screen, await _submit(stage.client, "support", ORDER_TASK), on_entry)
    _sealed_as(run, "completed")
    starts = _events(run, EffectStarted)
    require(
        any(e.outcome == "failed" and e.error and e.error.type == "transient" for e in _events(run, Finished)),
        "the first request to the shop failed",
    )
    if not approvals[-1]:
        require(stage.shop.refunds == 0, "nothing was refunded")
        screen.result(
            "You denied it, and nothing was refunded: the shop counts 0 effects. (Approve it to see the kill.)"
        )
        return
    requests = stage.shop.requests["refunds"]
    workers = [event.worker for event in starts[-2:]]
    require(len(_events(run, Granted)) == 1, "a person approved once")
    require(len(set(workers)) == 2, "another incarnation of the executor took over")
    require(requests == 2 and stage.shop.refunds == 1, "the shop got two requests and paid once")
    screen.result(
        f"{workers[0]} was killed, {workers[1]} took over under the same effect key: "
        f"{requests} requests, and the shop counts {stage.shop.refunds} effect."
    )


async def loop(stage: Stage, screen: Screen) -> None:
    """A model that makes the same call again and again, and is stopped by the validator."""
    screen.title("2 of 3 · A model that repeats itself: stopped by the validator, not by the bill")
    run = await follow(stage.client, screen, await _submit(stage.client, "tracker", PARCEL_TASK))
    sealed = _sealed(run)
    stop = run.stopped
    require(
        stop is not None and stop.code == "loop" and run.stopped_role == "validator", "the validator detected the loop"
    )
    requests = stage.shop.requests["parcels"]
    require(requests == run.limits.equal_calls_max, "no further call was made")
    screen.result(
        f"The same call {requests} times with the same result was enough: stopped by the validator "
        f"after {rounded_dollars(sealed.totals.cost_micros)}, "
        f"with {rounded_dollars(run.limits.cost_max_micros)} allowed."
    )


async def stop(stage: Stage, screen: Screen) -> None:
    """A run that is stopped from outside while it works, and its receipt."""
    screen.title("3 of 3 · Stopping the line: a run is stopped from outside while a call is in flight")

    async def on_entry(run: Run, entry: Entry) -> None:
        if _is_first_start(run, entry, "letters.send") and len(run.proposals) == SLOW_BATCH_NUMBER:
            await wait_for_shop(stage.shop.letter_arrived, "third batch of letters")
            receipt = await stage.client.stop(run.run, by=DEMO_PERSON, why="Wrong letter!")
            open_calls = ", ".join(_call_text(run, line.what) for line in receipt.open)
            screen.note(f"    --- event {receipt.n} is the stop: nothing can start after it. In flight: {open_calls}")

    run = await follow(stage.client, screen, await _submit(stage.client, "letters", LETTERS_TASK), on_entry)
    sealed = _sealed_as(run, "stopped")
    screen.note("    its receipt:")
    for fate in sealed.receipt:
        screen.note(f"      {_call_text(run, fate.call)}: {fate.fate}")
    fates = [fate.fate for fate in sealed.receipt]
    require(fates == ["done", "done", "unknown"], f"two batches are done and one is unknown, not {fates}")
    require(stage.shop.letters == [1, 2, 3], "the fourth batch was never sent")
    screen.result("Two batches were sent, the third was interrupted and the receipt says so; the fourth never started.")


async def follow(client: Client, screen: Screen, name: str, on_entry: OnEntry | None = None) -> Run:
    """Show a run's log until the run is sealed, and return the run."""
    with anyio.move_on_after(STORY_WITHIN_S):
        async for run, entry in client.watch(name):
            screen.entry(entry, run)
            require(not entry.ignored, f"event {entry.n} is not ignored ({entry.ignored})")
            if on_entry is not None:
                await on_entry(run, entry)
            if run.sealed is not None:
                screen.note(f"    {name}: {run.sealed.status}, {rounded_dollars(run.spent_micros)} in all")
                return run
    raise StoryFailed(f"The run {name} did not end within {STORY_WITHIN_S:g} s.")


async def _submit(client: Client, agent: str, text: str) -> str:
    submitted = await client.submit(agent, text, user="demo")
    require(submitted.status == "opened", f"the task is accepted ({submitted.sentence})")
    return submitted.run


async def _decide(client: Client, screen: Screen, run: Run) -> bool:
    """Ask the person at the terminal, else approve and print so; return whether the refund was approved."""
    (question,) = await client.questions(run.run)
    screen.note(f"    --- the run waits for a person: {question.tool} {question.args} ({question.rule})")
    if question.reason:
        screen.note(f"        {reason_of_model(question)}")
    approved = await screen.ask(f"    Pay this refund? (after {ASK_WITHIN_S:g} s the demo approves it)")
    if approved is None:
        why = f"no answer within {ASK_WITHIN_S:g} s" if screen.interactive else "there is no terminal to ask at"
        screen.note(f"    --- {why}, so the demo approves; in production the question would expire to `denied`")
    by = DEMO_PERSON if approved is None else client.person
    if approved is False:
        await client.deny(run.run, question.call, by=by, why="A person at the demo said no.")
        return False
    await client.approve(run.run, question.call, by=by, why="It arrived broken.")
    return True


async def _kill_in_the_middle(stage: Stage, screen: Screen) -> None:
    """Kill the executor after the shop has paid and before the executor has the reply; start it again."""
    await wait_for_shop(stage.shop.refund_arrived, "refund")
    await stage.executor.kill()
    screen.note("    --- kill -9 of the executor: the shop has paid, but the log has no result yet")
    process = await stage.executor.start()
    screen.note(f"    --- the executor is started again, as process {process}")


def _is_first_start(run: Run, entry: Entry, tool: str) -> bool:
    """Whether the entry is the first start of a call of that tool."""
    if not isinstance(entry.event, EffectStarted):
        return False
    return any(line.attempt == 1 and run.calls[line.call].tool == tool for line in entry.event.calls)


def _call_text(run: Run, name: str) -> str:
    """A call for people: tool and arguments."""
    call = run.calls.get(name)
    args = call.judged.args if call is not None and call.judged is not None else ""
    return f"{call.tool} {args}" if call is not None else name


def _sealed_as(run: Run, status: str) -> Sealed:
    sealed = _sealed(run)
    require(sealed.status == status, f"the run ends as {status} (it ended as {sealed.status}: {sealed.why})")
    return sealed


def _sealed(run: Run) -> Sealed:
    if run.sealed is None:
        raise StoryFailed(f"The run {run.run} is not sealed.")
    return run.sealed


def _events(run: Run, kind: type[E]) -> list[E]:
    return [entry.event for entry in run.entries if isinstance(entry.event, kind)]


def require(condition: bool, expectation: str) -> None:
    """Raise ``StoryFailed`` unless the condition holds; ``expectation`` names it."""
    if not condition:
        raise StoryFailed(f"The demo did not go as expected; this does not hold: {expectation}.")
