"""What a run waits for at this moment, since when, and until when at most. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec

from linestop.bus.stores.worker_heartbeats import WorkerStatus, heartbeat_key
from linestop.schemas.account_names import owner_of
from linestop.schemas.events import Asked, AskedCall
from linestop.schemas.run.call_states import Attempt, CallState, Stage, incarnation_of
from linestop.schemas.run.fold import Run
from linestop.schemas.run.next_role import whose_turn
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.subjects import RoleName

Kind = Literal["person", "resume", "time", "event", "account", "model", "tool", "retry", "worker"]
_ROLE_PHRASES: Final[Mapping[RoleName, str]] = {
    "validator": "a validator",
    "approver": "an approver",
    "budget": "a budget worker",
    "executor": "an executor",
    "planner": "a planner",
    "recorder": "a recorder",
    "operator": "an operator",
}
_RESULT_EVENTS: Final = frozenset({"finished", "failed"})


class Wait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a run waits for. ``sentence`` continues "The run …".

    ``kind`` is ``worker`` where it is the turn of a role, named by ``role``; ``missing`` means that no worker has that
    role now, ``overloaded`` that all its workers already work on as much as they may.
    """

    kind: Kind
    sentence: str
    since: datetime
    until: datetime | None = None
    role: RoleName | None = None
    missing: bool = False
    overloaded: bool = False


def waits(run: Run, now: datetime, workers: Sequence[WorkerStatus] | None = None) -> list[Wait]:
    """Everything that an open run waits for at this moment; empty if the run is over.

    Args:
        run: The run, folded from its log.
        now: The present moment.
        workers: The workers that have sent a heartbeat, if they are known.
    """
    if run.sealed is not None or not run.entries:
        return []
    found_waits = [] if run.done else _people(run)
    if run.paused is None or run.done:
        found_waits += [_attempt(run, attempt, now, workers or ()) for attempt in run.open_attempts]
    if not run.done and run.paused is None:
        found_waits += [*_timed_waits(run), *_account(run, now), *_retry(run, now)]
    if (turn := whose_turn(run, now)) is not None:
        # The delay before a retry is not the role's time: its turn began when the delay was over.
        start = next_start(run, run.at)
        since = start.at if isinstance(start, NextStart) and start.at <= now else run.at
        found_waits.append(_turn(run, turn, since, workers))
    elif (abandoned := next((a for a in run.open_attempts if _is_dead(a, workers or ())), None)) is not None:
        found_waits.append(_turn(run, _role_of_attempt(abandoned), abandoned.started_at, workers))
    return found_waits


def _people(run: Run) -> list[Wait]:
    if run.paused is not None:
        why = f": {run.paused.why}" if run.paused.why else ""
        sentence = f"waits for a person to resume it; {run.paused.by} paused it{why}"
        return [Wait(kind="resume", sentence=sentence, since=run.paused.at, until=_run_deadline(run))]
    found: list[Wait] = []
    if run.spend_asked is not None:
        sentence = "waits for a person to decide whether it may spend more"
        until = run.spend_asked.expires_at
        found.append(Wait(kind="person", sentence=sentence, since=_asked_at(run, ""), until=until))
    for call in run.calls.values():
        if call.stage is Stage.ASKED and call.asked is not None:
            kind: Kind = "event" if call.tool == "wait.for_event" else "person"
            since, until = _asked_at(run, call.call), call.asked.expires_at
            found.append(Wait(kind=kind, sentence=_question(call), since=since, until=until))
    return found


def _question(call: CallState) -> str:
    """The question about this call, and who may decide it."""
    asked = call.asked
    if not isinstance(asked, AskedCall):
        text = asked.text if asked else ""
        return f"waits for the event '{text}'" if call.tool == "wait.for_event" else "waits for a person to answer it"
    if call.asked_about_outcome:
        return f"waits for a person to decide about the unknown outcome of {call.tool}"
    deciders = f"one of {', '.join(asked.deciders)}" if asked.deciders else "a person"
    votes = f" ({len(call.votes)} of {asked.quorum} have)" if asked.quorum > 1 else ""
    return f"waits for {deciders} to approve {call.tool}{votes}"


def _asked_at(run: Run, call: str) -> datetime:
    """When the question about this call was asked; without a call, the question about spending."""
    for entry in reversed(run.entries):
        event = entry.event
        if isinstance(event, Asked) and not entry.ignored:
            named = [*(line.call for line in event.calls), *([event.question.call] if event.question else [])]
            if call in named or (not call and event.spend is not None):
                return event.at
    return run.at


