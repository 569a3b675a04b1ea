"""Every event of a run, one frozen struct each, grouped by the role that says it.

The subject (``runs.<tenant>.<run>.<role>.<event>.<n>``) carries tenant, run, role, event name and number;
the payload never repeats them, so nothing in a payload can claim another speaker. The pair (role, event) is
the contract, the class name is not: ``EVENTS`` maps one to the other.

Money is in integer micro-dollars (``_micros``), durations in seconds, digests SHA-256 hex. Unknown fields
are ignored on reading; a field whose meaning changes gets a new event name instead. ``Text`` may be a
reference to a blob; nothing that a decision reads may be.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from linestop.schemas.limits import Limits
from linestop.schemas.model import FailureClass, Price, Usage
from linestop.schemas.subjects import RoleName
from linestop.schemas.tools import Egress, Tier, ToolError, ToolKind

NEVER = datetime(1970, 1, 1, tzinfo=UTC)

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A moment with its zone: one without cannot be compared with others, so it is not read at all."""


class BlobRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text or value stored once under its digest, because it is over ``INLINE_BYTES_MAX``."""

    sha256: str
    bytes: int
    type: str = "application/json"


Text = str | BlobRef


class Cue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What made a role look at the run: an event's number, or the id of a task, control message or timer."""

    kind: Literal["event", "task", "control", "timer", "sweep"]
    id: str = ""
    n: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The envelope of all events. The shell fills it in when it appends; decisions leave it alone.

    ``prev`` is the SHA-256 of (subject, NUL, payload) of the event before; ``at`` is never before that
    event's; ``build`` is package version and configuration digest; ``trace`` a W3C traceparent.
    """

    id: str = ""
    prev: str = ""
    at: Moment = NEVER
    cue: Cue = Cue(kind="sweep")
    build: str = ""
    trace: str = ""


# --- validator -------------------------------------------------------------------------------------------


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The task as it was accepted."""

    text: Text
    sha256: str
    user: str = ""
    submitter: str = ""
    labels: dict[str, str] = {}
    thread: str = ""
    key: str = ""
    priority: int = 0
    dry_run: bool = False
    scope: tuple[str, ...] | None = None
    text_bytes: int = 0


class AgentRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which version of which agent runs: everything that was configured hangs on ``digest``."""

    name: str
    version: str = ""
    digest: str = ""
    prompt_digest: str = ""


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model and what it may cost, pinned when the run opens. ``window_tokens`` is its context window."""

    model: str
    price: Price
    window_tokens: int = 128_000
    output_tokens_max: int = 4_096


class ToolGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool this run may use, with the part of its contract that decisions need. The rest is in the agent."""

    name: str
    contract_digest: str
    schema_digest: str
    tier: Tier
    kind: ToolKind = "async"
    timeout_s: float = 5.0
    retries_max: int = 2
    repeatable: bool = False
    idempotent: bool = False
    probe: bool = False
    checks: bool = False
    ordered: bool = False
    calls_max: int = 0
    price_micros: int = 0
    owner: str = ""
    egress: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()

    @property
    def safe_to_repeat(self) -> bool:
        """Whether an interrupted attempt may be made again without asking anybody."""
        return self.tier == "read" or self.idempotent


class Parent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The call of another run that started this one; ``depth`` 1 for a first child."""

    run: str
    call: str
    depth: int


class ForkPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a fork left its origin."""

    run: str
    n: int
    hash: str


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator lets pass without a person, and what always needs one; stored in full, defaults too.

    ``clear``: names of irreversible tools (``mail.*`` for a family) that need nobody. ``ask``: tools that
    need a person whatever their tier. ``ask_on_spend``: ask before the run spends more than
    ``limits.ask_from_micros``. ``provenance``: a value of an irreversible call that comes neither from the
    task nor from a trusted source needs a person even where ``clear`` names the tool.
    """

    clear: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    ask_on_spend: bool = False
    provenance: bool = True
    deciders: tuple[str, ...] = ()
    quorum: int = 1


