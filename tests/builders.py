"""A run in a test: given these events, when a role decides, then it appends this.

``Story`` folds events with a correct chain, as the server would store them. A single role decides by ``when`` and
``then``; ``run_until_idle`` lets all six decide until none decides anything, which leaves the starts open;
``finish_model`` and ``finish_tools`` then report their results, through the performers' own code.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import msgspec

from linestop.actors.approver import Approver
from linestop.actors.budget import Budget, next_hold
from linestop.actors.control_messages import rejection_reason
from linestop.actors.executor import Executor
from linestop.actors.facts import ControlMessage, CurrentAgent, Fact, IncomingTask, PinnedAgent, Reservation, Worker
from linestop.actors.judging.task_acceptance import task_sha256
from linestop.actors.planner import Planner
from linestop.actors.recorder import Recorder
from linestop.actors.role_facts import ExecutorFacts, PlannerFacts
from linestop.actors.role_protocol import AnyRole
from linestop.actors.validator import Validator
from linestop.schemas.agents import AgentVersion
from linestop.schemas.defaults import Limits
from linestop.schemas.events import (
    EVENT_NAMES,
    EVENTS,
    AccountLine,
    AnyEvent,
    EffectStarted,
    Finished,
    ModelChoice,
    ModelStarted,
    Policy,
    decode,
    encode,
)
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.model_messages import ModelFailed, ModelReply, Price, ToolCall, Usage
from linestop.schemas.performer_interfaces import CallWork, LongResult, ModelWork
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subjects import RoleName, RunId, TenantId, run_event
from linestop.schemas.tool_contracts import Contract, ToolResult

E = TypeVar("E")

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TENANT = TenantId("acme")
RUN = RunId("r1")
WORKER = "w#1"
TASK = "refund order 4711: pay 25 to ann@example.com"
STEPS_MAX = 200
EVENT_ROLES: dict[type[AnyEvent], str] = {struct: role for (role, _), struct in EVENTS.items()}
"""The role of each event but ``stopped``, which every role may append."""

ARGS: dict[str, Any] = {
    "type": "object",
    "properties": {"q": {"type": "string"}, "amount": {"type": "number"}},
    "additionalProperties": False,
}
MODEL = ModelChoice(model="playbook/large", price=Price(input=1_000_000, output=5_000_000, table="agent file"))
SPARE = ModelChoice(model="playbook/small", price=Price(input=500_000, output=1_000_000))
OK = ToolResult(outcome="succeeded", value={"ok": True})
UNKNOWN = ToolResult(outcome="unknown")


def contract(name: str, **fields: Any) -> Contract:
    """A tool of that name; ``tier`` is ``read`` unless given."""
    given: dict[str, Any] = {"name": name, "description": name, "parameters": ARGS, "tier": "read", **fields}
    return Contract(**given)


CONTRACTS = (
    contract("look"),
    contract("note", tier="reversible", idempotent=True),
    contract("pay", tier="irreversible"),
    contract("drop", tier="destructive"),
    contract("wire", tier="irreversible", probe=True),
    contract("weigh", checks=True),
    contract("rent", price_micros=40_000),
    contract("after", ordered=True),
    contract("wait.until", kind="wait", repeatable=True, parameters={"type": "object", "properties": {"until": {}}}),
    contract("ask.person", kind="wait", parameters={"type": "object", "properties": {"question": {}, "options": {}}}),
)


def agent(**fields: Any) -> AgentVersion:
    """An agent with the tools of ``CONTRACTS``; ``limits`` may be a dict of values unlike the defaults."""
    limits = fields.pop("limits", {})
    given: dict[str, Any] = {
        "name": "desk",
        "prompt": "Be good.",
        "model": MODEL,
        "tools": CONTRACTS,
        "policy": Policy(),
        **fields,
    }
    return AgentVersion(limits=Limits(**limits), **given)


def call(tool: str, args: str = '{"q":"order 4711"}', *, id: str = "") -> ToolCall:  # noqa: A002 - the field's name
    """A call as a model writes it; its id is its tool's name unless given."""
    return ToolCall(id=id or tool, name=tool, args=args)


