"""Asking the roles of a process for the next event of a run.

A decision for which all facts are at hand needs no waiting, so it can be made while the previous event is still on its
way to the broker (``speculation``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import anyio
import structlog

from linestop.actors.control_messages import has_stop_message, is_recorded, requested_stop
from linestop.actors.facts import ControlMessage, Fact, IncomingTask, Performing
from linestop.actors.judging.calls import judging_bytes
from linestop.actors.role_facts import RoleFacts
from linestop.actors.role_protocol import AnyRole
from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Append
from linestop.errors import LinestopError
from linestop.off_loop import OFF_LOOP_BYTES, off_loop
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.role_binding import RoleBinding
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.workers.capacity import Capacity
from linestop.schemas.events import EVENT_NAMES, AnyEvent, Cue, EffectStarted, ModelStarted, Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.subjects import RoleName, run_event

LOG = structlog.get_logger("linestop.shell")
NO_FACTS = RoleFacts()
NO_DECISIONS: Mapping[RoleName, AnyEvent | None] = {}


@dataclass(slots=True)
class Draft:
    """The next event of a role. ``at`` is the moment of the decision; ``append`` is set if encoding needed no waiting.

    ``dead_letter_reason`` is the reason to publish as a dead letter once the event is appended.
    """

    binding: RoleBinding
    event: AnyEvent
    facts: RoleFacts = NO_FACTS
    append: Append | None = None
    at: datetime | None = None
    dead_letter_reason: str = ""

    @property
    def is_start(self) -> bool:
        """Whether it is the start of a model request or of tool calls."""
        return isinstance(self.event, ModelStarted | EffectStarted)


@dataclass(slots=True)
class SpeculativeDraft:
    """The decision made while the previous event was on its way, and when (seconds of the loop's clock)."""

    draft: Draft | None
    decided_at_s: float


@dataclass(slots=True)
class Pass:
    """One pass over a run, under its lock: its cue, the facts that came with it, and the roles still to be asked."""

    entry: CachedRun
    cue: Cue
    extra_facts: tuple[Fact, ...] = ()
    roles_to_ask: set[RoleName] = field(default_factory=set[RoleName])
    speculative: SpeculativeDraft | None = None

    @property
    def brings_stop(self) -> bool:
        """Whether the pass brings a stop: a stop is appended again at once after every conflict."""
        return has_stop_message(self.extra_facts)


class Decider:
    """The roles of one process, asked in their order.

    ``may_start`` False means that nothing may be started; ``capacity`` tells whether there is a place for a start. If
    ``may_decide`` returns False, the process's clock is wrong: then only a stop is appended, which needs no clock.
    """

    def __init__(
        self, bindings: Sequence[RoleBinding], facts: FactSource, capacity: Capacity, may_decide: Callable[[], bool]
    ) -> None:
        self._capacity = capacity
        self.role_names: frozenset[RoleName] = frozenset(binding.role.name for binding in bindings)
        self.may_start = True
        self._bindings = bindings
        self._facts = facts
        self._may_decide = may_decide
        self._roles_woken: dict[str, frozenset[RoleName]] = {}

    def woken_by(self, role: RoleName, event: AnyEvent) -> frozenset[RoleName]:
        """Return the roles of this process that are asked after ``event`` of ``role``."""
        name = EVENT_NAMES[type(event)]
        wake = name if isinstance(event, Stopped) else f"{role}.{name}"
        roles = self._roles_woken.get(wake)
        if roles is None:
            names: set[RoleName] = {binding.role.name for binding in self._bindings if wake in binding.role.wakes}
            roles = self._roles_woken[wake] = frozenset(names)
        return roles

    async def next_draft(self, run_pass: Pass, now: datetime) -> Draft | None:
        """Return the next draft, fetching the facts that it needs; None if no role decides anything."""
        fetched: dict[RoleName, RoleFacts] = {}
        decided: dict[RoleName, AnyEvent | None] = {}
        run = run_pass.entry.run
        while isinstance(draft_or_binding := self.next_without_fetching(run_pass, now, fetched, decided), RoleBinding):
            role = draft_or_binding.role
            try:
                if role.name != "validator":
                    fetched[role.name] = await self._facts.gather(run, role, now, run_pass.extra_facts)
                elif not await self._decide_validator(run_pass, role, now, fetched, decided):
                    return None
            except LinestopError:
                raise
            except Exception as error:  # noqa: BLE001 - logged where it becomes a stop
                if (stop := self._stop_after_failure(draft_or_binding, run_pass.entry.run, error, now)) is not None:
                    return stop
                run_pass.roles_to_ask.discard(draft_or_binding.role.name)
        return draft_or_binding

    async def _decide_validator(
        self,
        run_pass: Pass,
        role: AnyRole,
        now: datetime,
        fetched: dict[RoleName, RoleFacts],
        decided: dict[RoleName, AnyEvent | None],
    ) -> bool:
        """Let the validator decide, in a thread if it must read much outside data; False if a stop came meanwhile.

        Deciding changes nothing, so it can be abandoned at any time; and a change of the run needs its lock, which this
        pass holds. An abandoned decision may still be reading the run, so the run is loaded again.
        """
        entry, run = run_pass.entry, run_pass.entry.run
        try:
            with anyio.CancelScope() as entry.deciding:
                facts = fetched[role.name] = await self._facts.gather(run, role, now, run_pass.extra_facts)
                if (size := _decision_bytes(role, run, run_pass.extra_facts)) > OFF_LOOP_BYTES:
                    work = partial(role.decide, run, facts, now)
                    decided[role.name] = await off_loop(size, work, give_up=True)
                return True
        finally:
            entry.deciding = None
        entry.reset()
        return False

    def next_without_fetching(
        self,
        run_pass: Pass,
        now: datetime,
        fetched: Mapping[RoleName, RoleFacts],
        decided: Mapping[RoleName, AnyEvent | None] = NO_DECISIONS,
    ) -> Draft | RoleBinding | None:
        """Return the next draft, or the binding whose facts must be fetched or whose decision takes long.

        Roles that decide nothing are removed from ``run_pass.roles_to_ask``.
        """
        run, extra_facts = run_pass.entry.run, run_pass.extra_facts
        if extra_facts:
            if (stop := requested_stop(run, extra_facts, now)) is not None:
                return Draft(self._bindings[0], stop, at=now)
            if is_recorded(run, run_pass.cue):
                run_pass.extra_facts = extra_facts = tuple(
                    fact for fact in extra_facts if not isinstance(fact, ControlMessage)
                )
        if run.fold_failed_too_often or not self._may_decide():
            return None
        if run.fold_failures and not run.done:
            return self._stop_after_fold_failure(self._bindings[0], run, now)
        for binding in self._bindings:
            if binding.role.name not in run_pass.roles_to_ask:
                continue
            name = binding.role.name
            draft_or_binding: Draft | RoleBinding | None
            if name in decided:
                draft_or_binding = self._draft(binding, run, decided[name], fetched[name], now)
            else:
                draft_or_binding = self._decide(binding, run_pass, fetched.get(name), now=now)
            if isinstance(draft_or_binding, RoleBinding) or (
                draft_or_binding is not None and self._may_append(run, draft_or_binding)
            ):
                return draft_or_binding
            run_pass.roles_to_ask.discard(binding.role.name)
        return None

    def _may_append(self, run: Run, draft: Draft) -> bool:
        return not draft.is_start or (self.may_start and self._capacity.reserve(run, draft.event))

    def speculate(self, run_pass: Pass, now: datetime, encoder: EventEncoder) -> SpeculativeDraft | None:
        """Decide the next event as if the one on its way were stored, and encode it for sending.

        None if that needs waiting (for a fact, a blob) or fails: then the roles decide again when the event is stored.
        """
        if run_pass.extra_facts:
            return None
        try:
            draft = self.next_without_fetching(run_pass, now, {})
            if isinstance(draft, RoleBinding):
                return None
            if draft is not None:
                if not encoder.is_short(draft.event):
                    return None
                role = draft.binding.role.name
                draft.append = encoder.encode_short(run_pass.entry.run, role, draft.event, run_pass.cue, at=draft.at)
        except Exception:
            LOG.exception("speculation_failed", run=run_pass.entry.run.run)
            return None
        return SpeculativeDraft(draft, asyncio.get_running_loop().time())

    def _decide(
        self, binding: RoleBinding, run_pass: Pass, facts: RoleFacts | None, *, now: datetime
    ) -> Draft | RoleBinding | None:
        """Return this role's draft, or the binding itself if its facts must be fetched first."""
        run, role = run_pass.entry.run, binding.role
        if run.has_unknown_events and not run.done:
            return None
        try:
            facts = facts or self._facts.facts_at_hand(run, role, now, run_pass.extra_facts)
            if facts is None or _decision_bytes(role, run, run_pass.extra_facts) > OFF_LOOP_BYTES:
                return binding
            if run.open_attempts and Performing in role.facts_type.kinds():
                facts = facts.with_facts(run_pass.entry.performing_fact)
            event = role.decide(run, facts, now)
        except Exception as error:  # noqa: BLE001 - logged where it becomes a stop
            return self._stop_after_failure(binding, run, error, now)
        return self._draft(binding, run, event, facts, now)

    @staticmethod
    def _draft(binding: RoleBinding, run: Run, event: AnyEvent | None, facts: RoleFacts, now: datetime) -> Draft | None:
        name = binding.role.name
        return None if event is None else Draft(binding, stop_if_subject_taken(run, name, event), facts, at=now)

    @staticmethod
    def _stop_after_failure(binding: RoleBinding, run: Run, error: Exception, now: datetime) -> Draft | None:
        """Return the stop of a run on which a role failed; None for a run that is over, which is left as it is.

        A run that does not exist yet cannot be stopped: then the error is raised to the caller.
        """
        LOG.error("decide_failed", role=binding.role.name, run=run.run, exc_info=error)
        if run.done:
            return None
        if run.opened is None and not run.fold_failures:
            raise error
        return _defect_stop(binding, run, now, kind=type(error).__name__, text=str(error))

    @staticmethod
    def _stop_after_fold_failure(binding: RoleBinding, run: Run, now: datetime) -> Draft:
        """Return the stop of a run with an event on which the fold failed."""
        last = run.fold_failures[-1]
        LOG.error("fold_failed", role=binding.role.name, run=run.run, error=f"{last.kind}: {last.text}", at=last.where)
        return _defect_stop(binding, run, now, kind=last.kind, text=last.text)


def _decision_bytes(role: AnyRole, run: Run, extra_facts: tuple[Fact, ...]) -> int:
    """Return how many bytes of outside data a decision of this role reads; only the validator reads many."""
    if role.name != "validator":
        return 0
    incoming_tasks = (fact.task for fact in extra_facts if isinstance(fact, IncomingTask) and fact.task is not None)
    return judging_bytes(run) + sum(len(task.material) for task in incoming_tasks)


def _defect_stop(binding: RoleBinding, run: Run, now: datetime, *, kind: str, text: str) -> Draft:
    why = f"The {binding.role.name} failed on this run: {kind}."
    stop = stop_event(run, by=binding.role.name, why=why, code="defect")
    return Draft(binding, stop, at=now, dead_letter_reason=f"{kind}: {text}")


def stop_if_subject_taken(run: Run, role: RoleName, event: AnyEvent) -> AnyEvent:
    """Return the event, or a stop if its subject is already taken: after the stop, the event has another number."""
    if not run.taken_subjects or run.sealed or isinstance(event, Stopped):
        return event
    subject = run_event(run.tenant, run.run, role=role, event=EVENT_NAMES[type(event)], n=run.n + 1)
    if subject not in run.taken_subjects:
        return event
    why = f"A process with the credential of the {role} wrote {subject} too early, so the event cannot be appended."
    return stop_event(run, by=role, why=why, code="squatted")
