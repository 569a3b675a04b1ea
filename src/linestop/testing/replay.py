"""Replay a log: give each of its decisions the facts it had, and compare it with the decision of today's roles.

No tool or model is called and nothing is appended. The facts of a role are in the event it appended (a
reservation's accounts, a person's decision, the worker's name, the moment), so they can be handed in again. Results
of performed starts (``proposed``, ``finished``, ``failed``, ``compacted``) are facts, not decisions, and are taken
unchanged; so is ``refused``, because a refused task is not in the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import msgspec

from linestop.actors.approver import Approver
from linestop.actors.budget import ACCOUNTS_UNAVAILABLE, Budget, next_hold, next_hold_min_micros
from linestop.actors.control_messages import event_for_message
from linestop.actors.executor import Executor
from linestop.actors.facts import (
    CheckFindings,
    ControlMessage,
    CurrentAgent,
    DeadWorkers,
    Fact,
    IncomingTask,
    KillSwitches,
    PinnedAgent,
    Reservation,
    Secrets,
    Texts,
    ToolHere,
    ToolsHere,
    Worker,
)
from linestop.actors.planner import Planner
from linestop.actors.recorder import Recorder
from linestop.actors.role_protocol import AnyRole
from linestop.actors.validator import Validator
from linestop.errors import InputError
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import (
    EVENT_NAMES,
    AccountLine,
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
    Queued,
    Refused,
    Resolved,
    Resumed,
    Stopped,
    Widened,
)
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import RunSubject, parse_run_event

LogMessage = tuple[str, bytes, int]
"""Subject, payload and stream sequence of one message."""

ENVELOPE = frozenset(Event.__struct_fields__)
_ROLES: Mapping[str, Callable[[], AnyRole]] = {
    "validator": Validator,
    "approver": Approver,
    "budget": Budget,
    "planner": Planner,
    "executor": Executor,
    "recorder": Recorder,
}
_ROLES_THAT_READ_THE_AGENT = frozenset({"validator", "planner"})
"""Roles that decide by the agent's prompt, schemas and answer format, which are in its version, not in the log."""

SHELL_STOPS = frozenset({"defect", "stuck", "squatted"})
"""Stops that the shell or the sweep appends itself; no role decided them."""

