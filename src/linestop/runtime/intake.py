"""The doors: how tasks and people's words, as any NATS client sends them, reach the roles.

A task is acknowledged when its run is opened (or refused), a control message when it became an event or
cannot become one. Both may be delivered again at any time, so both are recognised: a task by its key or its
place in the stream, a control message by the cue its event carries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from linestop.actors.control_messages import BECOMES, objection
from linestop.actors.facts import Incoming, Space, Word
from linestop.actors.task_opening import full, key_taken, of_key, stopped_beforehand
from linestop.bus.idempotency_keys import KeyOwner, Keys
from linestop.bus.interfaces import Delivery, Left, Publisher
from linestop.bus.operator_stop import catch_up
from linestop.errors import InputError, LinestopError, TooLarge
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.headroom import Headroom
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.run_loop import Shell
from linestop.runtime.task_runs import (
    Arrived,
    first_choice,
    over_and_left,
    read_task,
    run_of_refusal,
    shown_reason,
    taken_by_another,
    verdict,
    why_stopped,
)
from linestop.schemas.agents import AgentVersion
from linestop.schemas.argument_validation import decode_strict
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
from linestop.schemas.events import Cue, Opened
from linestop.schemas.messages import (
    REPLY_HEADER,
    SIGNED_VERBS,
    Control,
    Reply,
    Verb,
    oversized,
    read_message,
    signed_bytes,
    stop_said,
)
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import (
    ControlSubject,
    RunId,
    TenantId,
    check_name,
    parse_control,
    parse_task,
)
from linestop.schemas.tool_contracts import canonical

LOG = structlog.get_logger("linestop.intake")
ATTEMPTS_MAX = 5
RETRY_S = 1.0
UNREADABLE = "unreadable"
"""Whose dead letters are those of messages that no role can read."""

PAYLOAD_GROWS_MAX = 8
"""How many bytes one character of a payload takes at most in a letter, and room for the rest of it."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may decide: a name and the Ed25519 public key (hex) that proves it."""

    name: str
    public_key: str


