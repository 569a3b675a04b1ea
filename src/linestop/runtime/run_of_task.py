"""Finds the run that belongs to a task, and the reply once that run is known."""

from __future__ import annotations

import hashlib

import msgspec

from linestop.actors.facts import IncomingTask
from linestop.actors.judging.task_acceptance import stopped_before_start_message, task_sha256
from linestop.bus.cloud_events import unwrap
from linestop.bus.event_message import uuid7
from linestop.bus.interfaces import Delivery, RemovedRun
from linestop.bus.stores.idempotency_keys import KeyOwner, run_id_rejection_reason
from linestop.errors import InputError
from linestop.runtime.dead_letters import truncated_reason
from linestop.schemas.events import Cue
from linestop.schemas.messages import Reply, Task, read_message, readable, run_of_key
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import AgentName, RunId, TenantId, parse_task, run_id


class ArrivedTask(msgspec.Struct, frozen=True):
    """An incoming task with its tenant, the run id it gets if nothing else names one, and the cue of its events."""

    tenant: TenantId
    incoming: IncomingTask
    new_run: RunId
    cue: Cue


def read_task(delivery: Delivery) -> ArrivedTask:
    """Read the task as far as it can be read, and derive a run id from its place in the stream.

    Raises:
        InputError: the subject is not that of a task.
    """
    subject = parse_task(delivery.subject)
    bits = int.from_bytes(hashlib.sha256(b"%d\0" % delivery.seq + delivery.payload).digest()[:10], "big")
    return ArrivedTask(
        tenant=subject.tenant,
        incoming=_incoming_task(subject.tenant, subject.agent, delivery),
        new_run=RunId(uuid7(delivery.stored_at, bits & ((1 << 74) - 1))),
        cue=Cue(kind="task", id=f"task:{delivery.seq}"),
    )


def _incoming_task(tenant: TenantId, agent: AgentName, delivery: Delivery) -> IncomingTask:
    try:
        body, trace = unwrap(delivery.headers, delivery.payload)
        task = read_message(body, Task)
        if task.run:
            run_id(task.run)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, InputError) as error:
        problem = f"The task cannot be read: {truncated_reason(str(error))}. Send a JSON object with at least 'text'."
        readable_part, sha256 = readable(delivery.payload), hashlib.sha256(delivery.payload).hexdigest()
        return IncomingTask(
            agent=agent, sha256=sha256, problem=problem, readable=readable_part, asked_at=delivery.stored_at
        )
    arrived = IncomingTask(agent=agent, sha256=task_sha256(task, agent), asked_at=delivery.stored_at)
    if problem := run_id_rejection_reason(tenant, task.run, task.key):
        return msgspec.structs.replace(arrived, problem=problem, readable=task)
    return msgspec.structs.replace(arrived, task=task, trace=trace)


def preferred_run(task: ArrivedTask, owner: KeyOwner | None) -> RunId:
    """Return the run that belongs to a task: that of its key, else the one that it names, else a new one."""
    message = task.incoming.task
    if owner is not None:
        return owner.run
    if message is not None and message.run:
        return RunId(message.run)
    return run_of_key(task.tenant, message.key) if message is not None and message.key else task.new_run


def removed_run_reply(run: RunId, left: RemovedRun, *, status: str) -> Reply:
    """Return the reply about a run that is over and whose log was removed."""
    sentence = f"Run '{run}' is over ({left.status or 'sealed'}) and is not done again"
    return Reply(status=status, run=run, sentence=f"{sentence}: its log has left RUNS, and the archive has it.")


def has_another_task(run: Run, incoming: IncomingTask) -> bool:
    """Whether the run was opened for another task than this one."""
    return run.opened is not None and not incoming.existing_run and run.opened.task.sha256 != incoming.sha256


def task_reply(run: Run, incoming: IncomingTask) -> Reply | None:
    """Return the reply about a run's task; None if its result is not known yet."""
    if run.opened is None and not run.done:
        return None
    if run.opened is not None:
        return Reply(status="opened", run=run.run)
    if run.refused is not None:
        return Reply(status="refused", run=run.run, sentence=run.refused.sentence)
    return Reply(status="refused", run=run.run, sentence=stopped_before_start_message(why_stopped(run), incoming))


def why_stopped(run: Run | RemovedRun) -> str:
    """Return why a run was stopped: by its log, or by its outcome if the log was removed."""
    if isinstance(run, RemovedRun):
        return run.why
    return run.stopped.why if run.stopped is not None else ""


def run_of_refusal(run: RunId, incoming: IncomingTask) -> RunId:
    """Return the run id for the refusal of a task that cannot get ``run``; no other task can have that id."""
    return RunId(f"r-{hashlib.sha256(f'{run}:{incoming.sha256}'.encode()).hexdigest()[:40]}")
