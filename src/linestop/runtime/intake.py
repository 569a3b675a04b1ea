"""The intake: how tasks and control messages, as any NATS client sends them, reach the roles.

A task is acknowledged when its run is opened (or refused), a control message when it became an event or
cannot become one. Both may be delivered again at any time, so both are recognised: a task by its key or its
place in the stream, a control message by the cue that its event carries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from linestop.actors.control_messages import EVENT_OF_VERB, rejection_reason
from linestop.actors.facts import ControlMessage, IncomingTask, Space
from linestop.actors.judging.task_acceptance import (
    free_key_note,
    key_taken_message,
    no_space_message,
    stopped_before_start_message,
)
from linestop.bus.interfaces import Delivery, Publisher, RemovedRun
from linestop.bus.stop_run import catch_up
from linestop.bus.stores.idempotency_keys import IdempotencyKeys, KeyOwner
from linestop.errors import InputError, LinestopError, TooLarge
from linestop.runtime import dead_letters
from linestop.runtime.dead_letters import truncated_reason
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.run_loop import Shell
from linestop.runtime.run_of_task import (
    ArrivedTask,
    has_another_task,
    preferred_run,
    read_task,
    removed_run_reply,
    run_of_refusal,
    task_reply,
    why_stopped,
)
from linestop.runtime.stream_space import StreamSpace
from linestop.schemas.agents import AgentVersion
from linestop.schemas.broker_defaults import DELIVERY_ATTEMPTS_MAX, DELIVERY_RETRY_S
from linestop.schemas.events import Cue, Opened
from linestop.schemas.messages import (
    REPLY_HEADER,
    SIGNED_VERBS,
    Control,
    Reply,
    Verb,
    read_message,
    read_stop,
    require_size,
    signed_bytes,
)
from linestop.schemas.run.fold import Run
from linestop.schemas.strict_json import decode_strict
from linestop.schemas.subjects import (
    ControlSubject,
    RoleName,
    RunId,
    TenantId,
    check_name,
    parse_control,
)

LOG = structlog.get_logger("linestop.intake")
UNREADABLE_RUN = "unreadable"
"""The run that stands in dead letters about messages that no role can read."""

M = TypeVar("M")


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may decide: a name and the Ed25519 public key (hex) that proves it."""

    name: str
    public_key: str


