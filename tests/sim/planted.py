"""Bugs to plant: each breaks one rule of production, and must turn some seed red.

A green simulator proves nothing until it is known what turns it red. Every entry patches the running process, so
a bug is planted in a child process and never removed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import anyio
import msgspec
from tests.sim import outside
from tests.sim import planted_recovery as more
from tests.sim.hardships import Kind
from tests.sim.loop import PROCESS, SimLoop
from tests.sim.workers import Worker

from linestop.actors import approver, control_messages, executor, planner
from linestop.actors.executor import Executor, finished_event
from linestop.actors.judging import calls
from linestop.bus import run_outcomes_and_alerts
from linestop.errors import Unreachable
from linestop.runtime import actor_process, perform_started
from linestop.runtime.ask_roles import Draft
from linestop.runtime.housekeeping.stalled_run_sweep import Sweep
from linestop.runtime.intake import ControlIntake, TaskIntake
from linestop.runtime.money import ledger, orphaned_holds
from linestop.runtime.money.account_state import apply_change
from linestop.runtime.outbox import Outbox
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.run_loop import Shell
from linestop.sandbox.tools import perform_call
from linestop.schemas.events import Finished
from linestop.schemas.run.call_states import Attempt
from linestop.schemas.run.fold import Run
from linestop.schemas.tool_contracts import ToolError

DEATHS: dict[str, float] = {"timers": 1.0, "control": 1.0}
"""Share of first deliveries whose handler dies."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: a part of the sentence by which the checks find it, how to plant it, and the seeds that are searched.

    The seeds are of the first thousand; for a rare bug they begin shortly before one that finds it, to save time.
    ``hardship`` is the hardship of all these seeds, if the bug shows only then.
    """

    found_by: str
    plant: Callable[[], None]
    seeds: str = "1-999"
    hardship: Kind | Literal[""] = ""


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _task_acknowledged_early() -> None:
    def make(original: Any) -> Any:
        async def handle(self: TaskIntake, delivery: Any) -> None:
            await delivery.ack()
            await original(self, delivery)

        return handle

    _wrap(TaskIntake, "handle", make)


def _stop_dropped() -> None:
    def make(original: Any) -> Any:
        async def handle(self: ControlIntake, delivery: Any) -> None:
            if delivery.subject.endswith(".stop"):
                await delivery.ack()
            else:
                await original(self, delivery)

        return handle

    _wrap(ControlIntake, "handle", make)


def _retry_without_start() -> None:
    async def perform(self: Executor, view: Any, started: Any) -> AsyncIterator[Any]:
        runner = cast("Any", self)._runner
        async for work, result, duration_s in runner.run(view):
            if result.outcome == "failed":
                async for again, second, more_s in runner.run((work,)):
                    yield finished_event(again, second, more_s)
            else:
                yield finished_event(work, result, duration_s)
        del started

    cast("Any", Executor).perform = perform


def _never(execution: object) -> datetime:
    del execution
    return datetime.max.replace(tzinfo=UTC)


def _no_start_by() -> None:
    cast("Any", perform_started.Execution).start_by = property(_never)
    cast("Any", outside).is_past_start_by = _never_past_start_by


def _never_past_start_by(now: datetime, start_by: datetime) -> bool:
    del now, start_by
    return False


def _append_repeated_after_timeout() -> None:
    def make(original: Any) -> Any:
        async def append(self: Any, current_pass: Any, draft: Draft) -> Any:
            try:
                return await original(self, current_pass, draft)
            except Unreachable:
                await self._refresh(current_pass.entry)
                return await original(self, current_pass, Draft(draft.binding, draft.event, draft.facts, at=draft.at))

        return append

    _wrap(Shell, "_append", make)


def _no_compare() -> None:
    def make(original: Any) -> Any:
        async def append(self: Any, current_pass: Any, draft: Draft) -> Any:
            run = current_pass.entry.run
            head = await draft.binding.log.head(run.tenant, run.run)
            run.head_seq = head.seq if head else 0
            return await original(self, current_pass, draft)

        return append

    _wrap(Shell, "_append", make)


def _no_reading_after_conflict() -> None:
    def make(original: Any) -> Any:
        async def refresh(self: Any, entry: Any, n_min: int = 0, *, head_seq: int = 0, leader: bool = False) -> None:
            if head_seq:
                entry.run.head_seq = head_seq
            else:
                await original(self, entry, n_min, leader=leader)

        return refresh

    _wrap(Shell, "_refresh", make)


def _refused_event_stays_in_cache() -> None:
    def reset(self: CachedRun) -> None:
        self.is_loaded = True

    cast("Any", CachedRun).reset = reset


def _prompt_cached_by_turn() -> None:
    cached: dict[tuple[Any, ...], Any] = {}

    def make(original: Any) -> Any:
        def assemble(run: Run, agent: Any, *, purpose: str = "turn", model: Any = None, **more: Any) -> Any:
            process, opened = PROCESS.get(), run.opened.id if run.opened else ""
            last = run.proposals[-1].n if run.proposals else 0
            about = (purpose, repr(model), repr(sorted(more.items())))
            key = (process.name if process else "", opened, last, len(run.compactions), *about)
            return cached.setdefault(key, original(run, agent, purpose=purpose, model=model, **more))

        return assemble

    _wrap(planner, "assemble", make)


def _unknown_is_failed() -> None:
    def make(original: Any) -> Any:
        def decide(self: Executor, *args: Any) -> Any:
            event = original(self, *args)
            if isinstance(event, Finished) and event.outcome == "unknown":
                error = ToolError(type="transient", message="It failed.", retry_safe=True)
                return msgspec.structs.replace(event, outcome="failed", error=error)
            return event

        return decide

    _wrap(Executor, "decide", make)


def _early_takeover() -> None:
    def expired(self: Attempt, now: datetime, worker: str = "", dead: Collection[str] = ()) -> bool:
        del worker, dead
        return now >= self.started_at + timedelta(seconds=0.5)

    cast("Any", Attempt).expired = expired


def _unlimited_money(run: Run) -> int:
    del run
    return 1 << 40


def _do_nothing(*args: object) -> None:
    del args


def _uncovered_start() -> None:
    cast("Any", Run).available_micros = property(_unlimited_money)


def _never_rejected(*args: object) -> str:
    del args
    return ""


def _stale_grant() -> None:
    cast("Any", control_messages)._decision_rejection_reason = _never_rejected


def _stop_ignored() -> None:
    cast("Any", Shell)._react_to_stop = _do_nothing


def _no_sweep() -> None:
    async def once(self: Sweep, *, all_runs: bool = False) -> int:
        del self, all_runs
        return 0

    cast("Any", Sweep).once = once


def _acknowledged_first() -> None:
    # An acknowledged message is never delivered again, so a death right after the acknowledgement shows the bug. The
    # death alone is an ordinary crash: with the acknowledgement in its right place, no seed is red.
    _deadly_after(lambda delivery: delivery.ack())


def _deadly_after(first: Callable[[Any], Awaitable[None]]) -> None:
    """Let handlers first do ``first`` with a delivery, and sometimes kill their process right after."""
    owners: dict[Any, Worker] = {}

    def make(original: Any) -> Any:
        async def handle(self: Any, delivery: Any) -> None:
            await first(delivery)
            process = PROCESS.get()
            worker = owners.get(process)
            share = DEATHS[delivery.subject.partition(".")[0]] if delivery.attempt == 1 else 0.0
            if worker and process and random.Random(f"{process.name}:{delivery.seq}").random() < share:
                cast("SimLoop", asyncio.get_running_loop()).spawn(worker.crash())
                await anyio.sleep(0.1)
            await original(self, delivery)

        return handle

    def starting(original: Any) -> Any:
        def start(self: Worker) -> None:
            original(self)
            owners[self.process] = self

        return start

    _wrap(Worker, "start", starting)
    for owner, name in (
        (actor_process.ActorProcess, "_on_timer"),
        (ControlIntake, "handle"),
    ):
        _wrap(owner, name, make)


def _key_with_call() -> None:
    counter = iter(range(1 << 60))

    def make(original: Any) -> Any:
        def key(run: str, tool: str, args: bytes) -> str:
            return str(original(f"{run}/{next(counter)}", tool, args))

        return key

    _wrap(calls, "effect_key", make)


def _no_expiry() -> None:
    cast("Any", approver)._deny_expired = _do_nothing


def _outcome_never() -> None:
    async def publish_outcome(self: Outbox, run: Run) -> None:
        del self, run

    cast("Any", Outbox).publish_outcome = publish_outcome


def _outcome_twice() -> None:
    counter = iter(range(1 << 60))

    def agent_of(run: Run) -> str:
        del run
        return f"agent-{next(counter)}"

    cast("Any", run_outcomes_and_alerts).agent_of = agent_of


def _outcome_only_at_once() -> None:
    async def on_seal(self: Any, delivery: Any) -> None:
        del self
        await delivery.ack()

    cast("Any", actor_process.ActorProcess)._on_seal = on_seal


def _late_acknowledgement_trusted() -> None:
    def make(original: Any) -> Any:
        def init(self: Any, *args: Any, **options: Any) -> None:
            original(self, *args, **(options | {"append_began_at": asyncio.get_running_loop().time()}))

        return init

    _wrap(cast("Any", perform_started.Execution), "__init__", make)


def _orphaned_holds_stay() -> None:
    async def nothing(accounts: Any, log: Any, *, older_than_s: float) -> int:
        del accounts, log, older_than_s
        return 0

    cast("Any", orphaned_holds).release_orphaned_holds = nothing


def _accounts_not_compared() -> None:
    writer = cast("Any", ledger)._Writer

    async def commit(self: Any, changes: Any) -> Any:
        account, revision = self._cached or await ledger.read_account(self._shared, self._key)
        account = account.copy()
        replies = [apply_change(account, change) for change in changes]
        value = msgspec.json.encode(account)
        stored = await self._shared.get(self._key)
        if stored is None:
            revision = await self._shared.create(self._key, value)
        else:
            revision = await self._shared.update(self._key, value, revision=stored.revision)
        self._cached = (account, revision)
        return replies

    writer._commit = commit


def _cost_over_reservation() -> None:
    def make(original: Any) -> Any:
        def finished_event(work: Any, result: Any, duration_s: float) -> Any:
            event = original(work, result, duration_s)
            return msgspec.structs.replace(event, cost_micros=2 * work.cost_max_micros)

        return finished_event

    _wrap(executor, "finished_event", make)


def _probe_never_began() -> None:
    def make(original: Any) -> Any:
        def report_cancelled(self: Executor, view: Any, done: Any, *, begun: bool) -> Any:
            events = original(self, view, done, begun=begun)
            return events if begun else [msgspec.structs.replace(event, outcome="never_started") for event in events]

        return report_cancelled

    _wrap(Executor, "report_cancelled", make)


def _raised_is_failed() -> None:
    def error_and_outcome(contract: Any, reply: Any, error: ToolError, ctx: Any) -> Any:
        del contract, reply, ctx
        return msgspec.structs.replace(error, type="transient", retry_safe=True, known_by="tool"), "failed"

    cast("Any", perform_call)._error_and_outcome = error_and_outcome


PLANTED: dict[str, Planted] = {
    "task acknowledged before its run is opened": Planted("P2: the task", _task_acknowledged_early),
    "stop acknowledged and dropped": Planted("P2: the stop", _stop_dropped, "131-999"),
    "tool tried again without a new start": Planted("on one start", _retry_without_start),
    "start_by not checked": Planted("after its start_by", _no_start_by),
    "event appended again after a time-out": Planted("ignored: ", _append_repeated_after_timeout),
    "append without comparing the head": Planted("chain: ", _no_compare),
    "no reading after a conflict": Planted("chain: ", _no_reading_after_conflict),
    "refused event stays in the cache": Planted("chain: ", _refused_event_stays_in_cache),
    "prompt cached from an unstored result": Planted("P8: ", _prompt_cached_by_turn, "190-999", "workers cut"),
    "unknown effect reported as failed": Planted("P3: ", _unknown_is_failed, hardship="workers cut"),
    "exception after the effect reported as a failure": Planted("P3: ", _raised_is_failed),
    "takeover before done_by": Planted("starts a model request while attempt", _early_takeover),
    "start not covered by a hold": Planted("P4: ", _uncovered_start),
    "grant counts for other arguments": Planted("P5: ", _stale_grant),
    "performer ignores a stop": Planted("P1: ", _stop_ignored),
    "unbegun probe taken for its result": Planted("P3: ", _probe_never_began),
    "acknowledged before anything is done": Planted("late: ", _acknowledged_first, "271-999"),
    "no sweep": Planted("liveness: ", _no_sweep),
    "effect key differs each time": Planted("defect: ", _key_with_call),
    "questions do not expire": Planted("stuck: ", _no_expiry),
    "outcome never published": Planted("outcome: ", _outcome_never),
    "outcome published twice": Planted("outcome: ", _outcome_twice),
    "outcome lost with its recorder": Planted("outcome: ", _outcome_only_at_once),
    "late acknowledgement trusted": Planted("P1: ", _late_acknowledgement_trusted, "350-999"),
    "orphaned holds stay": Planted("P4: ", _orphaned_holds_stay),
    "accounts written without comparing": Planted("P4: ", _accounts_not_compared),
    "cost over its reservation": Planted("P4: ", _cost_over_reservation),
    "last try not taken over": Planted(
        "which is safe to repeat and has a try left", more.last_try_not_taken_over, hardship="workers cut"
    ),
    "unopened task acknowledged": Planted("P2: the task", more.unopened_task_acknowledged, hardship="squatter"),
    "outcome dropped without room": Planted("outcome: ", more.outcome_dropped_without_room, hardship="outcomes full"),
    "older incarnation reported": Planted("reports a dead worker's", more.older_incarnation_reported_as_unknown),
    "hold settled twice": Planted("P4: account", more.hold_settled_twice, hardship="broker away"),
    "superseded success thrown away": Planted(
        "continues without its result", more.superseded_success_thrown_away, "30-999", hardship="workers cut"
    ),
    "no alarm while performing": Planted("late: ", more.no_alarm_while_performing),
    "no durable timer": Planted("late: ", more.no_durable_timer),
    "no worker counts as dead": Planted("was not taken over", more.no_worker_is_dead, hardship="worker lost"),
    "opened without room": Planted("room: ", more.opened_without_room, hardship="runs full"),
    "changed contract performed": Planted("P5: ", more.changed_contract_performed, hardship="contracts change"),
    "earlier grant counts": Planted(
        "under a contract that was never agreed to", more.earlier_grant_counts, hardship="contracts change"
    ),
    "reported event ignored": Planted("events: ", more.reported_event_ignored, hardship="events"),
    "downtime counts as work": Planted("wall: ", more.downtime_is_work, hardship="broker away"),
    "unbegun attempt counts as a try": Planted("begun: ", more.not_begun_counts_as_an_attempt),
    "primary asked first": Planted("fallback: ", more.primary_asked_first, hardship="provider away"),
}
"""Bug → how the checks name it, and how it is planted."""
