"""Every subject of linestop is built and parsed here, and nowhere else.

::

    tasks.<tenant>.<agent>                     a task from any service
    control.<tenant>.<run>.<verb>              a control message about a run (stored as clients.… from clients)
    runs.<tenant>.<run>.<role>.<event>.<n>     the run log
    forks.<tenant>.<run>.<role>.<event>.<n>    the log of a fork
    outcomes.<tenant>.<agent>.<run>            one message a run, when it is sealed
    live.<subject>                             a stored message, republished by the server
    deltas.<tenant>.<run>.<turn>.<attempt>     model tokens while they arrive
    alerts.<tenant>.<kind>                     a matter that needs a person
    timers.set.<tenant>.<run>.<name>           a schedule: set it, move it, cancel it
    timers.fire.<tenant>.<run>.<name>          published by the server when the schedule is due
    wake.<role>.<tenant>.<run>                 a hint to advance a run
    dead.<role>.<tenant>.<run>                 a message that could not be handled
    blobs.<tenant>.<sha256>.<part>             payloads too long for an event

The broker's permissions are about subjects, so tenant, run, role, event and n are read from the subject
only. Builders and parsers are exact inverses: a subject that parses is the one its parts would build, so
there is one spelling of everything, without wildcards, leading zeros or capitals.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NewType, get_args

import msgspec

from linestop.errors import InputError

TenantId = NewType("TenantId", str)
RunId = NewType("RunId", str)
AgentName = NewType("AgentName", str)

RoleName = Literal["planner", "validator", "approver", "budget", "executor", "recorder", "operator"]
"""Who may write to a run: the six actors, and ``operator`` for people and services with that right."""

ROLES: Final[tuple[RoleName, ...]] = get_args(RoleName)
ACTORS: Final[tuple[RoleName, ...]] = tuple(role for role in ROLES if role != "operator")
"""The roles that are programs and are woken by events."""

Verb = Literal["stop", "pause", "resume", "approve", "deny", "edit", "answer", "reply", "resolve"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)

NAME_PATTERN: Final = "[a-z0-9][a-z0-9-]{0,62}"
"""The form of the name of a tenant, run, agent, event, alert kind or timer."""

NO_AGENT: Final = AgentName("none")
"""The agent of an outcome whose run was stopped before it was ever opened."""

NUMBER_DIGITS_MAX: Final = 10

_NAME = re.compile(NAME_PATTERN)
_SHA256 = re.compile("[0-9a-f]{64}")
_ROLE = "|".join(ROLES)
_N = f"[1-9][0-9]{{0,{NUMBER_DIGITS_MAX - 1}}}"


def _grammar(*tokens: str) -> re.Pattern[str]:
    """Compile one subject: literals as they are, ``name=pattern`` as a group."""
    parts = (f"(?P<{t.split('=', 1)[0]}>{t.split('=', 1)[1]})" if "=" in t else re.escape(t) for t in tokens)
    return re.compile(r"\.".join(parts))


_TENANT, _RUN, _AGENT = f"tenant={NAME_PATTERN}", f"run={NAME_PATTERN}", f"agent={NAME_PATTERN}"
_RUN_EVENT = _grammar("runs", _TENANT, _RUN, f"role={_ROLE}", f"event={NAME_PATTERN}", f"n={_N}")
_TASK = _grammar("tasks", _TENANT, _AGENT)
_CONTROL = _grammar("from=control|clients", _TENANT, _RUN, f"verb={NAME_PATTERN}")
_DELTA = _grammar("deltas", _TENANT, _RUN, f"turn={_N}", f"attempt={_N}")
_TIMER = _grammar("timers", "action=set|fire", _TENANT, _RUN, f"name={NAME_PATTERN}")
_WAKE = _grammar("wake", f"role={_ROLE}", _TENANT, _RUN)
_DEAD = _grammar("dead", f"role={_ROLE}", _TENANT, _RUN)


class RunSubject(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an event's subject: its run, its role, its name, and its number in the run (1, 2, 3 …)."""

    tenant: TenantId
    run: RunId
    role: RoleName
    event: str
    n: int