class Opened(Event, frozen=True, kw_only=True):
    """A run begins, with everything it may do fixed. ``base_bytes`` bounds prompt and tools, in bytes."""

    task: TaskFacts
    agent: AgentRef
    model: ModelChoice
    fallbacks: tuple[ModelChoice, ...] = ()
    on_model_down: Literal["queue", "fall_back", "fail", "hand_off"] = "fall_back"
    tools: tuple[ToolGrant, ...] = ()
    limits: Limits = Limits()
    policy: Policy
    policy_digest: str = ""
    output_schema_digest: str = ""
    base_bytes: int = 0
    deadline_at: Moment
    doors_revision: int = 0
    parent: Parent | None = None
    forked_from: ForkPoint | None = None
    flags: tuple[str, ...] = ()


class Refused(Event, frozen=True, kw_only=True):
    """A task that is not run. ``code`` is stable, ``sentence`` says what to change."""

    code: str
    sentence: str
    task_sha256: str = ""
    existing_run: str = ""
    agent: str = ""


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the value at ``path`` of the arguments was seen first; ``n`` 0 for nowhere we know of."""

    path: str
    n: int = 0
    field: str = ""


class JudgedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict on one proposed call. ``errors`` go back to the model; ``recorded_n`` answers from record."""

    call: str
    tool: str = ""
    verdict: Literal["pass", "reject", "loop", "recorded"]
    errors: tuple[str, ...] = ()
    args: Text = ""
    args_sha256: str = ""
    raw_args_sha256: str = ""
    effect_key: str = ""
    tier: Tier = "destructive"
    provenance: tuple[Provenance, ...] = ()
    flags: tuple[str, ...] = ()
    recorded_n: int = 0
    wait_until: Moment | None = None


class Judged(Event, frozen=True, kw_only=True):
    """Every call of proposal ``proposal_n`` judged at once."""

    proposal_n: int
    calls: tuple[JudgedCall, ...]
    rejections_in_a_row: int = 0


class Checked(Event, frozen=True, kw_only=True):
    """The result in event ``finished_n`` was looked at before anything builds on it."""

    finished_n: int
    verdict: Literal["pass", "reject"]
    findings: tuple[str, ...] = ()


class Accepted(Event, frozen=True, kw_only=True):
    """The final answer stands, as given here (secrets taken out)."""

    proposal_n: int
    answer: Text
    derived_from_untrusted: bool = False


class Returned(Event, frozen=True, kw_only=True):
    """The final answer is not good enough; the model is told why and asked again."""

    proposal_n: int
    errors: tuple[str, ...]
    returned_in_a_row: int


# --- approver --------------------------------------------------------------------------------------------


class ClearedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that needs nobody. ``rule`` names why."""

    call: str
    rule: str
    args_sha256: str
    standing: str = ""


class Cleared(Event, frozen=True, kw_only=True):
    """These calls may start."""

    calls: tuple[ClearedCall, ...]


class AskedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person is asked to agree to: exactly this tool, contract and arguments, until ``expires_at``."""

    call: str
    tool: str
    args_sha256: str
    contract_digest: str
    rule: str
    tier: Tier
    expires_at: Moment
    reason: str = ""
    provenance: tuple[Provenance, ...] = ()
    cost_max_micros: int = 0
    deciders: tuple[str, ...] = ()
    quorum: int = 1
    escalate: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question of the model to a person (``ask.person``) or a wait for an event (``wait.for_event``)."""

    call: str
    text: str
    options: tuple[str, ...] = ()
    expires_at: Moment


class SpendQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """May the run go on spending?"""

    so_far_micros: int
    limit_micros: int
    expires_at: Moment


class Asked(Event, frozen=True, kw_only=True):
    """The run waits for a person: about calls, a question, or its spending."""

    calls: tuple[AskedCall, ...] = ()
    question: Question | None = None
    spend: SpendQuestion | None = None


class Granted(Event, frozen=True, kw_only=True):
    """A person agreed to one call (or, with an empty ``call``, to the spending asked about)."""

    call: str
    by: str
    args_sha256: str = ""
    contract_digest: str = ""
    why: str = ""
    via: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Denied(Event, frozen=True, kw_only=True):
    """A person said no, or nobody answered in time (``by`` is ``timer``)."""

    call: str
    by: str
    args_sha256: str = ""
    contract_digest: str = ""
    why: str = ""
    via: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Edited(Event, frozen=True, kw_only=True):
    """A person changed the arguments; the call is judged again with ``args`` (canonical JSON)."""

    call: str
    args: Text
    args_sha256: str
    by: str
    why: str = ""
    signature: str = ""
    key_id: str = ""


class Answered(Event, frozen=True, kw_only=True):
    """A person answered the question of ``call``; ``answer`` is any JSON value as text."""

    call: str
    answer: Text
    by: str
    signature: str = ""
    key_id: str = ""


class Resolved(Event, frozen=True, kw_only=True):
    """A person said what became of a call whose fate was unknown."""

    call: str
    action: Literal["retry", "done", "stop"]
    by: str
    result: Text = ""
    why: str = ""
    signature: str = ""
    key_id: str = ""


class Paused(Event, frozen=True, kw_only=True):
    """Nothing may start until ``resumed``; deadlines go on."""

    by: str
    why: str = ""


class Resumed(Event, frozen=True, kw_only=True):
    """Work may start again."""

    by: str
    why: str = ""


# --- budget ----------------------------------------------------------------------------------------------


class AccountLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account had given out before this hold, and its limit, in micro-dollars of ``period``."""

    account: str
    period: str
    before_micros: int
    limit_micros: int


class Held(Event, frozen=True, kw_only=True):
    """The run may spend ``amount_micros`` more. ``release_after`` is when the sweep may take it back."""

    hold: str
    amount_micros: int
    accounts: tuple[AccountLine, ...] = ()
    price_table: str = ""
    release_after: Moment


class SettledHold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one hold: ``spent`` stays charged, ``released`` went back to the accounts."""

    hold: str
    spent_micros: int
    released_micros: int


class CostLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one event cost. ``source`` is ``reserved`` where the real usage is not known."""

    n: int
    cost_micros: int
    usage: Usage | None = None
    source: Literal["reported", "reserved"] = "reported"


class Settled(Event, frozen=True, kw_only=True):
    """The run's holds are closed."""

    holds: tuple[SettledHold, ...]
    by_event: tuple[CostLine, ...] = ()


class Warned(Event, frozen=True, kw_only=True):
    """A limit is nearly reached (``value`` of ``max_value``)."""

    limit: str
    value: int
    max_value: int


# --- planner ---------------------------------------------------------------------------------------------


class ModelStarted(Event, frozen=True, kw_only=True):
    """A model call begins: its reservation and its deadlines. ``attempt`` counts within the turn."""

    turn: int
    attempt: int
    model: str
    worker: str
    start_by: Moment
    done_by: Moment
    purpose: Literal["turn", "compact", "judge"] = "turn"
    prompt_sha256: str = ""
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    cost_max_micros: int = 0
    fallback_of: str = ""
    params: dict[str, Any] = {}


class ProposedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call the model wants, with its arguments exactly as it wrote them."""

    call: str
    tool: str
    args: Text


class Proposed(Event, frozen=True, kw_only=True):
    """A complete answer of the model: calls to make, or (``final``) the answer."""

    turn: int
    attempt: int
    text: Text = ""
    calls: tuple[ProposedCall, ...] = ()
    final: bool = False
    reason: str = ""
    confidence: float | None = None
    alternatives: tuple[str, ...] = ()
    stop_reason: str = ""
    blocks: Text = ""
    blocks_of: str = ""
    usage: Usage = Usage()
    usage_source: Literal["reported", "reserved"] = "reported"
    cost_micros: int = 0
    model: str = ""
    request_id: str = ""
    duration_s: float = 0.0


class ModelFailedEvent(Event, frozen=True, kw_only=True):
    """An attempt without a usable answer. ``charged_micros`` is what the run pays for it."""

    turn: int
    attempt: int
    kind: FailureClass
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    possibly_billed: bool = False
    charged_micros: int = 0


class ExactValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value that a summary must not lose, and the event it comes from."""

    value: str
    n: int