class TaskIntake:
    """Turns tasks into runs. Belongs to the validator."""

    def __init__(
        self, shell: Shell, facts: FactSource, stream_space: StreamSpace, *, keys: IdempotencyKeys, publisher: Publisher
    ) -> None:
        self._shell = shell
        self._facts = facts
        self._stream_space = stream_space
        self._keys = keys
        self._publisher = publisher
        self._binding = next(s for s in shell.bindings if s.role.name == "validator")

    async def handle(self, delivery: Delivery) -> None:
        """Open (or refuse) the run of one task, then acknowledge it."""
        await _handle(self._publisher, delivery, role="validator", read=read_task, perform=self._open_or_refuse)

    async def _open_or_refuse(self, delivery: Delivery, task: ArrivedTask) -> Reply | None:
        try:
            async with self._stream_space.place(self._binding.log, len(delivery.payload)) as space:
                return await self._open(task, no_space_message(space))
        except TooLarge as error:
            return Reply(status="refused", sentence=f"There is no room for the task: {error}")

    async def _open(self, task: ArrivedTask, no_space: str) -> Reply | None:
        """Find the task's run and let the validator decide; None if that has to be tried again.

        ``no_space`` is the reason why nothing may be written to a run that does not exist; empty if it may.
        """
        tenant, incoming = task.tenant, task.incoming
        key = incoming.task.key if incoming.task else ""
        owner = await self._keys.owner(tenant, key) if key else None
        run = preferred_run(task, owner)
        state = await self._load_run(tenant, run)
        left = await self._binding.log.removed_run(tenant, run) if state.n == 0 and run != task.new_run else None
        beforehand = left.stopped_beforehand if left is not None else state.stopped_beforehand
        if key and beforehand and (refusal := await self._refuse_stopped(task, left or state, run, no_space)):
            return refusal
        over = beforehand or (left.key_is_free if left is not None else state.has_released_key)
        if over and key and (owner is None or owner.run == run):
            # The run that had the key is over; its name is taken for ever.
            run = task.new_run
            state = await self._load_run(tenant, run)
        elif owner is not None and owner.sha256 != incoming.sha256:
            return await self._refuse_taken_key(task, run, no_space)
        elif left is not None:
            return removed_run_reply(run, left, status="refused" if owner is None else "opened")
        if state.n == 0:
            if no_space:
                # Nothing may be written to a run that does not exist: the space belongs to those that do.
                LOG.info("task_refused", tenant=tenant, agent=incoming.agent, reason="no_space")
                return Reply(status="refused", run=run, sentence=f"{no_space}{free_key_note(incoming)}")
            takes_key = key and (owner is None or owner.run != run) and await self._would_open(state, incoming)
            if takes_key and not await self._keys.take(
                tenant, key, run=run, sha256=incoming.sha256, previous_owner=owner
            ):
                return await self._reply_after_lost_key(task, owner)
        entry = await self._shell.advance(tenant, run, task.cue, incoming)
        if has_another_task(entry.run, incoming):
            return await self._refuse_taken_key(task, run, no_space)
        if key and entry.run.stopped_beforehand:
            return await self._refuse_stopped(task, entry.run, run, no_space)
        return task_reply(entry.run, incoming)

    async def _load_run(self, tenant: TenantId, run: RunId) -> Run:
        """Return the run as the log has it, without asking a role."""
        entry = self._shell.cache.peek(tenant, run)
        if entry is not None and entry.is_loaded:
            return entry.run
        state = Run(tenant, run)
        await catch_up(self._binding.log, state, leader=self._shell.config.replicated)
        return state

    async def _would_open(self, run: Run, incoming: IncomingTask) -> bool:
        """Whether the validator would open a run for the task at this moment: only then the task takes its key."""
        role, now = self._binding.role, self._shell.config.now()
        facts = await self._facts.gather(run, role, now, (incoming,))
        return isinstance(role.decide(run, facts, now), Opened)

    async def _reply_after_lost_key(self, task: ArrivedTask, previous_owner: KeyOwner | None) -> Reply | None:
        """Another task took the key first: try again, unless the bucket cannot move keys at all."""
        assert task.incoming.task is not None
        current_owner = await self._keys.owner(task.tenant, task.incoming.task.key)
        if previous_owner is None or current_owner is None or current_owner.revision != previous_owner.revision:
            return None
        sentence = (
            "The key's run is over, but the bucket 'ids' was made by an older linestop and cannot give the key to a "
            "new run"
        )
        return Reply(
            status="refused", run=previous_owner.run, sentence=f"{sentence}: use another key, or see `linestop doctor`."
        )

    async def _refuse_taken_key(self, task: ArrivedTask, run: RunId, no_space: str) -> Reply:
        """Refuse a task whose key or run another task has; the refusal is a run of its own, if there is space."""
        incoming = msgspec.structs.replace(task.incoming, existing_run=run)
        refusal = run_of_refusal(run, incoming)
        if not no_space or (await self._load_run(task.tenant, refusal)).n > 0:
            await self._shell.advance(task.tenant, refusal, task.cue, incoming)
        return Reply(status="refused", run=refusal, sentence=key_taken_message(run))

    async def _refuse_stopped(
        self, task: ArrivedTask, stopped: Run | RemovedRun, run: RunId, no_space: str
    ) -> Reply | None:
        """Refuse, once, a task whose run was stopped before it came: sent again, its key stands for another run.

        The refusal is a run of its own, whose log shows that it was made; None if another message got it before.
        """
        incoming, refusal = task.incoming, run_of_refusal(run, task.incoming)
        sentence = stopped_before_start_message(why_stopped(stopped), incoming)
        before = await self._load_run(task.tenant, refusal)
        if not before.n and await self._binding.log.removed_run(task.tenant, refusal) is not None:
            return None
        if before.n and (before.refused is None or before.refused.cue.id != task.cue.id):
            return None
        if not before.n and not no_space:
            refused = msgspec.structs.replace(incoming, existing_run=run, problem=sentence)
            await self._shell.advance(task.tenant, refusal, task.cue, refused)
        return Reply(status="refused", run=run, sentence=sentence)