_KILL_SWITCH = re.compile(r"The (?:door|kill switch) '(.+)' was closed")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that today's roles would not take: the event in the log, and today's (None if there is none)."""

    n: int
    role: str
    event: str
    logged: AnyEvent
    decided: AnyEvent | None
    field: str = ""


def replay(
    log: Sequence[LogMessage],
    agent: AgentVersion | None = None,
    *,
    blobs: Mapping[str, bytes] | None = None,
    secrets: Sequence[str] = (),
) -> list[Difference]:
    """Take every decision of ``log`` again with today's roles; return the decisions that differ.

    Args:
        log: The messages of one run, in order. Void and ignored messages are skipped.
        agent: The version the run was opened with. If left out, it is looked up in ``blobs`` under its digest;
            if it is not there, decisions of the validator and planner that depend on it are skipped.
        blobs: Contents by digest of the texts that the log stores as blobs, if a decision reads one.
        secrets: Values that had to be kept out of the answer.
    """
    first = _run_of_log(log)
    if first is None:
        return []
    inputs = _ReplayInputs(agent, blobs or {}, tuple(secrets))
    # Two folds, one of them an event ahead: a role decided on the run before its event.
    before, after = Run(first.tenant, first.run), Run(first.tenant, first.run)
    differences: list[Difference] = []
    for message in log:
        entry = after.apply(*message)
        if isinstance(entry.event, Opened) and not entry.ignored:
            inputs.pin(entry.event)
        if entry.event is not None and not entry.ignored and entry.role in _ROLES:
            difference = _decide_again(entry.event, before, inputs, role=entry.role)
            if difference is not None:
                differences.append(difference)
        before.apply(*message)
    return differences


class _ReplayInputs:
    """The inputs of a replay besides the log."""

    def __init__(self, agent: AgentVersion | None, blobs: Mapping[str, bytes], secrets: tuple[str, ...]) -> None:
        self.agent = agent
        self.blobs = blobs
        self.secrets = secrets

    def pin(self, opened: Opened) -> None:
        """Find the version a run was opened with, unless it was given."""
        stored = self.blobs.get(opened.agent.digest)
        if self.agent is None and stored is not None:
            with contextlib.suppress(msgspec.DecodeError):
                self.agent = msgspec.json.decode(stored, type=AgentVersion)


def _run_of_log(log: Sequence[LogMessage]) -> RunSubject | None:
    """The run of this log, from the first valid subject."""
    for subject, _, _ in log:
        with contextlib.suppress(InputError):
            return parse_run_event(subject)
    return None


def _decide_again(logged: AnyEvent, before: Run, inputs: _ReplayInputs, *, role: str) -> Difference | None:
    """Decide one event again."""
    if not _is_decision(logged):
        return None
    facts = _facts(logged, before, inputs)
    decided = _requested_stop(logged, before, facts)
    if decided is None:
        if inputs.agent is None and role in _ROLES_THAT_READ_THE_AGENT:
            return None
        asked = _ROLES[role]()
        decided = asked.decide(before, asked.facts_type.of(facts), logged.at)
    field = _first_difference(logged, decided)
    if field is None:
        return None
    return Difference(
        n=before.n + 1, role=role, event=EVENT_NAMES[type(logged)], logged=logged, decided=decided, field=field
    )


def _is_decision(event: AnyEvent) -> bool:
    """Whether a role decided this event from the log and the facts that the event stores."""
    match event:
        case Proposed() | ModelFailedEvent() | Compacted() | Finished() | Refused():
            return False
        case Stopped():
            return event.code not in SHELL_STOPS
        case _:
            return True


def _requested_stop(logged: AnyEvent, run: Run, facts: list[Fact]) -> AnyEvent | None:
    """A stop that a control message requested; the first role to handle the message appended it."""
    message = next((fact for fact in facts if isinstance(fact, ControlMessage)), None)
    return event_for_message(run, message, logged.at) if isinstance(logged, Stopped) and message is not None else None


def _facts(event: AnyEvent, run: Run, inputs: _ReplayInputs) -> list[Fact]:  # noqa: C901 - one arm an event
    """The facts with which the role decided ``event``, as far as the event stores them."""
    facts: list[Fact] = [Texts(by_sha256=dict(inputs.blobs)), Secrets(values=inputs.secrets)]
    if inputs.agent is not None:
        facts += [
            PinnedAgent(version=inputs.agent),
            CurrentAgent(version=inputs.agent, digest=_agent_digest(event, inputs)),
        ]
    match event:
        case Opened():
            facts += [
                _incoming(event),
                KillSwitches(revision=event.doors_revision, closed=_closed_tools(event, inputs)),
            ]
        case Held() | Queued():
            facts.append(_reservation(event, run))
        case ModelStarted():
            facts += [Worker(event.worker), DeadWorkers(frozenset(event.dead_workers))]
        case EffectStarted():
            facts += [Worker(event.worker), DeadWorkers(frozenset(event.dead_workers))]
            facts.append(KillSwitches(revision=event.doors_revision))
        case Widened():
            here = {line.grant.name: ToolHere(grant=line.grant) for line in event.calls}
            facts += [Worker(event.worker), ToolsHere(by_name=here)]
        case Checked():
            facts.append(CheckFindings(by_event={event.finished_n: event.findings}))
        case Granted() | Denied() | Edited() | Answered() | Resolved() | Paused() | Resumed() | Stopped():
            if event.cue.kind == "control":
                facts.append(_control_message(event))
            elif isinstance(event, Stopped):
                facts += _stop_facts(event, run)
        case _:
            pass
    return facts


def _closed_tools(event: Opened, inputs: _ReplayInputs) -> frozenset[str]:
    """The kill switches that kept a tool out of the run: tools the agent has and the task allows, but not granted."""
    if inputs.agent is None or not event.doors_revision:
        return frozenset()
    scope, granted = event.task.scope, {tool.name for tool in event.tools}
    tools = [
        tool
        for tool in inputs.agent.tools
        if inputs.agent.has_scopes_for(tool) and (scope is None or tool.name in scope)
    ]
    return frozenset(f"tool:{tool.name}" for tool in tools if tool.name not in granted)


def _agent_digest(event: AnyEvent, inputs: _ReplayInputs) -> str:
    """The digest that a run pinned is that of the stored version: a newer build may encode the version differently."""
    assert inputs.agent is not None
    return event.agent.digest if isinstance(event, Opened) else inputs.agent.digest()


def _stop_facts(event: Stopped, run: Run) -> list[Fact]:
    """The facts that made a role stop the run: a closed kill switch, or an account without funds."""
    if event.code == "policy" and (switch := _KILL_SWITCH.search(event.why)):
        return [KillSwitches(closed=frozenset({switch[1]}))]
    limit = event.limit
    if event.code != "budget" or limit is None or limit.name in Limits.__struct_fields__:
        return []
    hold, _ = next_hold(run, event.at)
    needed = next_hold_min_micros(run, event.at)
    line = AccountLine(
        account=limit.name,
        period=limit.period,
        before_micros=int(limit.value) - needed,
        limit_micros=int(limit.max_value),
        spent_micros=int(limit.spent),
    )
    return [Reservation(hold=hold, amount_micros=needed, accounts=(line,), refused_account=limit.name)]


def _reservation(event: Held | Queued, run: Run) -> Reservation:
    """The accounts' reply to a run that now holds money or waits for it."""
    if isinstance(event, Held):
        return Reservation(hold=event.hold, amount_micros=event.amount_micros, accounts=event.accounts)
    hold, _ = next_hold(run, event.at)
    if event.account is None:
        cause = event.why.partition(ACCOUNTS_UNAVAILABLE)[2]
        return Reservation(hold=hold, amount_micros=event.need_micros, cause=cause)
    line = event.account
    return Reservation(
        hold=hold, amount_micros=event.need_micros, accounts=(line,), refused_account=line.account, may_wait=True
    )