class Compacted(Event, frozen=True, kw_only=True):
    """The conversation up to event ``covers_to`` is replaced by ``summary`` in later prompts."""

    turn: int
    attempt: int
    covers_from: int
    covers_to: int
    summary: str
    values: tuple[ExactValue, ...] = ()
    usage: Usage = Usage()
    cost_micros: int = 0


# --- executor --------------------------------------------------------------------------------------------


class StartedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a start. ``gate_n`` is the event that let it pass."""

    call: str
    attempt: int
    effect_key: str
    args_sha256: str
    gate_n: int
    start_by: Moment
    done_by: Moment
    cost_max_micros: int = 0
    backend: str = ""
    image_digest: str = ""


class EffectStarted(Event, frozen=True, kw_only=True):
    """Effects begin. ``purpose`` ``probe`` only asks whether an earlier attempt took effect."""

    calls: tuple[StartedCall, ...]
    worker: str
    purpose: Literal["effect", "probe"] = "effect"
    doors_revision: int = 0


class Finished(Event, frozen=True, kw_only=True):
    """What became of one attempt. ``result`` is JSON text, capped at ``limits.result_bytes_max``.

    ``result_bytes`` is the size before the cap, ``result_ref`` where the whole is kept. ``late``: it came
    after somebody had already spoken for this attempt.
    """

    call: str
    attempt: int
    outcome: Literal["succeeded", "failed", "unknown", "never_started"]
    result: str = ""
    result_ref: BlobRef | None = None
    result_sha256: str = ""
    result_bytes: int = 0
    error: ToolError | None = None
    egress: tuple[Egress, ...] = ()
    cost_micros: int = 0
    duration_s: float = 0.0
    late: bool = False
    untrusted: bool = True


# --- everybody, recorder ---------------------------------------------------------------------------------


class OpenStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A start without a result when the run was stopped: a line of the receipt."""

    n: int
    what: str
    attempt: int


class LimitHit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which limit, how much of it, and its maximum."""

    name: str
    value: int
    max_value: int


StopCode = Literal[
    "person", "budget", "limit", "loop", "policy", "deadline", "defect", "stuck", "squatted",
    "model_down", "refusal", "expired", "unknown_effect", "handed_off", "denied",
]  # fmt: skip


class Stopped(Event, frozen=True, kw_only=True):
    """The run is over: nothing of it may start any more. Said by anyone; who is in the subject and ``by``."""

    by: str
    why: str
    code: StopCode = "person"
    mode: Literal["fence", "kill", "drain"] = "fence"
    scope: str = "run"
    wide_stop: str = ""
    limit: LimitHit | None = None
    open: tuple[OpenStart, ...] = ()


SealStatus = Literal["completed", "failed", "refused", "stopped", "over_budget", "denied", "expired", "handed_off"]


class Fate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one call: ``done``, ``failed``, ``unknown``, ``never_started``, ``not_started``…"""

    call: str
    tool: str
    fate: str
    attempts: int = 0
    effect_key: str = ""


