"""A random walk of one run through its six roles: any order, any result, any control message, at any time.

Each step is one number, so that a failing walk shrinks. ``Walk`` checks the laws of the roles at each of their
decisions; ``run_to_seal`` then brings the run to its seal with a person who replies to every question.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from tests.builders import EVENT_ROLES, SPARE, TASK, Story, agent, call, performed, reply

from linestop.actors.facts import CheckFindings, ControlMessage, Fact, Worker
from linestop.actors.model_turn.prompt import assemble
from linestop.actors.role_facts import ExecutorFacts
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import (
    EVENT_NAMES,
    Amended,
    AnyEvent,
    Cue,
    EffectStarted,
    Finished,
    ModelFailedEvent,
    ModelStarted,
    Policy,
    Question,
    Refused,
    Sealed,
    Settled,
    Stopped,
    Warned,
)
from linestop.schemas.messages import Control, Task, Verb
from linestop.schemas.model_messages import ModelFailed, ModelReply, Usage
from linestop.schemas.run.call_states import Attempt, Stage
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.fold import Run
from linestop.schemas.run.starting.next_start import NextStart, next_start
from linestop.schemas.run.starting.prompt_size import INSTRUCTION_BYTES, dropped_size, tokens_bound, tokens_left
from linestop.schemas.subjects import ACTORS, RoleName
from linestop.schemas.tool_contracts import ToolError, ToolResult, canonical

CUE = Cue(kind="sweep")
EVENTS_AFTER_STOP = (Finished, ModelFailedEvent, Settled, Sealed, Amended, Refused)
ROOMY = {"wall_s": 100_000, "cost_max_micros": 5_000_000, "tokens_max": 500_000}
SMALL = msgspec.structs.replace(SPARE, window_tokens=4_000)

AGENTS: tuple[tuple[AgentVersion, Task], ...] = (
    (agent(), Task(text=TASK)),
    (agent(limits=ROOMY, fallbacks=(SPARE,)), Task(text=TASK, dry_run=True)),
    (agent(limits={**ROOMY, "ask_from_micros": 60_000}, policy=Policy(ask_on_spend=True)), Task(text=TASK)),
    (agent(limits={**ROOMY, "model_retries_max": 0}, on_model_down="queue"), Task(text=TASK)),
    (agent(limits=ROOMY, policy=Policy(quorum=2, clear=("pay",), ask=("note",))), Task(text=TASK)),
    (agent(limits=ROOMY, model=SMALL), Task(text=TASK)),
    (agent(limits={"events_max": 75, "wall_s": 1_000}), Task(text=TASK)),
    (agent(limits=ROOMY), Task(text=TASK, scope=("look", "pay"), limits={"tool_retries_max": 0})),
    (agent(limits={"cost_max_micros": 60_000, "turns_max": 3}), Task(text=TASK)),
)
TOOLS = ("look", "note", "pay", "wire", "weigh", "rent", "after", "drop", "fly", "ask.person", "wait.until", "look")
ARGS = ('{"q":"order 4711"}', '{"amount":25}', '{"q":"elsewhere"}', "{}", '{"wrong":1}', "no json")
SPECIAL = {"ask.person": '{"question":"which?"}', "wait.until": '{"until":50}'}
LONG = "z" * 8_000
RESULTS = (
    ToolResult(outcome="succeeded", value={"ok": True}),
    ToolResult(outcome="succeeded", value=LONG),
    ToolResult(outcome="unknown"),
    ToolResult(outcome="succeeded", value=LONG),
    ToolResult(outcome="failed", error=ToolError(type="transient", message="again", retry_safe=True)),
    ToolResult(outcome="failed", error=ToolError(type="transient", message="broke")),
    ToolResult(outcome="failed", error=ToolError(type="permanent", message="never")),
    ToolResult(outcome="unknown"),
    ToolResult(outcome="never_started"),
)
FAILURES = (
    ModelFailed("availability", "down"),
    ModelFailed("availability", "down"),
    ModelFailed("rate_limit", "slow", retry_after_s=3),
    ModelFailed("truncated", "cut", usage=Usage(fresh_in=10, out=5)),
    ModelFailed("availability", "reset", possibly_billed=True),
    ModelFailed("refusal", "I will not"),
    ModelFailed("permanent", "bad request"),
)
PAUSES_S = (0.5, 2.0, 6.0, 13.0, 61.0, 131.0, 3_601.0)


def size(run: Run, version: AgentVersion, event: ModelStarted) -> int:
    """Bytes of everything in the next prompt that a provider turns into tokens."""
    prompt = assemble(run, version, purpose=event.purpose, dropped_to=event.dropped_to, limit=event.limit)
    message_bytes = sum(
        len(m.text.encode()) + len(m.call_id) + sum(len(c.id) + len(c.name) + len(c.args.encode()) for c in m.calls)
        for m in prompt.messages
    )
    return len(prompt.system.encode()) + message_bytes + len(canonical(prompt.tools))


def closing_bytes(run: Run, event: ModelStarted) -> int:
    """The bytes of a closing prompt besides the conversation: instructions, and a note for each call not made."""
    if event.purpose != "close" or run.proposal is None:
        return 0
    return INSTRUCTION_BYTES + sum(256 for call in run.proposal.calls if call.stage is not Stage.ENDED)


class Walk(Story):
    """One run that the numbers drive."""

    def __init__(
        self,
        choice: int = 0,
        *,
        check: bool = True,
        version: AgentVersion | None = None,
        log: Sequence[tuple[str, bytes, int]] = (),
    ) -> None:
        chosen, task = AGENTS[choice % len(AGENTS)]
        super().__init__(version or chosen, task=task)
        self.check = check
        self.incarnation = 1
        self.proposed = 0
        for message in log:
            self.messages.append(message)
            self.run.apply(*message)
        if log:
            self.now = self.run.at
        else:
            self.open_run()

    # --- laws ------------------------------------------------------------------------------------------

    def current_facts(self, *more: Fact) -> tuple[Fact, ...]:
        """The facts of a role: its worker's present incarnation, and the findings of the tools' checks."""
        waiting: dict[int, tuple[str, ...]] = {
            c.finished_n: () for c in self.run.calls.values() if c.stage is Stage.CHECK
        }
        return super().current_facts(Worker(id=f"w#{self.incarnation}"), CheckFindings(by_event=waiting), *more)

    def decide(self, role: RoleName, *more: Fact) -> bool:
        """Let one role decide, check every law about it, and append its event."""
        facts, run = self.current_facts(*more), self.run
        before = pickle.dumps(run) if self.check else b""
        event = self.ask(role, facts)
        if self.check:
            assert event == self.ask(role, facts), "the same question, two answers"
            assert pickle.dumps(run) == before, f"{role} changed the run"
            self._check_unknown_events(role, facts)
        if event is None:
            return False
        assert not run.stopped or isinstance(event, EVENTS_AFTER_STOP), f"{role} appends {event} after a stop"
        self._check_start(event)
        roles_ready = self._roles_with_events() if self.check else set[RoleName]()
        self.put(role, event)
        if self.check:
            repeated = self.ask(role, facts)
            assert repeated is None or repeated != event, f"{role} decides the same again: {event}"
            self._check_wakes(role, event, roles_ready)
        return True

    def put(self, role: RoleName, event: AnyEvent) -> None:
        """Append a role's event: the table and the rules accept every such event."""
        entry = self.append(role, event)
        assert not entry.ignored, f"{role} appended {EVENT_NAMES[type(event)]}, which is ignored: {entry.ignored}"

    def _check_unknown_events(self, role: RoleName, facts: tuple[Fact, ...]) -> None:
        self.run.has_unknown_events = True
        assert self.ask(role, facts) is None, f"{role} decides although the run has an unknown event"
        self.run.has_unknown_events = False

    def _check_start(self, event: AnyEvent) -> None:
        start = next_start(self.run, self.now, f"w#{self.incarnation}")
        match event:
            case ModelStarted():
                assert isinstance(start, NextStart)
                assert event.cost_max_micros == start.cost_max_micros <= self.run.available_micros
                context = self.run.context_bytes - dropped_size(self.run, event.dropped_to).bytes
                assert size(self.run, self.version, event) <= context + closing_bytes(self.run, event)
                choice = next(c for c in (self.version.model, *self.version.fallbacks) if c.model == event.model)
                if event.dropped_to == self.run.prompt.dropped_to:
                    assert event.input_tokens_max >= tokens_bound(self.run, choice, context)
                assert event.input_tokens_max + event.output_tokens_max <= tokens_left(self.run)
            case EffectStarted():
                assert isinstance(start, NextStart)
                assert sum(line.cost_max_micros for line in event.calls) == start.cost_max_micros
                assert start.cost_max_micros <= self.run.available_micros
            case _:
                return

    def _roles_with_events(self) -> set[RoleName]:
        facts = self.current_facts()
        decided: dict[RoleName, AnyEvent | None] = {name: self.ask(name, facts) for name in self.roles}
        # A limit or a warning may wait for the next pass; every other event must not.
        return {
            name for name, event in decided.items() if event is not None and not isinstance(event, Stopped | Warned)
        }

    def _check_wakes(self, source: RoleName, event: AnyEvent, ready_before: set[RoleName]) -> None:
        """A role that decides something only since this event must be woken by it, or have appended it."""
        name = "stopped" if isinstance(event, Stopped) else f"{EVENT_ROLES[type(event)]}.{EVENT_NAMES[type(event)]}"
        for role in self._roles_with_events() - ready_before - {source}:
            assert name in self.roles[role].wakes, f"{name} gives {role} something to decide and does not wake it"

    # --- steps -----------------------------------------------------------------------------------------

    def step(self, number: int) -> None:
        """Do one thing that may happen, chosen by a number."""
        kinds: tuple[Callable[[int], object], ...] = (
            self.run_one_role,
            self.run_all_roles,
            self.run_all_roles,
            self.run_all_roles,
            self.finish_model_request,
            self.finish_model_request,
            self.finish_model_request,
            self.finish_tool_call,
            self.finish_tool_call,
            self.finish_tool_call,
            self.send_any_control,
            self.send_any_control,
            self.advance_any_time,
            self.run_one_role,
            self.restart_worker,
            self.run_one_role,
        )
        kinds[number % len(kinds)](number // len(kinds))
        assert not self.check or self.run.available_micros >= 0 or self.run.spent_micros > 0

    def run_one_role(self, number: int) -> object:
        """Let any one role decide."""
        return self.decide(ACTORS[number % len(ACTORS)])

    def run_all_roles(self, number: int) -> None:
        """Let all roles decide, beginning anywhere, until none decides anything."""
        order: list[RoleName] = [*ACTORS[number % len(ACTORS) :], *ACTORS[: number % len(ACTORS)]]
        for _ in range(200):
            if not any(self.decide(name) for name in order):
                return
        raise AssertionError("the roles never stop deciding")

    def finish_model_request(self, number: int) -> None:
        """Report a reply to any model request that has none, late or in time."""
        ours = [a for attempts in self.run.attempts.values() for a in attempts if not a.call and not a.closed_n]
        if not ours:
            return
        attempt = ours[-1 - number % len(ours)] if number % 7 == 0 else ours[-1]
        events = self.planner_events(self._model_reply(number), n=attempt.n)
        roles_ready = self._roles_with_events() if self.check else set[RoleName]()
        for event in events:
            self.put("planner", event)
            if self.check:
                self._check_wakes("planner", event, roles_ready)

    def _model_reply(self, number: int) -> ModelReply | ModelFailed:
        if number % 13 == 5:
            return FAILURES[number // 13 % len(FAILURES)]
        usage = Usage(fresh_in=self.run.context_bytes // 4, out=number % 400)
        if number % 29 == 8:
            return reply(text="the end", usage=usage)
        names = [TOOLS[(number // d) % len(TOOLS)] for d in (1, 12, 144)[: 1 + number % 3]]
        self.proposed += 1
        calls = tuple(
            call(name, SPECIAL.get(name, ARGS[(number // (i + 2)) % len(ARGS)]), id=f"{name}-{self.proposed}-{i}")
            for i, name in enumerate(names)
        )
        return reply(*calls, text="I think so", usage=usage)

    def finish_tool_call(self, number: int) -> None:
        """Report a result of any attempt whose outcome the log does not know for certain."""
        ours = [
            a
            for attempts in self.run.attempts.values()
            for a in attempts
            if a.call and (not a.closed_n or a.outcome == "unknown")
        ]
        if ours:
            self.report(ours[-1 - (number // 7) % len(ours)], RESULTS[number % len(RESULTS)])

    def report(self, attempt: Attempt, result: ToolResult) -> None:
        """Append the executor's event for this result, if it adds anything."""
        if attempt.outcome == "unknown" and result.outcome == "unknown":
            return
        started = self.run.entries[attempt.n - 1].event
        assert isinstance(started, EffectStarted)
        self.runner.results = {attempt.call: result}
        view = tuple(
            w
            for w in self.executor.prepare(self.run, started, ExecutorFacts.of(self.current_facts()))
            if w.call == attempt.call
        )
        roles_ready = self._roles_with_events() if self.check else set[RoleName]()
        for event in performed(self.executor, view, started):
            self.put("executor", event)
            if self.check:
                self._check_wakes("executor", event, roles_ready)

    def send_any_control(self, number: int) -> None:
        """Send any control message about any call, or about the run."""
        verbs: tuple[Verb, ...] = ("approve", "approve", "deny", "answer", "resolve", "edit", "pause", "resume", "stop")
        verb = verbs[number % len(verbs)]
        if verb == "stop" and number // 9 % 4:
            return
        if number % 4 and self._send_decisions():
            return
        names = [c.call for c in self.run.calls.values() if c.stage is Stage.ASKED or number % 5 == 0]
        name = names[number // 9 % len(names)] if names else ""
        action: Any = ("retry", "done", "stop")[number // 11 % 3]
        control = Control(
            by=("ann", "bob")[number // 3 % 2],
            call=name,
            args={"q": f"edit {number % 3}"},
            answer="yes",
            action=action,
            result=7,
            why="so",
        )
        self.decide("approver", ControlMessage(verb=verb, control=control))

    def advance_any_time(self, number: int) -> None:
        """Let seconds, minutes or an hour pass."""
        self.advance_s(PAUSES_S[number % len(PAUSES_S)])

    def restart_worker(self, number: int) -> None:
        """Start the process again under its name."""
        self.incarnation += 1 if number % 3 == 0 else 0

    # --- the end -----------------------------------------------------------------------------------------

    def run_to_seal(self, steps_max: int = 400) -> Run:
        """Bring the run to its seal: a person replies, performers report, deadlines pass."""
        for _ in range(steps_max):
            self.run_all_roles(0)
            if self.run.phase == "sealed":
                return self.run
            if not (self._send_decisions() or self._finish_open_starts()):
                next_deadlines = [d.at for d in deadlines(self.run, self.now) if d.at > self.now]
                assert next_deadlines, f"nothing will ever happen: {self.run.phase}, {self.event_names()[-5:]}"
                self.now = next_deadlines[0]
        raise AssertionError(f"the run never ends: {self.run.phase}, {self.event_names()[-5:]}")

    def _send_decisions(self) -> bool:
        messages: list[tuple[Verb, Control]] = []
        if self.run.paused:
            messages.append(("resume", Control(by="ann")))
        if self.run.spend_asked:
            messages.append(("approve", Control(by="ann")))
        for state in self.run.calls.values():
            if state.stage is Stage.ASKED:
                verb: Verb = "answer" if isinstance(state.asked, Question) else "approve"
                verb = "resolve" if state.asked_about_outcome else verb
                action: Any = ("done", "retry")[state.index % 2]
                control_base = Control(call=state.call, answer="yes", action=action)
                for by in ("ann", "bob"):
                    messages.append((verb, msgspec.structs.replace(control_base, by=by)))  # noqa: PERF401 - one message each
        appended = [self.decide("approver", ControlMessage(verb=verb, control=control)) for verb, control in messages]
        return any(appended)

    def _finish_open_starts(self) -> bool:
        open_now = list(self.run.open_attempts)
        for attempt in open_now:
            if attempt.call:
                self.report(attempt, RESULTS[0])
            else:
                answer = reply(text="summary") if attempt.purpose == "compact" else reply(text="the end")
                for event in self.planner_events(answer, n=attempt.n):
                    self.put("planner", event)
        return bool(open_now)
