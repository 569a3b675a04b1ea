"""Which run a task is, and what is answered when that run is known."""

from __future__ import annotations

import hashlib

import msgspec

from linestop.actors.facts import IncomingTask
from linestop.actors.task_opening import stopped_before_start_message, task_sha256
from linestop.bus.cloud_events import unwrap
from linestop.bus.event_envelope import uuid7
from linestop.bus.idempotency_keys import KeyOwner, run_id_rejection_reason, run_of_key
from linestop.bus.interfaces import Delivery, Left
from linestop.errors import InputError
from linestop.schemas.events import Cue
from linestop.schemas.messages import Reply, Task, read_message, readable
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RunId, TenantId, run_id

REASON_CHARS_MAX = 400


class Arrived(msgspec.Struct, frozen=True):
    """A task at the door: whose, what, which run it is where nothing else names one, and what its events cite."""

    tenant: TenantId
    incoming: IncomingTask
    fresh: RunId
    cue: Cue


def read_task(tenant: TenantId, agent: str, delivery: Delivery) -> tuple[IncomingTask, RunId]:
    """Read the task as far as it can be read, and name a run after its place in the stream."""
    bits = int.from_bytes(hashlib.sha256(b"%d\0" % delivery.seq + delivery.payload).digest()[:10], "big")
    fresh = RunId(uuid7(delivery.stored_at, bits & ((1 << 74) - 1)))
    try:
        body, trace = unwrap(delivery.headers, delivery.payload)
        task = read_message(body, Task)
        if task.run:
            run_id(task.run)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, InputError) as error:
        problem = f"The task cannot be read: {shown_reason(str(error))}. Send a JSON object with at least 'text'."
        said, sha256 = readable(delivery.payload), hashlib.sha256(delivery.payload).hexdigest()
        return IncomingTask(
            agent=agent, sha256=sha256, problem=problem, readable=said, asked_at=delivery.stored_at
        ), fresh
    arrived = IncomingTask(agent=agent, sha256=task_sha256(task, agent), asked_at=delivery.stored_at)
    if problem := run_id_rejection_reason(tenant, task.run, task.key):
        return msgspec.structs.replace(arrived, problem=problem, readable=task), fresh
    return msgspec.structs.replace(arrived, task=task, trace=trace), fresh


def first_choice(task: Arrived, owner: KeyOwner | None) -> RunId:
    """The run that a task is: that of its key, else the one it names, else one of its own."""
    said = task.incoming.task
    if owner is not None:
        return owner.run
    if said is not None and said.run:
        return RunId(said.run)
    return run_of_key(task.tenant, said.key) if said is not None and said.key else task.fresh


def over_and_left(run: RunId, left: Left, *, status: str) -> Reply:
    """The reply about a run that is over and whose log has left."""
    sentence = f"Run '{run}' is over ({left.status or 'sealed'}) and is not done again"
    return Reply(status=status, run=run, sentence=f"{sentence}: its log has left RUNS, and the archive has it.")


def taken_by_another(run: Run, incoming: IncomingTask) -> bool:
    """Whether the run was opened for another task than this one."""
    return run.opened is not None and not incoming.existing_run and run.opened.task.sha256 != incoming.sha256


def verdict(run: Run, incoming: IncomingTask) -> Reply | None:
    """What became of the task of a run; None if that is not known yet."""
    if run.opened is None and not run.done:
        return None
    if run.opened is not None:
        return Reply(status="opened", run=run.run)
    if run.refused is not None:
        return Reply(status="refused", run=run.run, sentence=run.refused.sentence)
    return Reply(status="refused", run=run.run, sentence=stopped_before_start_message(why_stopped(run), incoming))


def why_stopped(run: Run | Left) -> str:
    """Why a run was stopped, by its log, or by its outcome if its log has left."""
    if isinstance(run, Left):
        return run.why
    return run.stopped.why if run.stopped is not None else ""


def run_of_refusal(run: RunId, incoming: IncomingTask) -> RunId:
    """The run of the refusal of a task that cannot be ``run``: no other task can have it."""
    return RunId(f"r-{hashlib.sha256(f'{run}:{incoming.sha256}'.encode()).hexdigest()[:40]}")


def shown_reason(reason: str) -> str:
    """A decoder's or parser's words as the middle of a sentence: they may repeat what was sent, however long."""
    reason = reason.rstrip(".")
    return reason if len(reason) <= REASON_CHARS_MAX else reason[:REASON_CHARS_MAX] + "…"
