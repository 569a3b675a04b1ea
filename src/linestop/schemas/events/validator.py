"""Events of the validator, and the contents of a run's opening."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from linestop.schemas.defaults import Limits
from linestop.schemas.events.envelope import Event, Moment, Text
from linestop.schemas.events.stopped import LimitHit
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import Price, ToolMode
from linestop.schemas.tool_contracts import TIERS, Contract, Tier, ToolKind


class TaskFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The task as it was accepted. ``trace`` is the sender's W3C ``traceparent``: the run continues that trace.

    ``material`` is redacted, as results are. ``text_bytes`` bounds the size of text and material in a prompt.
    ``asked_at`` is when the broker stored the task, by the broker's clock; None in older logs.
    """

    text: Text
    sha256: str
    material: str = ""
    user: str = ""
    submitter: str = ""
    labels: dict[str, str] = {}
    thread: str = ""
    key: str = ""
    priority: int = 0
    dry_run: bool = False
    scope: tuple[str, ...] | None = None
    text_bytes: int = 0
    trace: str = ""
    asked_at: Moment | None = None


class AgentRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent and its version: ``digest`` determines its whole configuration."""

    name: str
    version: str = ""
    digest: str = ""
    prompt_digest: str = ""


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model with its whole configuration, pinned when the run opens, and never used for another model.

    ``base_url`` is its server, empty for the provider's own; ``api_key_env`` names the variable that holds its key,
    ``tool_mode`` says how it is offered tools, ``window_tokens`` is its context window.
    """

    model: str
    price: Price
    window_tokens: int = 128_000
    output_tokens_max: int = 4_096
    base_url: str = ""
    api_key_env: str = ""
    tool_mode: ToolMode = "auto"
    params: JsonObject = {}

    def is_requested_by(self, start: RequestsModel) -> bool:
        """Whether ``start`` requests this model: the same name at the same server."""
        return (self.model, self.base_url) == (start.model, start.base_url)


class RequestsModel(Protocol):
    """A start of a model request, as an event or as a record of one."""

    @property
    def model(self) -> str:
        """The name of the model."""
        ...

    @property
    def base_url(self) -> str:
        """The server of the model, empty for the provider's own."""
        ...


class ToolGrant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool this run may use, with the part of its contract that decisions need. The rest is in the agent.

    ``scopes`` are those that the tool needed when the run was opened; None in logs from before they were pinned.
    """

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
    raises_before_effect: bool = False
    scopes: tuple[str, ...] | None = None

    @property
    def safe_to_repeat(self) -> bool:
        """Whether an interrupted attempt may be repeated without asking a person."""
        return self.tier == "read" or self.idempotent

    def widened_by(self, now: Contract | ToolGrant) -> tuple[str, ...]:
        """Return the points in which ``now``, the present contract, allows more than was agreed to; empty if none.

        A withdrawn promise counts too: a run repeats a call because of it.
        """
        if (now.contract_digest if isinstance(now, ToolGrant) else now.digest()) == self.contract_digest:
            return ()
        differences: list[str] = []
        if TIERS.index(now.tier) > TIERS.index(self.tier):
            differences.append(f"its tier is '{now.tier}', no longer '{self.tier}'")
        for field, pinned in (("scopes", self.scopes or ()), ("egress", self.egress)):
            if added := [name for name in getattr(now, field) or () if name not in pinned]:
                differences.append(f"its {field} have '{added[0]}' in addition")
        if self.safe_to_repeat and not now.safe_to_repeat:
            differences.append("it is no longer safe to repeat")
        return tuple(differences)

    def applied_to(self, now: Contract) -> Contract:
        """Return the contract under which a run performs the tool ``now``: the pinned one, minus withdrawn promises."""
        return msgspec.structs.replace(
            now,
            tier=self.tier,
            timeout_s=self.timeout_s,
            price_micros=self.price_micros,
            idempotent=self.idempotent and now.idempotent,
            raises_before_effect=self.raises_before_effect and now.raises_before_effect,
        )


class Parent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The call of another run that started this one; ``depth`` 1 for a first child."""

    run: str
    call: str
    depth: int


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The calls that pass without a person, and those that always need one; stored in full, defaults too.

    ``clear``: names of irreversible tools (``mail.*`` for a family) that need no person. ``ask``: tools that
    need a person whatever their tier. ``ask_on_spend``: ask before the run spends more than
    ``limits.ask_from_micros``. ``provenance``: a value of an irreversible call that comes neither from the
    task nor from a trusted source needs a person even if ``clear`` names the tool.
    """

    clear: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    ask_on_spend: bool = False
    provenance: bool = True
    deciders: tuple[str, ...] = ()
    quorum: int = 1


class Opened(Event, frozen=True, kw_only=True):
    """A run begins; all its rights are fixed here.

    ``base_bytes`` bounds prompt and tools in bytes, ``base_tokens`` estimates their tokens; 0 in older logs.

    ``result_form`` is the form in which results reach its model: 1 structured, 0 (in older logs) bare text.

    ``gate_form`` says which calls need an event of the approver before they start: 0 (in older logs) all, 1 all but
    those of tier ``read`` that nothing holds back.
    """

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
    base_tokens: int = 0
    deadline_at: Moment
    doors_revision: int = 0
    parent: Parent | None = None
    result_form: int = 0
    gate_form: int = 0


class AskedFor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sender's data of a refused task, as far as it could be read; ``asked_at`` is when the broker stored it.

    Fields that are longer than a run allows are left out, since a refusal must stay small.
    """

    user: str = ""
    submitter: str = ""
    labels: dict[str, str] = {}
    key: str = ""
    asked_at: Moment | None = None


class Refused(Event, frozen=True, kw_only=True):
    """A task that is refused. ``code`` is stable, ``sentence`` says what to change.

    ``asked`` is None in older logs.
    """

    code: str
    sentence: str
    task_sha256: str = ""
    existing_run: str = ""
    agent: str = ""
    asked: AskedFor | None = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The event in which the value at ``path`` of the arguments occurred; ``n`` 0 if its origin is unknown.

    ``field`` is ``trusted``, ``untrusted`` (a result), ``material`` (of the task), or empty. ``value`` is the lead in
    question if it is a part of a content argument.
    """

    path: str
    n: int = 0
    field: str = ""
    value: str = ""


class JudgedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict on one proposed call. ``errors`` go back to the model; ``recorded_n`` is a result that is reused."""

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
    limit: LimitHit | None = None
    """The limit for which the call was rejected, if any."""

    wait_until: Moment | None = None


class Judged(Event, frozen=True, kw_only=True):
    """The verdicts on all calls of proposal ``proposal_n``.

    ``rule`` is the version of the rule by which values were traced: a log is checked by the version that it names.
    """

    proposal_n: int
    calls: tuple[JudgedCall, ...]
    rejections_in_a_row: int = 0
    rule: int = 1


class Checked(Event, frozen=True, kw_only=True):
    """The result in event ``finished_n`` was checked before anything uses it."""

    finished_n: int
    verdict: Literal["pass", "reject"]
    findings: tuple[str, ...] = ()


class Accepted(Event, frozen=True, kw_only=True):
    """The final answer is accepted, as given here (redacted)."""

    proposal_n: int
    answer: Text
    derived_from_untrusted: bool = False


class Returned(Event, frozen=True, kw_only=True):
    """The final answer is sent back; the model receives the reasons and is requested again."""

    proposal_n: int
    errors: tuple[str, ...]
    returned_in_a_row: int
