"""Whether a task becomes a run, and what the run may use."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import msgspec

from linestop.actors.facts import IncomingTask, KillSwitches, Space, kill_switch_message
from linestop.actors.model_turn.prompt import base_size, material_bytes
from linestop.actors.role_facts import ValidatorFacts
from linestop.schemas.agents import AgentVersion
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK
from linestop.schemas.defaults import LABEL_CHARS_MAX, LABELS_MAX, MATERIAL_BYTES_MAX, Limits, excessive_limit
from linestop.schemas.events import AgentRef, AskedFor, Opened, Refused, TaskFacts, ToolGrant
from linestop.schemas.messages import Task, lower_limits, oversized_field
from linestop.schemas.run.approval_policy import READS_NEED_NO_APPROVER
from linestop.schemas.run.call_outcome import STRUCTURED
from linestop.schemas.run.fold import Run
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.text.visible_text import is_blank
from linestop.schemas.tool_contracts import Contract, canonical
from linestop.schemas.trace_context import parse_traceparent

DEFAULTS = Limits()
REFUSED_LABELS_BYTES_MAX = 4_096
"""The most bytes that a refused task's labels take in its refusal: one client may send many tasks that are refused."""


def open_or_refuse(run: Run, incoming: IncomingTask, facts: ValidatorFacts, now: datetime) -> Opened | Refused:
    """Open a run for an incoming task or refuse it.

    Everything that the run may use is fixed here, before any untrusted data is read.
    """
    current, kill_switches = facts.current_agent, facts.kill_switches
    agent = current.version

    def refuse(code: str, sentence: str) -> Refused:
        return Refused(
            code=code,
            sentence=f"{sentence}{free_key_note(incoming)}",
            task_sha256=incoming.sha256,
            existing_run=incoming.existing_run,
            agent=incoming.agent,
            asked=asked_for(incoming, now),
        )

    if incoming.task is None:
        return refuse("malformed", incoming.problem or "The task cannot be read.")
    if incoming.existing_run:
        stop = incoming.problem
        return refuse("stopped", stop) if stop else refuse("key_taken", key_taken_message(incoming.existing_run))
    if agent is None:
        hint = "`linestop agents` lists them, and `linestop deploy` deploys one that is in files."
        return refuse("no_agent", f"There is no agent '{incoming.agent}'; {hint}")
    user = (f"user:{incoming.task.user}",) if incoming.task.user else ()
    if closed := kill_switches.first_closed(f"tenant:{run.tenant}", f"agent:{agent.name}", *user):
        return refuse("door_closed", f"No new runs are accepted. {kill_switch_message(closed)}")
    if space_reason := no_space_message(facts.space):
        return refuse("no_space", space_reason)
    limits = lower_limits(agent.limits, incoming.task.limits)
    if isinstance(limits, str):
        return refuse("bad_limits", limits)
    if reason := excessive_limit(limits):
        return refuse("bad_limits", f"The agent '{agent.name}' cannot be run: {reason}.")
    if sentence := _invalid_task(incoming.task, agent, limits):
        return refuse("bad_task", sentence)
    # The digest of the store is pinned: a newer build may encode the same version differently.
    digest = current.digest or agent.digest()
    return _opened_event(
        _redact_material(incoming, facts), agent, limits, digest=digest, kill_switches=kill_switches, now=now
    )


def asked_for(incoming: IncomingTask, now: datetime) -> AskedFor:
    """Return who sent a refused task, as far as it can be read and keeps to the lengths allowed in a run."""
    asked_at = min(incoming.asked_at, now) if incoming.asked_at else None
    task = incoming.task or incoming.readable
    if task is None:
        return AskedFor(asked_at=asked_at)
    user, submitter, key = (
        text if len(text) <= LABEL_CHARS_MAX else "" for text in (task.user, task.submitter, task.key)
    )
    labels = task.labels if len(canonical(task.labels)) <= REFUSED_LABELS_BYTES_MAX else {}
    return AskedFor(user=user, submitter=submitter, labels=labels, key=key, asked_at=asked_at)


def _redact_material(incoming: IncomingTask, facts: ValidatorFacts) -> IncomingTask:
    """Return the task with its material redacted: material is outside data, as a tool's result is."""
    task = incoming.task
    if task is None or not task.material:
        return incoming
    clean = msgspec.structs.replace(task, material=Redactor(facts.secrets.values).text(task.material))
    return msgspec.structs.replace(incoming, task=clean)


def no_space_message(space: Space) -> str:
    """Return why no run may begin for lack of space, in one sentence; empty if there is space."""
    if space.used < SPACE_FOR_NEW_WORK:
        return ""
    return (
        f"The stream {space.stream} is {space.used:.0%} full: no run can begin until it has room (`linestop doctor`)."
    )


def free_key_note(incoming: IncomingTask) -> str:
    """Return a refusal's sentence about the task's key: only the run of another task keeps it, no refusal takes it."""
    if incoming.task is None or not incoming.task.key or incoming.existing_run:
        return ""
    return f" The key '{incoming.task.key[:80]}' was not taken and can be used again."


def key_taken_message(run: str) -> str:
    """Return why a task cannot have a key or a run id, in one sentence."""
    return f"The key or run id already belongs to run '{run}', which has another task."


def stopped_before_start_message(why: str, incoming: IncomingTask) -> str:
    """Return why a run that was stopped before its task came does not begin, and whether the task's key is free."""
    why = why.strip()
    sentence = f"The run was stopped before it began{': ' if why else ''}{why}"
    return f"{sentence}{'' if sentence.endswith(('.', '!', '?')) else '.'}{_released_key_note(incoming)}"