def _incoming(event: Opened) -> IncomingTask:
    task = event.task
    text = task.text if isinstance(task.text, str) else ""
    return IncomingTask(
        agent=event.agent.name,
        sha256=task.sha256,
        trace=task.trace,
        asked_at=task.asked_at,
        task=Task(
            text=text,
            material=task.material,
            user=task.user,
            submitter=task.submitter,
            labels=task.labels,
            thread=task.thread,
            key=task.key,
            priority=task.priority,
            dry_run=task.dry_run,
            scope=task.scope,
            limits={
                name: value
                for name in event.limits.__struct_fields__
                if isinstance(value := getattr(event.limits, name), int | float)
            },
        ),
    )


def _control_message(
    event: Granted | Denied | Edited | Answered | Resolved | Paused | Resumed | Stopped,
) -> ControlMessage:
    """The control message that became ``event``."""
    why = "" if isinstance(event, Answered) else event.why
    verb: Verb
    fields: JsonObject = {}
    match event:
        case Granted():
            verb = "approve"
        case Denied():
            verb = "deny"
        case Edited():
            verb, fields = "edit", {"args": _json(event.args)}
        case Answered():
            verb, fields = "answer", {"answer": event.answer, "event": "" if event.reported_n else event.event}
        case Resolved():
            verb, fields = "resolve", {"action": event.action, "result": _json(event.result) if event.result else None}
        case Paused():
            verb = "pause"
        case Resumed():
            verb = "resume"
        case Stopped():
            verb, fields = "stop", {"mode": event.mode}
        case _:
            assert_never(event)
    if not isinstance(event, Paused | Resumed | Stopped):
        fields |= _signed_fields(event)
    signature, key_id = getattr(event, "signature", ""), getattr(event, "key_id", "")
    control = Control(
        by=event.by, why=why, call=getattr(event, "call", ""), signature=signature, key_id=key_id, **fields
    )
    trusted = isinstance(event, Answered) and not event.untrusted
    return ControlMessage(verb=verb, control=control, signer=event.by if signature else "", trusted=trusted)


def _signed_fields(event: Granted | Denied | Edited | Answered | Resolved) -> JsonObject:
    """The fields that a decision was bound to and that its signature covers."""
    signed_fields = {"contract_digest": event.contract_digest, "nonce": event.nonce, "expires_at": event.expires_at}
    if isinstance(event, Granted | Denied):
        return {**signed_fields, "args_sha256": event.args_sha256, "via": event.via}
    return {**signed_fields, "args_sha256": event.shown_sha256}


def _json(text: str | BlobRef) -> JsonValue:
    return msgspec.json.decode(text) if isinstance(text, str) else None


def _first_difference(logged: AnyEvent, decided: AnyEvent | None) -> str | None:
    """The first field that differs (``event`` if the type differs or there is no event); None if they agree."""
    if decided is None or type(decided) is not type(logged):
        return "event"
    for name in type(logged).__struct_fields__:
        if name not in ENVELOPE and not _agree(getattr(logged, name), getattr(decided, name)):
            return name
    return None


def _agree(logged: Any, decided: Any) -> bool:  # noqa: ANN401 - any field
    """Whether two values agree; a text that the log stores as a blob is compared by its digest."""
    if isinstance(logged, BlobRef) and isinstance(decided, str):
        return hashlib.sha256(decided.encode()).hexdigest() == logged.sha256
    if isinstance(logged, tuple) and isinstance(decided, tuple):
        return _all_agree(logged, decided)
    if isinstance(logged, msgspec.Struct) and type(logged) is type(decided):
        return all(_agree(getattr(logged, f), getattr(decided, f)) for f in type(logged).__struct_fields__)
    return bool(logged == decided)


def _all_agree(logged: Any, decided: Any) -> bool:  # noqa: ANN401 - two tuples
    return len(logged) == len(decided) and all(_agree(a, b) for a, b in zip(logged, decided, strict=True))