class TaskIntake:
    """Turns tasks into runs. Belongs to the validator."""

    def __init__(
        self, shell: Shell, facts: FactSource, headroom: Headroom, *, keys: Keys, publisher: Publisher
    ) -> None:
        self._shell = shell
        self._facts = facts
        self._headroom = headroom
        self._keys = keys
        self._publisher = publisher
        self._validator = next(s for s in shell.stations if s.role.name == "validator")

    async def handle(self, delivery: Delivery) -> None:
        """Open (or refuse) the run of one task, then acknowledge it."""
        try:
            subject = parse_task(delivery.subject)
        except InputError as error:
            await _give_up(self._publisher, delivery, str(error), role="validator", run=UNREADABLE)
            await _refuse(self._publisher, delivery, str(error))
            return
        incoming, fresh = read_task(subject.tenant, subject.agent, delivery)
        task = Arrived(subject.tenant, incoming, fresh, Cue(kind="task", id=f"task:{delivery.seq}"))
        try:
            async with self._headroom.place(self._validator.log, len(delivery.payload)) as space:
                reply = await self._open(task, full(space))
        except TooLarge as error:
            reply = Reply(status="refused", sentence=f"There is no room for the task: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the task must not be lost
            await _retry(self._publisher, delivery, error, role="validator")
            return
        if reply is None:
            await delivery.nak(RETRY_S)
            return
        await delivery.ack()
        await _reply(self._publisher, delivery, reply)

    async def _open(self, task: Arrived, no_room: str) -> Reply | None:
        """Find the task's run and let the validator decide; None if that has to be tried again.

        ``no_room`` says why nothing may be written to a run that does not exist, if that is so.
        """
        tenant, incoming = task.tenant, task.incoming
        key = incoming.task.key if incoming.task else ""
        owner = await self._keys.owner(tenant, key) if key else None
        run = first_choice(task, owner)
        known = await self._read(tenant, run)
        left = await self._validator.log.left(tenant, run) if known.n == 0 and run != task.fresh else None
        beforehand = left.stopped_beforehand if left is not None else known.stopped_beforehand
        if key and beforehand and (told := await self._told_of_stop(task, left or known, run, no_room)):
            return told
        over = beforehand or (left.key_is_free if left is not None else known.gave_key_back)
        if over and key and (owner is None or owner.run == run):
            # The run that had the key is over; its name is taken for ever.
            run = task.fresh
            known = await self._read(tenant, run)
        elif owner is not None and owner.sha256 != incoming.sha256:
            return await self._refuse_taken(task, run, no_room)
        elif left is not None:
            return over_and_left(run, left, status="refused" if owner is None else "opened")
        if known.n == 0:
            if no_room:
                # Nothing may be written to a run that does not exist: the room belongs to those that do.
                LOG.info("task_refused", tenant=tenant, agent=incoming.agent, reason="no_space")
                return Reply(status="refused", run=run, sentence=f"{no_room}{of_key(incoming)}")
            takes = key and (owner is None or owner.run != run) and await self._would_open(known, incoming)
            if takes and not await self._keys.take(tenant, key, run=run, sha256=incoming.sha256, before=owner):
                return await self._lost_key(task, owner)
        entry = await self._shell.look(tenant, run, task.cue, incoming)
        if taken_by_another(entry.run, incoming):
            return await self._refuse_taken(task, run, no_room)
        if key and entry.run.stopped_beforehand:
            return await self._told_of_stop(task, entry.run, run, no_room)
        return verdict(entry.run, incoming)

    async def _read(self, tenant: TenantId, run: RunId) -> Run:
        """The run as the log has it, without asking a role about it."""
        entry = self._shell.cache.peek(tenant, run)
        if entry is not None and entry.loaded:
            return entry.run
        state = Run(tenant, run)
        await catch_up(self._validator.log, state, leader=self._shell.config.replicated)
        return state

    async def _would_open(self, run: Run, incoming: Incoming) -> bool:
        """Whether the validator would let the task in at this moment: only then it takes its key."""
        role, now = self._validator.role, self._shell.config.now()
        facts = await self._facts.gather(run, role, now, (incoming,))
        return isinstance(role.decide(run, Cue(kind="task"), facts, now), Opened)

    async def _lost_key(self, task: Arrived, before: KeyOwner | None) -> Reply | None:
        """Another task took the key first: look again, unless the bucket cannot move keys at all."""
        assert task.incoming.task is not None
        now = await self._keys.owner(task.tenant, task.incoming.task.key)
        if before is None or now is None or now.revision != before.revision:
            return None
        sentence = "The key's run is over and gave it back, but the bucket 'ids' of an older linestop moves no key"
        return Reply(
            status="refused", run=before.run, sentence=f"{sentence}: use another key, or see `linestop doctor`."
        )

    async def _refuse_taken(self, task: Arrived, run: RunId, no_room: str) -> Reply:
        """Refuse a task whose key or run another task has; the refusal is a run of its own, if there is room."""
        incoming = msgspec.structs.replace(task.incoming, existing_run=run)
        refusal = run_of_refusal(run, incoming)
        if not no_room or (await self._read(task.tenant, refusal)).n > 0:
            await self._shell.look(task.tenant, refusal, task.cue, incoming)
        return Reply(status="refused", run=refusal, sentence=key_taken(run))

    async def _told_of_stop(self, task: Arrived, stopped: Run | Left, run: RunId, no_room: str) -> Reply | None:
        """Refuse a task whose run was stopped before it came, once: sent again, its key stands for another run.

        That it was told is in the log of the refusal, a run of its own; None if an earlier delivery was.
        """
        incoming, refusal = task.incoming, run_of_refusal(run, task.incoming)
        sentence = stopped_beforehand(why_stopped(stopped), incoming)
        before = await self._read(task.tenant, refusal)
        if not before.n and await self._validator.log.left(task.tenant, refusal) is not None:
            return None
        if before.n and (before.refused is None or before.refused.cue.id != task.cue.id):
            return None
        if not before.n and not no_room:
            told = msgspec.structs.replace(incoming, existing_run=run, problem=sentence)
            await self._shell.look(task.tenant, refusal, task.cue, told)
        return Reply(status="refused", run=run, sentence=sentence)


class ControlIntake:
    """Turns people's and services' words into events. Belongs to the approver; stops belong to everybody."""

    def __init__(self, shell: Shell, headroom: Headroom, *, publisher: Publisher, people: Mapping[str, Person]) -> None:
        self._shell = shell
        self._headroom = headroom
        self._publisher = publisher
        self._people = people

    async def handle(self, delivery: Delivery) -> None:
        """Say what a control message says, acknowledge it, and answer whoever asked for an answer."""
        # The role whose credential the publisher has: a letter under another's name would be refused for ever.
        role = "approver" if "approver" in self._shell.names else self._shell.stations[0].role.name
        try:
            subject = parse_control(delivery.subject)
            if subject.verb == "stop":
                control = stop_said(delivery.payload)
            else:
                control = read_message(delivery.payload or b"{}", Control)
                if subject.verb == "edit":
                    # A key given twice is read differently by different readers, and one of them approved it.
                    decode_strict(delivery.payload)
                require_size(control)
            # The operator alone may say `reply`: it is an answer that a client could not have given.
            verb: Verb = "answer" if subject.verb == "reply" else subject.verb
            signer = self._signer(subject.tenant, subject.run, verb, control)
        except (InputError, ValueError, RecursionError) as error:
            sentence = f"The control message cannot be read: {shown_reason(str(error))}."
            await _give_up(self._publisher, delivery, sentence, role=role, run=UNREADABLE)
            await _refuse(self._publisher, delivery, sentence)
            return
        kind = "client" if subject.by_client else "control"
        # The two streams count apart, and a word is known by its place.
        cue = Cue(kind="control", id=f"{kind}:{delivery.seq}")
        word = Word(
            verb=verb,
            control=control,
            signer=signer,
            signature_required=bool(self._people) and verb in SIGNED_VERBS,
            trusted=subject.verb == "reply" or bool(signer),
        )
        try:
            if (left := await self._shell.stations[0].log.left(subject.tenant, subject.run)) is not None:
                reply: Reply | None = over_and_left(subject.run, left, status="refused")
            elif await self._may_begin_a_run(subject):
                log = self._shell.stations[0].log
                async with self._headroom.place(log, len(delivery.payload)) as space:
                    reply = await self._nothing_to_stop(subject, space) or await self._say(subject, word, cue)
            else:
                reply = await self._say(subject, word, cue)
        except Exception as error:  # noqa: BLE001 - whatever it is, a stop must not be lost
            await _retry(self._publisher, delivery, error, role=role)
            return
        if reply is None:
            await delivery.nak(RETRY_S)
            return
        await delivery.ack()
        await _reply(self._publisher, delivery, reply)

    async def _may_begin_a_run(self, subject: ControlSubject) -> bool:
        """Whether the message is the stop of a run that does not exist, or may be: it would take room of the others."""
        log = self._shell.stations[0].log
        if subject.verb != "stop":
            return False
        return await self._headroom.at_ease(log) or await log.head(subject.tenant, subject.run) is None

    async def _nothing_to_stop(self, subject: ControlSubject, space: Space) -> Reply | None:
        """The refusal of a stop of a run that does not exist, where there is no room for one."""
        no_room = full(space)
        if not no_room or await self._shell.stations[0].log.head(subject.tenant, subject.run) is not None:
            return None
        sentence = f"There is no run '{subject.run}', so there is nothing to stop. {no_room}"
        return Reply(status="refused", run=subject.run, sentence=sentence)

    async def _say(self, subject: ControlSubject, word: Word, cue: Cue) -> Reply | None:
        entry = await self._shell.look(subject.tenant, subject.run, cue, word, fresh=True)
        agent = await self._shell.pinned(entry.run) if word.verb == "edit" else None
        return self._outcome(entry, word, cue, agent)

    def _outcome(self, entry: CachedRun, word: Word, cue: Cue, agent: AgentVersion | None) -> Reply | None:
        """What to answer; None if the word neither became an event nor has a reason why it cannot."""
        run = entry.run
        # What else the same look made the roles say carries its cue, too.
        kind = BECOMES[word.verb]
        said = next(
            (e for e in run.entries if isinstance(e.event, kind) and e.event.cue.id == cue.id and not e.ignored), None
        )
        if said is not None:
            return Reply(status="done", run=run.run, sentence=f"{said.role}.{said.name} is event {said.n}.")
        sentence = objection(run, word, self._shell.config.now(), agent)
        if word.verb == "stop" and run.stopped is not None:
            return Reply(status="done", run=run.run, sentence=sentence)
        return Reply(status="refused", run=run.run, sentence=sentence) if sentence else None

    def _signer(self, tenant: str, run: str, verb: str, control: Control) -> str:
        """The name of the person whose key signed this, or '' if nobody known did."""
        person = self._people.get(control.key_id)
        if person is None or not control.signature:
            return ""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(person.public_key))
            key.verify(bytes.fromhex(control.signature), signed_bytes(tenant, run, verb, control))
        except (InvalidSignature, ValueError):
            return ""
        return person.name