def reply(*calls: ToolCall, text: str = "", out: int = 20, **fields: Any) -> ModelReply:
    """A complete answer of a model: calls, or a final text."""
    final: dict[str, Any] = {
        "text": text or ("" if calls else "done"),
        "calls": calls,
        "stop_reason": "calls" if calls else "end",
    }
    usage = Usage(fresh_in=100, out=out)
    given: dict[str, Any] = {"usage": usage, "usage_reported": True, "model": "large", **final, **fields}
    return ModelReply(**given)


def at_once(work: Coroutine[Any, Any, E]) -> E:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as ended:
        result: E = ended.value
        return result
    raise AssertionError("it waits for something")


def all_at_once(items: AsyncIterator[E]) -> list[E]:
    """The items of an asynchronous iterator that never waits."""

    async def collect() -> list[E]:
        return [item async for item in items]

    return at_once(collect())


def performed(executor: Executor, view: tuple[CallWork, ...], started: EffectStarted) -> list[Finished]:
    """The executor's reports; the full text of a result that was cut is dropped."""
    reports = all_at_once(executor.perform(view, started))
    return [each.event if isinstance(each, LongResult) else each for each in reports]


class ScriptedModel:
    """A model that replies with ``answer``."""

    answer: ModelReply | ModelFailed = reply()

    async def request(self, work: ModelWork) -> tuple[ModelReply, float]:
        """Reply."""
        del work
        if isinstance(self.answer, ModelFailed):
            raise self.answer
        return self.answer, 0.5