def _released_key_note(incoming: IncomingTask) -> str:
    """Return the sentence about the key of a run that was stopped before its task came."""
    if incoming.task is None or not incoming.task.key:
        return ""
    return (
        f" The key '{incoming.task.key[:80]}' is free: if you send the task again, a new run with another id is opened."
    )


def _invalid_task(task: Task, agent: AgentVersion, limits: Limits) -> str:
    """Return what is wrong with the task itself, in one sentence; empty if nothing is."""
    if is_blank(task.text):
        return "The task has no text; say in 'text' what is to be done."
    if len(task.text) > limits.input_chars_max:
        return f"The task's text has {len(task.text)} characters; at most {limits.input_chars_max} are allowed."
    if (size := len(task.material.encode(errors="replace"))) > MATERIAL_BYTES_MAX:
        return f"The task's material has {size} bytes; at most {MATERIAL_BYTES_MAX} are allowed: shorten it."
    if len(task.labels) > LABELS_MAX or any(len(k) + len(v) > LABEL_CHARS_MAX for k, v in task.labels.items()):
        return f"A task has at most {LABELS_MAX} labels of at most {LABEL_CHARS_MAX} characters."
    if sentence := oversized_field(task):
        return sentence
    tool_names = {contract.name for contract in agent.tools}
    if missing := next((name for name in task.scope or () if name not in tool_names), ""):
        return f"The task's scope names the tool '{missing[:80]}', which agent '{agent.name}' does not have."
    if len(task.scope or ()) > len(agent.tools):
        return f"The task's scope names {len(task.scope or ())} tools, more than the agent has; name each once."
    return ""


def _opened_event(  # noqa: PLR0913 - everything that is fixed when a run opens
    incoming: IncomingTask,
    agent: AgentVersion,
    limits: Limits,
    *,
    digest: str,
    kill_switches: KillSwitches,
    now: datetime,
) -> Opened:
    task = incoming.task
    assert task is not None
    tools = [c for c in agent.tools if agent.has_scopes_for(c) and (task.scope is None or c.name in task.scope)]
    tools = [c for c in tools if not kill_switches.first_closed(f"tool:{c.name}")]
    base = base_size(agent, tuple(c.name for c in tools))
    return Opened(
        task=TaskFacts(
            text=task.text,
            sha256=incoming.sha256,
            user=task.user,
            submitter=task.submitter,
            labels=task.labels,
            thread=task.thread,
            key=task.key,
            priority=task.priority,
            dry_run=task.dry_run,
            scope=task.scope,
            text_bytes=len(task.text.encode()) + material_bytes(task.material),
            material=task.material,
            trace=incoming.trace if parse_traceparent(incoming.trace) else "",
            asked_at=min(incoming.asked_at, now) if incoming.asked_at else None,
        ),
        agent=AgentRef(
            name=agent.name,
            version=agent.version,
            digest=digest,
            prompt_digest=_sha256(agent.prompt),
        ),
        model=agent.model,
        fallbacks=agent.fallbacks,
        on_model_down=agent.on_model_down,
        tools=tuple(clamp_grant(tool_grant(contract), limits) for contract in tools),
        limits=limits,
        policy=agent.policy,
        policy_digest=_sha256(agent.policy),
        output_schema_digest=_sha256(agent.output_schema) if agent.output_schema else "",
        base_bytes=base.bytes,
        base_tokens=base.tokens,
        deadline_at=now + timedelta(seconds=limits.run_max_s),
        doors_revision=kill_switches.revision,
        result_form=STRUCTURED,
        gate_form=READS_NEED_NO_APPROVER,
    )


def tool_grant(contract: Contract) -> ToolGrant:
    """Return the part of a contract that decisions need, with the digests that pin the rest."""
    return ToolGrant(
        name=contract.name,
        contract_digest=contract.digest(),
        schema_digest=_sha256(contract.parameters),
        tier=contract.tier,
        kind=contract.kind,
        timeout_s=contract.timeout_s,
        retries_max=contract.retries_max,
        repeatable=contract.repeatable,
        idempotent=contract.idempotent,
        probe=contract.probe,
        checks=contract.checks,
        ordered=contract.ordered,
        calls_max=contract.calls_max,
        price_micros=contract.price_micros,
        owner=contract.owner,
        egress=contract.egress,
        trusted=contract.trusted,
        raises_before_effect=contract.raises_before_effect,
        scopes=contract.scopes,
    )


def clamp_grant(granted: ToolGrant, limits: Limits) -> ToolGrant:
    """Return a grant within the run's limits: a limit below its default bounds every tool, whatever its contract says.

    A limit at its default applies only to a contract that names no value of its own: SQL may take longer.
    """
    lowered_timeout = limits.tool_timeout_s < DEFAULTS.tool_timeout_s
    lowered_retries = limits.tool_retries_max < DEFAULTS.tool_retries_max
    return msgspec.structs.replace(
        granted,
        timeout_s=min(granted.timeout_s, limits.tool_timeout_s) if lowered_timeout else granted.timeout_s,
        retries_max=min(granted.retries_max, limits.tool_retries_max) if lowered_retries else granted.retries_max,
    )


def _sha256(value: object) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else canonical(value)).hexdigest()


def task_sha256(task: Task, agent: str = "") -> str:
    """Return the digest of a task for ``agent``, without its key and run id: equal tasks have equal digests."""
    return _sha256([agent, msgspec.structs.replace(task, key="", run="")])
