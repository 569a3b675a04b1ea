"""The doors: how tasks and people's words, as any NATS client sends them, reach the roles.

A task is acknowledged when its run is opened (or refused), a control message when it became an event or
cannot become one. Both may be delivered again at any time, so both are recognised: a task by its key or its
place in the stream, a control message by the cue its event carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from linestop.actors.facts import Incoming, Word
from linestop.actors.opening import task_sha256
from linestop.actors.words import BECOMES, objection
from linestop.bus.cache import CachedRun
from linestop.bus.cloud_events import received
from linestop.bus.ports import Delivery, Publisher, Shared
from linestop.bus.shell import Shell
from linestop.bus.stamp import uuid7
from linestop.errors import Conflict, InputError, LinestopError
from linestop.schemas.agents import AgentVersion
from linestop.schemas.arguments import decode_strict
from linestop.schemas.events import Cue
from linestop.schemas.limits import MESSAGE_BYTES_MAX
from linestop.schemas.messages import (
    REPLY_HEADER,
    SIGNED_VERBS,
    Control,
    Reply,
    Task,
    Verb,
    oversized,
    signed_bytes,
    stop_said,
)
from linestop.schemas.run import Run
from linestop.schemas.subjects import RunId, TenantId, check_name, parse_control, parse_task, run_id
from linestop.schemas.tools import canonical

LOG = structlog.get_logger("linestop.intake")
ATTEMPTS_MAX = 5
RETRY_S = 1.0
REASON_CHARS_MAX = 400
PAYLOAD_GROWS_MAX = 8
"""How many bytes one character of a payload takes at most in a letter, and room for the rest of it."""


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may decide: a name and the Ed25519 public key (hex) that proves it."""

    name: str
    public_key: str


def run_of_key(tenant: str, key: str) -> RunId:
    """The run that a key stands for: any client can compute it."""
    return RunId("k-" + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()[:40])


class TaskIntake:
    """Turns tasks into runs. Belongs to the validator."""

    def __init__(self, shell: Shell, ids: Shared, publisher: Publisher) -> None:
        self._shell = shell
        self._ids = ids
        self._publisher = publisher

    async def handle(self, delivery: Delivery) -> None:
        """Open (or refuse) the run of one task, then acknowledge it."""
        try:
            subject = parse_task(delivery.subject)
        except InputError as error:
            await _give_up(self._publisher, delivery, str(error), role="validator")
            await _refuse(self._publisher, delivery, str(error))
            return
        try:
            run, incoming = await self._identify(subject.tenant, subject.agent, delivery)
            cue = Cue(kind="task", id=f"task:{delivery.seq}")
            entry = await self._shell.look(subject.tenant, run, cue, incoming)
            taken = _taken_by_another(entry.run, incoming)
            if taken:
                run = RunId(f"r-{hashlib.sha256(f'{run}:{incoming.sha256}'.encode()).hexdigest()[:40]}")
                incoming = msgspec.structs.replace(incoming, existing_run=entry.run.run)
                entry = await self._shell.look(subject.tenant, run, cue, incoming)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task must not be lost
            await _retry(self._publisher, delivery, error, role="validator")
            return
        if entry.run.opened is None and not entry.run.done:
            await delivery.nak(RETRY_S)
            return
        # Before anything is waited for: without its lock, the entry is read only in the turn its look ended in.
        verdict = _verdict(entry.run)
        await delivery.ack()
        await _reply(self._publisher, delivery, verdict)

    async def _identify(self, tenant: TenantId, agent: str, delivery: Delivery) -> tuple[RunId, Incoming]:
        """Which run this task is, and the task as far as it can be read."""
        bits = int.from_bytes(hashlib.sha256(b"%d\0" % delivery.seq + delivery.payload).digest()[:10], "big")
        fresh = RunId(uuid7(delivery.stored_at, bits & ((1 << 74) - 1)))
        try:
            body, trace = received(delivery.headers, delivery.payload)
            task = msgspec.json.decode(body, type=Task)
            if task.run:
                run_id(task.run)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, InputError) as error:
            why = _shown(str(error))
            problem = f"The task cannot be read: {why}. Send a JSON object with at least 'text'."
            sha256 = hashlib.sha256(delivery.payload).hexdigest()
            return fresh, Incoming(agent=agent, sha256=sha256, problem=problem)
        sha256 = task_sha256(task, agent)
        incoming = Incoming(agent=agent, sha256=sha256, task=task, trace=trace)
        if not task.key:
            return RunId(task.run) if task.run else fresh, incoming
        run = RunId(task.run) if task.run else run_of_key(tenant, task.key)
        existing, theirs = await self._claim(tenant, task.key, run, sha256)
        if theirs == sha256:
            return existing, incoming
        refused = RunId(f"r-{hashlib.sha256(f'{existing}:{sha256}'.encode()).hexdigest()[:40]}")
        return refused, msgspec.structs.replace(incoming, existing_run=existing)

    async def _claim(self, tenant: str, key: str, run: RunId, sha256: str) -> tuple[RunId, str]:
        """Give ``key`` this run unless it has one, for ever; return whose it is: run and task digest."""
        name = f"{tenant}.{hashlib.sha256(key.encode()).hexdigest()}"
        try:
            await self._ids.create(name, msgspec.json.encode([run, sha256]))
        except Conflict:
            found = await self._ids.get(name)
            if found is None:
                raise
            owner, digest = msgspec.json.decode(found.value, type=tuple[str, str])
            return RunId(owner), digest
        return run, sha256


