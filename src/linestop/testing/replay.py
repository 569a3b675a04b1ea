"""Replay a log: hand every decision of it the facts it had, and see whether today's roles decide the same.

Nothing is called and nothing is appended. What a role knew besides the log is in the event it wrote (a
reservation's accounts, a person's words, the worker's name), so it can be handed in again. Results of
performances (``proposed``, ``finished``, ``failed``, ``compacted``) are facts, not decisions, and are taken
as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import msgspec

from linestop.actors.approver import Approver
from linestop.actors.budget import Budget
from linestop.actors.executor import Executor
from linestop.actors.facts import (
    CurrentAgent,
    Doors,
    Facts,
    Findings,
    Incoming,
    PinnedAgent,
    Reservation,
    Texts,
    Word,
    Worker,
)
from linestop.actors.planner import Planner
from linestop.actors.recorder import Recorder
from linestop.actors.role import Role
from linestop.actors.validator import Validator
from linestop.actors.words import word
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import (
    Answered,
    AnyEvent,
    BlobRef,
    Checked,
    Compacted,
    Denied,
    Edited,
    EffectStarted,
    Event,
    Finished,
    Granted,
    Held,
    ModelFailedEvent,
    ModelStarted,
    Opened,
    Paused,
    Proposed,
    Resolved,
    Resumed,
    Stopped,
)
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.run import Run
from linestop.schemas.subjects import parse_run_event

LogMessage = tuple[str, bytes, int]
"""Subject, payload and stream sequence of one message."""

ENVELOPE = frozenset(Event.__struct_fields__)
SHELL_STOPS = frozenset({"defect", "stuck", "squatted"})
"""Stops that the shell or the sweep says on its own; no role decided them."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that today's roles would not take: what the log has, and what they say (None: nothing)."""

    n: int
    role: str
    event: str
    logged: AnyEvent
    decided: AnyEvent | None
    field: str = ""


def replay(
    log: Sequence[LogMessage], agent: AgentVersion, *, blobs: Mapping[str, bytes] | None = None
) -> list[Difference]:
    """Decide every decision of ``log`` again with today's roles; return those that come out differently.

    Args:
        log: The run's messages in order.
        agent: The version the run was opened with.
        blobs: Contents by digest of what the log keeps as blobs, where a decision reads one.
    """
    roles: dict[str, Role] = {
        role.name: role for role in (Validator(), Approver(), Budget(), Planner(), Executor(), Recorder())
    }
    first = parse_run_event(log[0][0])
    run, found = Run(first.tenant, first.run), list[Difference]()
    for number, (subject, payload, seq) in enumerate(log):
        parts = parse_run_event(subject)
        ahead = Run(first.tenant, first.run)
        for message in log[: number + 1]:
            ahead.apply(*message)
        logged = ahead.entries[-1].event
        role = roles.get(parts.role)
        if logged is not None and not ahead.entries[-1].ignored and role is not None and _is_decision(logged):
            facts = _facts(logged, run, agent, blobs or {})
            decided = _said_stop(logged, run, facts) or role.decide(run, logged.cue, facts, logged.at)
            if (field := _differs(logged, decided)) is not None:
                difference = Difference(
                    n=parts.n, role=parts.role, event=parts.event, logged=logged, decided=decided, field=field
                )
                found.append(difference)
        run.apply(subject, payload, seq)
    return found


def _is_decision(event: AnyEvent) -> bool:
    """Whether a role decided this event from the log and the facts that the event itself keeps."""
    match event:
        case Proposed() | ModelFailedEvent() | Compacted() | Finished():
            return False
        case Stopped():
            return event.code not in SHELL_STOPS
        case _:
            return True


def _said_stop(logged: AnyEvent, run: Run, facts: Facts) -> AnyEvent | None:
    """A stop that somebody asked for: whichever role's shell saw it first said it."""
    said = facts.get(Word)
    return word(run, said, logged.at) if isinstance(logged, Stopped) and said is not None else None