def require_size(control: Control) -> None:
    """Refuse a control message with a field that is too long for the event it is to become.

    Raises:
        InputError: naming the field and its limit.
    """
    if long := oversized(control):
        raise InputError(long)


async def _reply(publisher: Publisher, delivery: Delivery, reply: Reply) -> None:
    inbox = delivery.headers.get(REPLY_HEADER, "")
    if inbox:
        await publisher.reply(inbox, msgspec.json.encode(reply))


async def _refuse(publisher: Publisher, delivery: Delivery, sentence: str) -> None:
    await _reply(publisher, delivery, Reply(status="refused", sentence=sentence))


async def _retry(publisher: Publisher, delivery: Delivery, error: Exception, *, role: Any) -> None:  # noqa: ANN401
    """Our own failure: try again, a bounded number of times unless the broker is what fails."""
    known = isinstance(error, LinestopError) and not isinstance(error, InputError)
    LOG.warning("intake_failed", subject=delivery.subject, attempt=delivery.attempt, error=str(error))
    if known or delivery.attempt < ATTEMPTS_MAX:
        await delivery.nak(RETRY_S)
        return
    await _give_up(publisher, delivery, f"{type(error).__name__}: {error}", role=role)
    reason = shown_reason(str(error))
    await _refuse(publisher, delivery, f"This could not be handled and is kept as a dead letter: {reason}.")


async def _give_up(publisher: Publisher, delivery: Delivery, reason: str, *, role: Any, run: str = "") -> None:  # noqa: ANN401
    """Keep what cannot be handled as a dead letter, then never see it again.

    What was sent wrong goes to one subject for all, of which the stream keeps a bounded number.
    """
    tokens = delivery.subject.split(".")
    tenant = "unknown"
    if not run:
        run = f"seq-{delivery.seq}"
        with contextlib.suppress(InputError, IndexError):
            tenant = check_name("tenant", tokens[1])
    payload = delivery.payload.decode(errors="replace")
    fields = {
        "reason": shown_reason(reason),
        "subject": delivery.subject,
        "attempt": delivery.attempt,
        "seq": delivery.seq,
    }
    letter = canonical({**fields, "payload": payload})
    if len(letter) > MESSAGE_BYTES_MAX:
        # Bytes and quotes grow when they are written as JSON text; a letter too long would come back for ever.
        cut = payload[: MESSAGE_BYTES_MAX // PAYLOAD_GROWS_MAX]
        letter = canonical({**fields, "payload": cut, "bytes": len(delivery.payload)})
    await publisher.dead(role, tenant, run, letter)
    await delivery.term("dead letter")