class ControlIntake:
    """Turns people's and services' words into events. Belongs to the approver; stops belong to everybody."""

    def __init__(self, shell: Shell, publisher: Publisher, people: Mapping[str, Person]) -> None:
        self._shell = shell
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
                control = msgspec.json.decode(delivery.payload or b"{}", type=Control)
                if subject.verb == "edit":
                    # A key given twice is read differently by different readers, and one of them approved it.
                    decode_strict(delivery.payload)
                require_size(control)
            # The operator alone may say `reply`: it is an answer that a client could not have given.
            verb: Verb = "answer" if subject.verb == "reply" else subject.verb
            signer = self._signer(subject.tenant, subject.run, verb, control)
        except (InputError, ValueError, RecursionError) as error:
            sentence = f"The control message cannot be read: {_shown(str(error))}."
            await _give_up(self._publisher, delivery, sentence, role=role)
            await _refuse(self._publisher, delivery, sentence)
            return
        cue = Cue(kind="control", id=f"control:{delivery.seq}")
        word = Word(
            verb=verb,
            control=control,
            signer=signer,
            signature_required=bool(self._people) and verb in SIGNED_VERBS,
            trusted=subject.verb == "reply" or bool(signer),
        )
        try:
            entry = await self._shell.look(subject.tenant, subject.run, cue, word, fresh=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, a stop must not be lost
            await _retry(self._publisher, delivery, error, role=role)
            return
        agent = await self._shell.pinned(entry.run) if word.verb == "edit" else None
        reply = self._outcome(entry, word, cue, agent)
        if reply is None:
            await delivery.nak(RETRY_S)
            return
        await delivery.ack()
        await _reply(self._publisher, delivery, reply)

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


def _taken_by_another(run: Run, incoming: Incoming) -> bool:
    """Whether the run was opened for another task than this one."""
    return run.opened is not None and not incoming.existing_run and run.opened.task.sha256 != incoming.sha256


def _verdict(run: Run) -> Reply:
    if run.opened is not None:
        return Reply(status="opened", run=run.run)
    if run.refused is not None:
        return Reply(status="refused", run=run.run, sentence=run.refused.sentence)
    return Reply(status="refused", run=run.run, sentence="The run was stopped before it began.")


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


def _shown(reason: str) -> str:
    """A decoder's or parser's words as the middle of a sentence: they may repeat what was sent, however long."""
    reason = reason.rstrip(".")
    return reason if len(reason) <= REASON_CHARS_MAX else reason[:REASON_CHARS_MAX] + "…"


async def _retry(publisher: Publisher, delivery: Delivery, error: Exception, *, role: Any) -> None:  # noqa: ANN401
    """Our own failure: try again, a bounded number of times unless the broker is what fails."""
    known = isinstance(error, LinestopError) and not isinstance(error, InputError)
    LOG.warning("intake_failed", subject=delivery.subject, attempt=delivery.attempt, error=str(error))
    if known or delivery.attempt < ATTEMPTS_MAX:
        await delivery.nak(RETRY_S)
        return
    await _give_up(publisher, delivery, f"{type(error).__name__}: {error}", role=role)
    await _refuse(publisher, delivery, f"This could not be handled and is kept as a dead letter: {_shown(str(error))}.")


async def _give_up(publisher: Publisher, delivery: Delivery, reason: str, *, role: Any) -> None:  # noqa: ANN401
    """Keep what cannot be handled as a dead letter, then never see it again."""
    tokens = delivery.subject.split(".")
    run = f"seq-{delivery.seq}"
    try:
        tenant = check_name("tenant", tokens[1])
    except (InputError, IndexError):
        # A sender may write any subject; a letter that cannot be addressed would come back for ever.
        tenant = "unknown"
    payload = delivery.payload.decode(errors="replace")
    fields = {"reason": _shown(reason), "subject": delivery.subject, "attempt": delivery.attempt}
    letter = canonical({**fields, "payload": payload})
    if len(letter) > MESSAGE_BYTES_MAX:
        # Bytes and quotes grow when they are written as JSON text; a letter too long would come back for ever.
        cut = payload[: MESSAGE_BYTES_MAX // PAYLOAD_GROWS_MAX]
        letter = canonical({**fields, "payload": cut, "bytes": len(delivery.payload)})
    await publisher.dead(role, tenant, run, letter)
    await delivery.term("dead letter")
