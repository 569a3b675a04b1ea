"""More bugs to plant (see ``planted``): about time, recovery, scarcity and changes during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from linestop.actors import approver, executor
from linestop.actors.judging import task_acceptance
from linestop.bus.stores import worker_heartbeats
from linestop.errors import TooLarge
from linestop.runtime import deadline_alarms, intake
from linestop.runtime.intake import TaskIntake
from linestop.runtime.money import account_state, ledger
from linestop.runtime.outbox import Outbox
from linestop.sandbox.tools import tool_runner
from linestop.schemas.messages import Reply
from linestop.schemas.run import call_states
from linestop.schemas.run.call_states import Stage
from linestop.schemas.run.fold import Run
from linestop.schemas.run.rules import calls, widened_contracts
from linestop.schemas.run.starting import model_choice, next_start


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _do_nothing(*args: Any, **options: Any) -> None:
    del args, options


async def _nothing_set(*args: Any) -> None:
    del args


def last_try_not_taken_over() -> None:
    """A takeover at the last try: ``<=`` as ``<``."""

    def make(original: Any) -> Any:
        def startable(run: Any, call: Any, now: Any, **who: Any) -> bool:
            last = call.stage is not Stage.READY and call.grant is not None and call.tries >= call.grant.retries_max
            return not last and bool(original(run, call, now, **who))

        return startable

    _wrap(next_start, "_startable", make)


def unopened_task_acknowledged() -> None:
    """A task is acknowledged although its run could not be opened."""

    def make(original: Any) -> Any:
        async def opened(self: TaskIntake, task: Any, no_room: str) -> Reply:
            return await original(self, task, no_room) or Reply(status="opened")

        return opened

    _wrap(TaskIntake, "_open", make)


def outcome_dropped_without_room() -> None:
    """An outcome that finds no room is not tried again."""

    def make(original: Any) -> Any:
        async def publish_outcome(self: Any, run: Run) -> None:
            try:
                await original(self, run)
            except TooLarge:
                return

        return publish_outcome

    _wrap(Outbox, "publish_outcome", make)


def older_incarnation_reported_as_unknown() -> None:
    """An executor reports an unsafe effect of its older incarnation as unknown at once."""

    def is_abandoned(run: Any, attempt: Any, now: Any, *, worker: str, dead: Any) -> bool:
        del run
        return bool(attempt.expired(now, worker, dead))

    cast("Any", executor)._is_abandoned = is_abandoned


def hold_settled_twice() -> None:
    """Ending a hold that has ended charges it again."""

    def make(original: Any) -> Any:
        def apply_change(account: Any, change: Any) -> Any:
            has_ended = change.spent is not None and change.hold not in account.holds
            reply = original(account, change)
            account.spent += change.spent if has_ended else 0
            return reply

        return apply_change

    _wrap(account_state, "apply_change", make)
    cast("Any", ledger).apply_change = account_state.apply_change


def superseded_success_thrown_away() -> None:
    """The success of a superseded attempt does not count."""

    def make(original: Any) -> Any:
        def apply_finished(run: Any, n: int, event: Any) -> str:
            call = run.calls.get(event.call)
            if call is None or call.stage not in {Stage.OPEN, Stage.READY}:
                return str(original(run, n, event))
            if event.outcome != "succeeded" or not 0 < event.attempt < len(call.attempts):
                return str(original(run, n, event))
            stage, call.stage = call.stage, Stage.GATE
            ignored = original(run, n, event)
            call.stage = stage
            return str(ignored)

        return apply_finished

    _wrap(calls, "apply_finished", make)


def no_alarm_while_performing() -> None:
    """The alarms are not updated while something is performed."""

    def make(original: Any) -> Any:
        async def set_alarms(self: Any, entry: Any) -> None:
            if not entry.performing:
                await original(self, entry)

        return set_alarms

    _wrap(deadline_alarms.Alarms, "set", make)


def no_durable_timer() -> None:
    """Far deadlines get no timer."""
    cast("Any", deadline_alarms.Alarms)._set_durable = _nothing_set


def no_worker_is_dead() -> None:
    """Work of a dead worker is waited for to its end."""

    def is_dead(self: Any, role: Any, worker: Any) -> bool:
        del self, role, worker
        return False

    cast("Any", worker_heartbeats.Roster).is_dead = is_dead


def _has_space(space: Any) -> str:
    del space
    return ""


def opened_without_room() -> None:
    """A new run is opened although the remaining space belongs to the others."""
    cast("Any", intake).no_space_message = cast("Any", task_acceptance).no_space_message = _has_space


def changed_contract_performed() -> None:
    """A tool is called although it may do more than when the run was opened."""
    cast("Any", tool_runner)._refused_by_grant = cast("Any", executor).widened = _do_nothing


def earlier_grant_counts() -> None:
    """A grant or clearance from before a tool's contract became wider still counts."""

    def make(original: Any) -> Any:
        def widened(run: Run, event: Any) -> str:
            before = [(run.calls[line.call], run.calls[line.call].gate_n) for line in event.calls]
            ignored = str(original(run, event))
            for call, gate_n in before if not ignored else ():
                if gate_n:
                    call.gate_n, call.agreed, call.stage = gate_n, None, Stage.READY
            return ignored

        return widened

    _wrap(widened_contracts, "widened", make)


def reported_event_ignored() -> None:
    """An event that came before the wait for it does not count."""
    cast("Any", approver)._answer_from_report = _do_nothing


def downtime_is_work() -> None:
    """All time since the run was opened counts as work."""

    def active_s(self: Run, now: Any, performing: Any = ()) -> float:
        del performing
        return float((now - self.opened_at).total_seconds())

    cast("Any", Run).active_s = active_s


def not_begun_counts_as_an_attempt() -> None:
    """An attempt that certainly did not begin counts as a try."""
    for module in (call_states, model_choice, next_start):
        cast("Any", module).count_tries = len


def primary_asked_first() -> None:
    """Each turn begins with the main model of the run, also while it is known to be down."""

    def first_model(run: Any, now: Any) -> Any:
        return model_choice.NextModel(at=now, model=run.opened.model) if run.opened is not None else None

    cast("Any", next_start).first_model = first_model