class Totals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the run took."""

    turns: int = 0
    calls: int = 0
    tokens: int = 0
    cost_micros: int = 0
    wait_s: float = 0.0
    events: int = 0


class Sealed(Event, frozen=True, kw_only=True):
    """The run is complete and its receipt final; only late facts and ``amended`` may follow."""

    status: SealStatus
    cause: str = ""
    why: str = ""
    answer: Text | None = None
    partial: str = ""
    receipt: tuple[Fate, ...] = ()
    totals: Totals = Totals()
    head_sha256: str = ""
    artefacts: tuple[str, ...] = ()


class Amended(Event, frozen=True, kw_only=True):
    """Facts came after the seal; this is the receipt with them."""

    facts: tuple[int, ...]
    receipt: tuple[Fate, ...] = ()
    totals: Totals = Totals()


AnyEvent = (
    Opened | Refused | Judged | Checked | Accepted | Returned
    | Cleared | Asked | Granted | Denied | Edited | Answered | Resolved | Paused | Resumed
    | Held | Settled | Warned
    | ModelStarted | Proposed | ModelFailedEvent | Compacted
    | EffectStarted | Finished
    | Stopped | Sealed | Amended
)  # fmt: skip
"""All events, for exhaustive ``match``."""

EVENTS: dict[tuple[str, str], type[AnyEvent]] = {
    ("validator", "opened"): Opened,
    ("validator", "refused"): Refused,
    ("validator", "judged"): Judged,
    ("validator", "checked"): Checked,
    ("validator", "accepted"): Accepted,
    ("validator", "returned"): Returned,
    ("approver", "cleared"): Cleared,
    ("approver", "asked"): Asked,
    ("approver", "granted"): Granted,
    ("approver", "denied"): Denied,
    ("approver", "edited"): Edited,
    ("approver", "answered"): Answered,
    ("approver", "resolved"): Resolved,
    ("approver", "paused"): Paused,
    ("approver", "resumed"): Resumed,
    ("budget", "held"): Held,
    ("budget", "settled"): Settled,
    ("budget", "warned"): Warned,
    ("planner", "started"): ModelStarted,
    ("planner", "proposed"): Proposed,
    ("planner", "failed"): ModelFailedEvent,
    ("planner", "compacted"): Compacted,
    ("executor", "started"): EffectStarted,
    ("executor", "finished"): Finished,
    ("recorder", "sealed"): Sealed,
    ("recorder", "amended"): Amended,
}
"""(role, event name) → struct. ``stopped`` is everybody's, so it is not listed for each role."""

NAMES: dict[type[AnyEvent], str] = {struct: name for (_, name), struct in EVENTS.items()} | {Stopped: "stopped"}
SPEAKERS: dict[type[AnyEvent], str] = {struct: role for (role, _), struct in EVENTS.items()}
_DECODERS: dict[tuple[str, str], msgspec.json.Decoder[Any]] = {
    key: msgspec.json.Decoder(struct) for key, struct in EVENTS.items()
}
_STOPPED = msgspec.json.Decoder(Stopped)
_ENCODER = msgspec.json.Encoder()


class Envelope(msgspec.Struct, frozen=True):
    """The two fields on which chain validity rests, read without looking at the rest of the payload."""

    id: str
    prev: str


_ENVELOPE = msgspec.json.Decoder(Envelope)


def known(role: RoleName, event: str) -> bool:
    """Whether this build knows what (role, event) means."""
    return event == "stopped" or (role, event) in EVENTS


def encode(event: AnyEvent) -> bytes:
    """The payload as it is stored and hashed."""
    return _ENCODER.encode(event)


def decode(role: RoleName, event: str, payload: bytes) -> AnyEvent:
    """Read an event's payload.

    Raises:
        msgspec.DecodeError: not JSON, or fields of the wrong type (``msgspec.ValidationError``).
        RecursionError: nested beyond what the parser bears.
        KeyError: a tag this build does not know.
    """
    decoder = _STOPPED if event == "stopped" else _DECODERS[role, event]
    decoded: AnyEvent = decoder.decode(payload)
    return decoded


def decode_envelope(payload: bytes) -> Envelope:
    """Read only ``id`` and ``prev``; raises as ``decode`` does."""
    return _ENVELOPE.decode(payload)