class TaskSubject(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a task's subject: its tenant and its agent."""

    tenant: TenantId
    agent: AgentName


class ControlSubject(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a control message's subject. ``by_client``: the broker saw the credential ``client``."""

    tenant: TenantId
    run: RunId
    verb: Verb
    by_client: bool = False


class DeltaSubject(msgspec.Struct, frozen=True, kw_only=True):
    """The model attempt that the tokens belong to."""

    tenant: TenantId
    run: RunId
    turn: int
    attempt: int


class TimerSubject(msgspec.Struct, frozen=True, kw_only=True):
    """A timer of a run: its schedule (``set``) or its firing (``fire``)."""

    action: Literal["set", "fire"]
    tenant: TenantId
    run: RunId
    name: str


class RoleRunSubject(msgspec.Struct, frozen=True, kw_only=True):
    """A role and a run: of a hint or of a dead letter."""

    role: RoleName
    tenant: TenantId
    run: RunId


def check_name(kind: str, value: str) -> str:
    """Return ``value`` if it may be a token of a subject; the error names its ``kind``.

    Raises:
        InputError: for anything but 1 to 63 small letters, digits and hyphens, not starting with a hyphen.
    """
    if _NAME.fullmatch(value) is None:
        raise InputError(
            f"{kind} {value[:80]!r} is not a name: use 1 to 63 small letters, digits and hyphens, "
            "and start with a letter or a digit."
        )
    return value


def tenant_id(value: str) -> TenantId:
    """Return ``value`` as a tenant id, or raise ``InputError``."""
    return TenantId(check_name("tenant", value))


def run_id(value: str) -> RunId:
    """Return ``value`` as a run id, or raise ``InputError``."""
    return RunId(check_name("run", value))


def run_event(tenant: TenantId, run: RunId, *, role: RoleName, event: str, n: int) -> str:
    """Build the subject of event ``n`` of a run; ``n`` counts from 1."""
    prefix = f"{check_name('tenant', tenant)}.{check_name('run', run)}.{check_role(role)}"
    return f"runs.{prefix}.{check_name('event', event)}.{_number('n', n)}"


def fork(subject: str) -> str:
    """Build the same subject or filter in the log of forks, or raise ``InputError``."""
    if not subject.startswith("runs."):
        raise InputError(f"subject {subject!r} is not in the run log: it must begin with 'runs.'.")
    return f"forks.{subject[len('runs.') :]}"


def run_filter(tenant: TenantId, run: RunId) -> str:
    """Build the only legal concurrency filter of a run; replicas compare it letter by letter."""
    return f"runs.{check_name('tenant', tenant)}.{check_name('run', run)}.>"


def event_filter(role: RoleName | None, event: str) -> str:
    """Build the filter of one kind of event in any run, from one role or (None) from every role."""
    return f"runs.*.*.{check_role(role) if role else '*'}.{check_name('event', event)}.>"


def task(tenant: TenantId, agent: AgentName) -> str:
    """Build the subject that a task for ``agent`` is sent to."""
    return f"tasks.{check_name('tenant', tenant)}.{check_name('agent', agent)}"


def control(tenant: TenantId, run: RunId, *, verb: Verb) -> str:
    """Build the subject of a control message."""
    return f"control.{check_name('tenant', tenant)}.{check_name('run', run)}.{_verb(verb)}"


def control_filter(verb: Verb) -> str:
    """Build the filter of one verb for any run."""
    return f"control.*.*.{verb}"


def client_subject(subject: str) -> str:
    """Build the subject or filter under which the broker stores a control message of the credential ``client``."""
    return f"clients.{subject.removeprefix('control.')}"


def outcome(tenant: TenantId, agent: AgentName, *, run: RunId) -> str:
    """Build the subject of a run's outcome; ``NO_AGENT`` if the run was never opened."""
    return f"outcomes.{check_name('tenant', tenant)}.{check_name('agent', agent)}.{check_name('run', run)}"


def run_outcome_filter(tenant: TenantId, run: RunId) -> str:
    """Build the filter that finds a run's outcome without knowing its agent."""
    return f"outcomes.{check_name('tenant', tenant)}.*.{check_name('run', run)}"


def live_subject(subject: str) -> str:
    """Build the subject under which the server republishes a stored message."""
    return f"live.{subject}"


def stored_subject(subject: str) -> str:
    """Return the stored subject of a republished one, the inverse of ``live_subject``, or raise ``InputError``."""
    if not subject.startswith("live."):
        raise InputError(f"subject {subject!r} is not a republished one: it must begin with 'live.'.")
    return subject[len("live.") :]


def delta(tenant: TenantId, run: RunId, *, turn: int, attempt: int) -> str:
    """Build the subject of the tokens of one model attempt."""
    prefix = f"{check_name('tenant', tenant)}.{check_name('run', run)}"
    return f"deltas.{prefix}.{_number('turn', turn)}.{_number('attempt', attempt)}"


def alert(tenant: TenantId, kind: str) -> str:
    """Build the subject of an alert."""
    return f"alerts.{check_name('tenant', tenant)}.{check_name('alert', kind)}"


def timer_set(tenant: TenantId, run: RunId, *, name: str) -> str:
    """Build the subject of a schedule; publishing there again moves it."""
    return f"timers.set.{_timer(tenant, run, name)}"


def timer_fire(tenant: TenantId, run: RunId, *, name: str) -> str:
    """Build the subject the server publishes to when the schedule of that name is due."""
    return f"timers.fire.{_timer(tenant, run, name)}"


def wake(tenant: TenantId, run: RunId, *, role: RoleName) -> str:
    """Build the subject of a hint to ``role`` to advance a run."""
    return f"wake.{check_role(role)}.{check_name('tenant', tenant)}.{check_name('run', run)}"


def wake_filter(role: RoleName) -> str:
    """Build the filter of all hints to ``role``."""
    return f"wake.{check_role(role)}.>"


def dead_letter(tenant: TenantId, run: RunId, *, role: RoleName) -> str:
    """Build the subject of a message that ``role`` could not handle."""
    return f"dead.{check_role(role)}.{check_name('tenant', tenant)}.{check_name('run', run)}"


def blob(tenant: TenantId, sha256: str, *, part: int) -> str:
    """Build the subject of one part of a blob; parts count from 0."""
    return f"blobs.{check_name('tenant', tenant)}.{_sha256(sha256)}.{_number('part', part, value_min=0)}"


def parse_run_event(subject: str) -> RunSubject:
    """Parse the subject of an event, or raise ``InputError``."""
    parts = _parse(_RUN_EVENT, subject, "runs.<tenant>.<run>.<role>.<event>.<n>")
    role, event, n = check_role(parts["role"]), parts["event"], int(parts["n"])
    return RunSubject(tenant=TenantId(parts["tenant"]), run=RunId(parts["run"]), role=role, event=event, n=n)


def parse_task(subject: str) -> TaskSubject:
    """Parse the subject of a task, or raise ``InputError``."""
    return msgspec.convert(_parse(_TASK, subject, "tasks.<tenant>.<agent>"), TaskSubject)


def parse_control(subject: str) -> ControlSubject:
    """Parse the subject of a control message, or raise ``InputError``."""
    tokens = _parse(_CONTROL, subject, "control.<tenant>.<run>.<verb>")
    fields = {**tokens, "verb": _verb(tokens["verb"]), "by_client": tokens["from"] == "clients"}
    return msgspec.convert(fields, ControlSubject)


def parse_delta(subject: str) -> DeltaSubject:
    """Parse the subject of a model attempt's tokens, or raise ``InputError``."""
    return msgspec.convert(
        _parse(_DELTA, subject, "deltas.<tenant>.<run>.<turn>.<attempt>"), DeltaSubject, strict=False
    )


def parse_timer(subject: str) -> TimerSubject:
    """Parse the subject of a timer, set or fired, or raise ``InputError``."""
    return msgspec.convert(_parse(_TIMER, subject, "timers.set|fire.<tenant>.<run>.<name>"), TimerSubject)


def parse_wake(subject: str) -> RoleRunSubject:
    """Parse the subject of a hint, or raise ``InputError``."""
    return msgspec.convert(_parse(_WAKE, subject, "wake.<role>.<tenant>.<run>"), RoleRunSubject)


def parse_dead_letter(subject: str) -> RoleRunSubject:
    """Parse the subject of a dead letter, or raise ``InputError``."""
    return msgspec.convert(_parse(_DEAD, subject, "dead.<role>.<tenant>.<run>"), RoleRunSubject)


def _verb(value: str) -> str:
    if value in VERBS:
        return value
    raise InputError(f"{value!r} is not a control verb: use one of {', '.join(VERBS)}.")


def _parse(pattern: re.Pattern[str], subject: str, grammar: str) -> dict[str, str]:
    match = pattern.fullmatch(subject)
    if match is None:
        raise InputError(f"subject {subject!r} does not have the form {grammar}.")
    return match.groupdict()


def _timer(tenant: TenantId, run: RunId, name: str) -> str:
    return f"{check_name('tenant', tenant)}.{check_name('run', run)}.{check_name('timer', name)}"


def check_role(value: str) -> RoleName:
    """Return the role of that name, or raise ``InputError`` listing them all."""
    if value in ROLES:
        return value
    raise InputError(f"{value!r} is not a role: use one of {', '.join(ROLES)}.")


def _number(kind: str, value: int, *, value_min: int = 1) -> int:
    if not value_min <= value < 10**NUMBER_DIGITS_MAX:
        raise InputError(f"{kind} {value} is out of range: it counts from {value_min}, in {NUMBER_DIGITS_MAX} digits.")
    return value


def _sha256(value: str) -> str:
    if _SHA256.fullmatch(value):
        return value
    raise InputError(f"{value!r} is not a SHA-256: use 64 small hexadecimal digits.")