def _facts(event: AnyEvent, run: Run, agent: AgentVersion, blobs: Mapping[str, bytes]) -> Facts:
    """What the role knew when it decided ``event``, as far as the event tells."""
    facts: list[Any] = [
        PinnedAgent(version=agent),
        CurrentAgent(version=agent, digest=agent.digest()),
        Texts(by_sha256=dict(blobs)),
    ]
    match event:
        case Opened():
            facts += [_incoming(event), Doors(revision=event.doors_revision)]
        case Held():
            facts.append(Reservation(hold=event.hold, amount_micros=event.amount_micros, accounts=event.accounts))
        case ModelStarted():
            facts.append(Worker(event.worker))
        case EffectStarted():
            facts += [Worker(event.worker), Doors(revision=event.doors_revision)]
        case Checked():
            facts.append(Findings(by_event={event.finished_n: event.findings}))
        case Granted() | Denied() | Edited() | Answered() | Resolved() | Paused() | Resumed() | Stopped():
            if event.cue.kind == "control":
                facts.append(_word(event))
        case _:
            del run
    return Facts(*facts)


def _incoming(event: Opened) -> Incoming:
    task = event.task
    text = task.text if isinstance(task.text, str) else ""
    return Incoming(
        agent=event.agent.name, sha256=task.sha256,
        task=Task(
            text=text, user=task.user, submitter=task.submitter, labels=task.labels, thread=task.thread,
            key=task.key, priority=task.priority, dry_run=task.dry_run, scope=task.scope,
            limits={
                name: value
                for name in event.limits.__struct_fields__
                if isinstance(value := getattr(event.limits, name), int | float)
            },
        ),
    )  # fmt: skip


def _word(event: Granted | Denied | Edited | Answered | Resolved | Paused | Resumed | Stopped) -> Word:
    """The control message that became ``event``."""
    why = "" if isinstance(event, Answered) else event.why
    verb: Verb
    more: dict[str, Any] = {}
    match event:
        case Granted():
            verb = "approve"
        case Denied():
            verb = "deny"
        case Edited():
            verb, more = "edit", {"args": _json(event.args)}
        case Answered():
            verb, more = "answer", {"answer": event.answer}
        case Resolved():
            verb, more = "resolve", {"action": event.action, "result": _json(event.result) if event.result else None}
        case Paused():
            verb = "pause"
        case Resumed():
            verb = "resume"
        case Stopped():
            verb, more = "stop", {"mode": event.mode}
        case _:
            assert_never(event)
    if not isinstance(event, Paused | Resumed | Stopped):
        more |= _as_signed(event)
    signature, key_id = getattr(event, "signature", ""), getattr(event, "key_id", "")
    control = Control(by=event.by, why=why, call=getattr(event, "call", ""), signature=signature, key_id=key_id, **more)
    return Word(verb=verb, control=control, signer=event.by if signature else "")


def _as_signed(event: Granted | Denied | Edited | Answered | Resolved) -> dict[str, Any]:
    """What a decision was bound to, as its signature covers it."""
    bound = {"contract_digest": event.contract_digest, "nonce": event.nonce, "expires_at": event.expires_at}
    if isinstance(event, Granted | Denied):
        return {**bound, "args_sha256": event.args_sha256, "via": event.via}
    return {**bound, "args_sha256": event.shown_sha256}


def _json(text: str | BlobRef) -> Any:  # noqa: ANN401 - any JSON value
    return msgspec.json.decode(text) if isinstance(text, str) else None


def _differs(logged: AnyEvent, decided: AnyEvent | None) -> str | None:
    """The first field that differs (``event`` if it is another event, or none at all); None if they agree."""
    if decided is None or type(decided) is not type(logged):
        return "event"
    for name in type(logged).__struct_fields__:
        if name not in ENVELOPE and not _same(getattr(logged, name), getattr(decided, name)):
            return name
    return None


def _same(logged: Any, decided: Any) -> bool:  # noqa: ANN401 - any field
    """Whether two values agree; a text that the log keeps as a blob agrees by its digest."""
    if isinstance(logged, BlobRef) and isinstance(decided, str):
        return hashlib.sha256(decided.encode()).hexdigest() == logged.sha256
    if isinstance(logged, tuple) and isinstance(decided, tuple):
        return _all_same(logged, decided)
    if isinstance(logged, msgspec.Struct) and type(logged) is type(decided):
        return all(_same(getattr(logged, f), getattr(decided, f)) for f in type(logged).__struct_fields__)
    return bool(logged == decided)


def _all_same(logged: Any, decided: Any) -> bool:  # noqa: ANN401 - two tuples
    return len(logged) == len(decided) and all(_same(a, b) for a, b in zip(logged, decided, strict=True))