class ControlIntake:
    """Turns control messages into events. Belongs to the approver; stops belong to every role."""

    def __init__(
        self, shell: Shell, stream_space: StreamSpace, *, publisher: Publisher, people: Mapping[str, Person]
    ) -> None:
        self._shell = shell
        self._stream_space = stream_space
        self._publisher = publisher
        self._people = people

    async def handle(self, delivery: Delivery) -> None:
        """Turn a control message into an event, acknowledge it, and reply if its sender asked for a reply."""
        # The role whose credential the publisher has: a dead letter under another name would always be refused.
        role = "approver" if "approver" in self._shell.role_names else self._shell.bindings[0].role.name
        await _handle(self._publisher, delivery, role=role, read=self._read, perform=self._apply)

    def _read(self, delivery: Delivery) -> tuple[ControlSubject, ControlMessage]:
        try:
            subject = parse_control(delivery.subject)
            if subject.verb == "stop":
                control = read_stop(delivery.payload)
            else:
                control = read_message(delivery.payload or b"{}", Control)
                if subject.verb == "edit":
                    # A key given twice is read differently by different readers, and one of them approved it.
                    decode_strict(delivery.payload)
                require_size(control)
            # Only the operator may send `reply`: it is an `answer` that a client cannot forge.
            verb: Verb = "answer" if subject.verb == "reply" else subject.verb
            signer = self._signer(subject.tenant, subject.run, verb, control)
        except (InputError, ValueError, RecursionError) as error:
            raise InputError(f"The control message cannot be read: {truncated_reason(str(error))}.") from error
        return subject, ControlMessage(
            verb=verb,
            control=control,
            signer=signer,
            signature_required=bool(self._people) and verb in SIGNED_VERBS,
            trusted=subject.verb == "reply" or bool(signer),
        )

    async def _apply(self, delivery: Delivery, read: tuple[ControlSubject, ControlMessage]) -> Reply | None:
        subject, message = read
        log = self._shell.bindings[0].log
        if (left := await log.removed_run(subject.tenant, subject.run)) is not None:
            return removed_run_reply(subject.run, left, status="refused")
        # The two streams have separate sequences, and a message is recognised by its place.
        cue = Cue(kind="control", id=f"{'client' if subject.by_client else 'control'}:{delivery.seq}")
        if not await self._may_create_run(subject):
            return await self._advance(subject, message, cue)
        async with self._stream_space.place(log, len(delivery.payload)) as space:
            return await self._refuse_stop_without_space(subject, space) or await self._advance(subject, message, cue)

    async def _may_create_run(self, subject: ControlSubject) -> bool:
        """Whether the message is a stop whose run may not exist: it would take space that belongs to existing runs."""
        log = self._shell.bindings[0].log
        if subject.verb != "stop":
            return False
        return await self._stream_space.has_ample_space(log) or await log.head(subject.tenant, subject.run) is None

    async def _refuse_stop_without_space(self, subject: ControlSubject, space: Space) -> Reply | None:
        """Refuse the stop of a run that does not exist, if there is no space for a new run; otherwise None."""
        no_space = no_space_message(space)
        if not no_space or await self._shell.bindings[0].log.head(subject.tenant, subject.run) is not None:
            return None
        sentence = f"There is no run '{subject.run}', so there is nothing to stop. {no_space}"
        return Reply(status="refused", run=subject.run, sentence=sentence)

    async def _advance(self, subject: ControlSubject, message: ControlMessage, cue: Cue) -> Reply | None:
        entry = await self._shell.advance(subject.tenant, subject.run, cue, message, fresh=True)
        agent = await self._shell.pinned_agent(entry.run) if message.verb == "edit" else None
        return self._control_reply(entry, message, cue, agent)

    def _control_reply(
        self, entry: CachedRun, message: ControlMessage, cue: Cue, agent: AgentVersion | None
    ) -> Reply | None:
        """Return the reply; None if the message neither became an event nor was rejected for a reason."""
        run = entry.run
        # Other events that roles appended in the same pass carry the same cue.
        kind = EVENT_OF_VERB[message.verb]
        own_entry = next(
            (e for e in run.entries if isinstance(e.event, kind) and e.event.cue.id == cue.id and not e.ignored), None
        )
        if own_entry is not None:
            return Reply(
                status="done", run=run.run, sentence=f"{own_entry.role}.{own_entry.name} is event {own_entry.n}."
            )
        sentence = rejection_reason(run, message, self._shell.config.now(), agent)
        if message.verb == "stop" and run.stopped is not None:
            return Reply(status="done", run=run.run, sentence=sentence)
        return Reply(status="refused", run=run.run, sentence=sentence) if sentence else None

    def _signer(self, tenant: str, run: str, verb: str, control: Control) -> str:
        """Return the name of the person whose key signed this, or '' if no known person did."""
        person = self._people.get(control.key_id)
        if person is None or not control.signature:
            return ""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(person.public_key))
            key.verify(bytes.fromhex(control.signature), signed_bytes(tenant, run, verb, control))
        except (InvalidSignature, ValueError):
            return ""
        return person.name