def _attempt(run: Run, attempt: Attempt, now: datetime, workers: Sequence[WorkerStatus]) -> Wait:
    """A start whose result is not in the log yet."""
    performer = f"tool {run.calls[attempt.call].tool}" if attempt.call else f"model {attempt.model}"
    sentence = f"waits for {performer} (attempt {attempt.attempt}, by {attempt.worker})"
    if attempt.done_by <= now:
        sentence += ", which did not end in time"
    elif _is_dead(attempt, workers):
        sentence += ", but that worker has ended or fallen silent"
    return Wait(
        kind="tool" if attempt.call else "model", sentence=sentence, since=attempt.started_at, until=attempt.done_by
    )


def _role_of_attempt(attempt: Attempt) -> RoleName:
    return "executor" if attempt.call else "planner"


def _is_dead(attempt: Attempt, workers: Sequence[WorkerStatus]) -> bool:
    """Whether the worker of this attempt is known to be dead; another worker may have its name now."""
    key = heartbeat_key(_role_of_attempt(attempt), attempt.worker)
    status = next((w for w in workers if heartbeat_key(w.beat.role, w.beat.worker) == key), None)
    if status is None:
        return False
    if status.beat.worker == attempt.worker:
        return not status.alive
    return incarnation_of(attempt.worker) < incarnation_of(status.beat.worker)


def _timed_waits(run: Run) -> list[Wait]:
    """The times that the open ``wait.until`` calls of a run wait for."""
    calls = [call for call in (run.proposal.calls if run.proposal else ()) if call.stage is Stage.WAITING]
    sentence = "waits until the time it asked for"
    return [
        Wait(kind="time", sentence=sentence, since=_event_time(run, call.gate_n), until=call.ready_at) for call in calls
    ]


def _account(run: Run, now: datetime) -> list[Wait]:
    queued = run.queued
    if queued is None:
        return []
    user = run.opened.task.user if run.opened else ""
    owner = queued.owner or (owner_of(queued.account, run.tenant, user) if queued.account else "")
    sentence = f"waits for money of {owner}: {queued.why}" if owner else f"waits for money: {queued.why}"
    until = queued.resets_at if queued.resets_at is None or queued.resets_at > now else None
    return [Wait(kind="account", sentence=sentence.rstrip("."), since=queued.at, until=until or _run_deadline(run))]


def _retry(run: Run, now: datetime) -> list[Wait]:
    start = next_start(run, now)
    if not isinstance(start, NextStart) or start.at <= now or start.takeover:
        return []
    tools = ", ".join(run.calls[call].tool for call in start.calls if call in run.calls)
    performer = f"model {start.model.model}" if start.model else f"tool {tools}"
    last = next((e.event.at for e in reversed(run.entries) if e.event is not None and e.name in _RESULT_EVENTS), run.at)
    return [Wait(kind="retry", sentence=f"waits to try {performer} again", since=last, until=start.at)]


def _turn(run: Run, role: RoleName, since: datetime, workers: Sequence[WorkerStatus] | None) -> Wait:
    """The wait for a role whose turn it is: whether a worker with that role is alive and not overloaded."""
    sentence = f"waits for {_ROLE_PHRASES[role]}"
    role_workers = [worker for worker in workers or () if worker.beat.role == role]
    working = [worker for worker in role_workers if worker.is_working]
    missing = workers is not None and not working
    overloaded = bool(working) and all(worker.beat.is_overloaded for worker in working)
    if missing:
        refusing = next((worker.beat.why for worker in role_workers if worker.alive and worker.beat.why), "")
        sentence += f", and no worker has that role: start one with `linestop actor {role}`, `up` or `dev`"
        sentence += f" ({refusing.rstrip('.')})" if refusing else ""
    elif overloaded:
        busy = "; ".join(f"{w.beat.worker} has {w.beat.load.sentence}" for w in working if w.beat.load)
        sentence += f", and each one is overloaded: {busy}"
    return Wait(
        kind="worker",
        sentence=sentence,
        since=since,
        until=_run_deadline(run),
        role=role,
        missing=missing,
        overloaded=overloaded,
    )


def _event_time(run: Run, n: int) -> datetime:
    """When event ``n`` was appended."""
    return next((e.event.at for e in reversed(run.entries) if e.n == n and e.event is not None), run.at)


def _run_deadline(run: Run) -> datetime | None:
    """The deadline at which the run ends in any case."""
    return run.opened.deadline_at if run.opened is not None and not run.done else None