class ScriptedTools:
    """Tools with the results in ``results``, by call id; a call that is not there has no result."""

    results: Mapping[str, ToolResult]

    def __init__(self) -> None:
        self.results = {}

    async def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Yield the results in the order of the calls."""
        for work in works:
            if work.call in self.results:
                yield work, self.results[work.call], 0.1


class Story:
    """One run, its six roles, and a clock that only the test moves."""

    def __init__(
        self, version: AgentVersion | None = None, *, task: Task | None = None, facts: tuple[Fact, ...] = ()
    ) -> None:
        self.version = version or agent()
        self.task = task or Task(text=TASK, user="ann")
        self.now = NOW
        self.run = Run(TENANT, RUN)
        self.messages: list[tuple[str, bytes, int]] = []
        self.caller, self.runner = ScriptedModel(), ScriptedTools()
        self.planner, self.executor = Planner(self.caller), Executor(self.runner)
        self.roles: dict[RoleName, AnyRole] = {
            "validator": Validator(),
            "approver": Approver(),
            "budget": Budget(),
            "executor": self.executor,
            "planner": self.planner,
            "recorder": Recorder(),
        }
        self.facts: tuple[Fact, ...] = (PinnedAgent(version=self.version), Worker(id=WORKER), *facts)
        self.decided: AnyEvent | None = None
        self.role: RoleName = "validator"

    # --- given -----------------------------------------------------------------------------------------

    def append(self, role: RoleName, event: AnyEvent, *, at: datetime | None = None) -> Entry:
        """Append ``event`` as that role's next and fold it, legal or not."""
        n, seq = self.run.n + 1, self.run.head_seq + 1
        moment = at or max(self.now, self.run.at)
        enveloped = msgspec.structs.replace(event, id=f"e{n}", prev=self.run.head, at=moment)
        subject = run_event(TENANT, RUN, role=role, event=EVENT_NAMES[type(event)], n=n)
        payload = encode(enveloped)
        self.messages.append((subject, payload, seq))
        return self.run.apply(subject, payload, seq)

    def given(self, *events: AnyEvent, by: RoleName | None = None) -> Self:
        """Append legal events; ``by`` names the role of a stop."""
        for event in events:
            role: Any = by or EVENT_ROLES[type(event)]
            entry = self.append(role, event)
            assert not entry.ignored, entry.ignored
        return self

    def open_run(self) -> Self:
        """Submit the task; the validator opens the run."""
        incoming = IncomingTask(agent=self.version.name, sha256=task_sha256(self.task), task=self.task)
        return self.when("validator", incoming, CurrentAgent(version=self.version)).append_decided()

    def advance_s(self, seconds: float) -> Self:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
        return self

    # --- when and then -----------------------------------------------------------------------------------

    def current_facts(self, *more: Fact) -> tuple[Fact, ...]:
        """The facts of a role now: accounts always have room."""
        hold, amount = next_hold(self.run, self.now)
        reservation = (Reservation(hold=hold, amount_micros=amount, accounts=self.accounts()),) if amount else ()
        return (*self.facts, *reservation, *more)

    def accounts(self) -> tuple[AccountLine, ...]:
        """The accounts' reply to a hold: they have room for anything."""
        day, hour = f"{self.now:%Y-%m-%d}", f"{self.now:%Y-%m-%d-%H}"
        named = [("system", hour), (f"tenant-{TENANT}", day), *([(f"user-{TENANT}-1", day)] if self.task.user else [])]
        return tuple(
            AccountLine(account=name, period=period, before_micros=0, limit_micros=10**12) for name, period in named
        )

    def when(self, role: RoleName, *more: Fact) -> Self:
        """Let one role decide."""
        self.role = role
        self.decided = self.ask(role, self.current_facts(*more))
        return self

    def ask(self, role: RoleName, facts: Iterable[Fact]) -> AnyEvent | None:
        """What a role that knows these facts would append now."""
        asked = self.roles[role]
        return asked.decide(self.run, asked.facts_type.of(facts), self.now)

    @property
    def planner_facts(self) -> PlannerFacts:
        """What the planner knows."""
        return PlannerFacts.of(self.facts)

    @property
    def executor_facts(self) -> ExecutorFacts:
        """What the executor knows."""
        return ExecutorFacts.of(self.facts)

    def then(self, kind: type[E], /, **fields: Any) -> E:
        """Expect that the role decided this, with these fields; append it and return it."""
        assert isinstance(self.decided, kind), self.decided
        for name, value in fields.items():
            assert getattr(self.decided, name) == value, (name, getattr(self.decided, name))
        event: E = self.decided
        self.append_decided()
        return event

    def append_decided(self) -> Self:
        """Append the role's decision."""
        assert self.decided is not None
        entry = self.append(self.role, self.decided)
        assert not entry.ignored, entry.ignored
        return self

    def expect_nothing(self) -> None:
        """Expect that the role decided nothing."""
        assert self.decided is None, self.decided

    def send_control(self, verb: Verb, *, by: str = "bob", **fields: Any) -> Self:
        """Let the approver decide about a person's control message."""
        return self.when("approver", ControlMessage(verb=verb, control=Control(by=by, **fields), trusted=True))

    # --- the run continues ---------------------------------------------------------------------------------

    def run_until_idle(self, *more: Fact) -> Self:
        """Let every role decide until none decides anything; starts stay open."""
        for _ in range(STEPS_MAX):
            if not any(self.when(name, *more).decided and self.append_decided() for name in self.roles):
                return self
        raise AssertionError("the roles never stop deciding")

    def finish_model(self, answer: ModelReply | ModelFailed, *, n: int = 0) -> Self:
        """Report the reply to the open model request (or the start in event ``n``), then let the roles continue."""
        return self.given(*self.planner_events(answer, n=n)).run_until_idle()

    def planner_events(self, answer: ModelReply | ModelFailed, *, n: int = 0) -> list[AnyEvent]:
        """The planner's events for this reply to the open model request (or the start in event ``n``)."""
        started = self.run.entries[(n or self.open_model()) - 1].event
        assert isinstance(started, ModelStarted)
        self.caller.answer = answer
        view = self.planner.prepare(self.run, started, self.planner_facts)
        return [self.with_duration(event, started.at) for event in all_at_once(self.planner.perform(view, started))]

    def with_duration(self, event: AnyEvent, since: datetime) -> AnyEvent:
        """A result with the duration by the story's clock, if the clock moved."""
        took_s = (self.now - since).total_seconds()
        return msgspec.structs.replace(event, duration_s=took_s) if took_s else event

    @property
    def performing(self) -> tuple[int, ...]:
        """All open starts, as a process that performs them sees them."""
        return tuple(attempt.n for attempt in self.run.open_attempts)

    def active_s(self, later_s: float = 0.0) -> float:
        """How long the run has worked, as the process that performs its starts counts it."""
        return self.run.active_s(self.now + timedelta(seconds=later_s), self.performing)

    def finish_tools(self, **results: ToolResult) -> Self:
        """Report the results of open calls, by call id, then let the roles continue."""
        self.runner.results = results
        for n in sorted({attempt.n for attempt in self.run.open_attempts if attempt.call in results}):
            started = self.run.entries[n - 1].event
            assert isinstance(started, EffectStarted)
            view = self.executor.prepare(self.run, started, self.executor_facts)
            self.given(*(self.with_duration(event, started.at) for event in performed(self.executor, view, started)))
        return self.run_until_idle()

    def open_model(self) -> int:
        """The event in which the open model request was started."""
        return next(attempt.n for attempt in self.run.open_attempts if not attempt.call)

    # --- reading -------------------------------------------------------------------------------------------

    def event_names(self) -> list[str]:
        """``role.event`` of all legal events so far."""
        return [f"{entry.role}.{entry.name}" for entry in self.run.entries if not entry.ignored]

    def last(self, kind: type[E]) -> E:
        """The last event of that kind."""
        return next(e.event for e in reversed(self.run.entries) if isinstance(e.event, kind) and not e.ignored)

    def stage(self, name: str) -> str:
        """The stage of a call."""
        return self.run.calls[name].stage