async def _handle(
    publisher: Publisher,
    delivery: Delivery,
    *,
    role: RoleName,
    read: Callable[[Delivery], M],
    perform: Callable[[Delivery, M], Awaitable[Reply | None]],
) -> None:
    """Read a message, perform it, acknowledge it and reply; it is tried again where ``perform`` returns None."""
    try:
        message = read(delivery)
    except InputError as error:
        await _store_dead_letter(publisher, delivery, str(error), role=role, run=UNREADABLE_RUN)
        await _refuse(publisher, delivery, str(error))
        return
    try:
        reply = await perform(delivery, message)
    except Exception as error:  # noqa: BLE001 - no error may lose a task or a stop
        await _retry_or_dead_letter(publisher, delivery, error, role=role)
        return
    if reply is None:
        await delivery.nak(DELIVERY_RETRY_S)
        return
    await delivery.ack()
    await _reply(publisher, delivery, reply)


async def _reply(publisher: Publisher, delivery: Delivery, reply: Reply) -> None:
    inbox = delivery.headers.get(REPLY_HEADER, "")
    if inbox:
        await publisher.reply(inbox, msgspec.json.encode(reply))


async def _refuse(publisher: Publisher, delivery: Delivery, sentence: str) -> None:
    await _reply(publisher, delivery, Reply(status="refused", sentence=sentence))


async def _retry_or_dead_letter(publisher: Publisher, delivery: Delivery, error: Exception, *, role: RoleName) -> None:
    """Handle a failure of our own: try again, a bounded number of times unless the broker is at fault."""
    is_retryable = isinstance(error, LinestopError) and not isinstance(error, InputError)
    LOG.warning("intake_failed", subject=delivery.subject, attempt=delivery.attempt, error=str(error))
    if is_retryable or delivery.attempt < DELIVERY_ATTEMPTS_MAX:
        await delivery.nak(DELIVERY_RETRY_S)
        return
    await _store_dead_letter(publisher, delivery, f"{type(error).__name__}: {error}", role=role)
    reason = truncated_reason(str(error))
    await _refuse(publisher, delivery, f"The message could not be handled and is stored as a dead letter: {reason}.")


async def _store_dead_letter(
    publisher: Publisher,
    delivery: Delivery,
    reason: str,
    *,
    role: RoleName,
    run: str = "",
) -> None:
    """Store a message that cannot be handled as a dead letter, and end its delivery.

    Unreadable messages share one subject, of which the stream keeps a bounded number.
    """
    tokens = delivery.subject.split(".")
    tenant = "unknown"
    if not run:
        run = f"seq-{delivery.seq}"
        with contextlib.suppress(InputError, IndexError):
            tenant = check_name("tenant", tokens[1])
    await publisher.dead_letter(role, tenant, run, dead_letters.about_message(delivery, reason))
    await delivery.term("dead letter")