def at_work(*calls: ToolCall, version: AgentVersion | None = None, task: Task | None = None) -> Story:
    """A run whose model has proposed these calls (or the final answer), with all roles idle."""
    return Story(version, task=task).open_run().run_until_idle().finish_model(reply(*calls))


def paid(tool: str = "pay") -> Story:
    """A run in which a person agreed to an irreversible call, which is in progress."""
    return at_work(call(tool)).send_control("approve", call=tool).append_decided().run_until_idle()


def at_gate(*calls: ToolCall, version: AgentVersion | None = None) -> Story:
    """A run whose model has proposed these calls, judged, with the approver next."""
    story = Story(version).open_run().run_until_idle()
    return story.given(*story.planner_events(reply(*calls))).when("validator").append_decided()


def refusal(
    story: Story,
    verb: Verb,
    *,
    by: str = "bob",
    signer: str = "",
    must_sign: bool = False,
    **fields: Any,
) -> str:
    """Why this control message of a person is rejected now; empty if it counts."""
    control = msgspec.convert({"by": by, **fields}, Control)
    return rejection_reason(
        story.run,
        ControlMessage(verb=verb, control=control, signer=signer, signature_required=must_sign, trusted=True),
        story.now,
        story.version,
    )


def refolded(story: Story) -> Run:
    """The run folded again from its messages."""
    run = Run(TENANT, RUN)
    for subject, payload, seq in story.messages:
        run.apply(subject, payload, seq)
    return run


def read_event(message: tuple[str, bytes, int]) -> AnyEvent:
    """The event of a stored message."""
    subject, payload, _ = message
    *_, role, name, _ = subject.split(".")
    known: Any = role
    return decode(known, name, payload)
