"""The shell: one loop that serves every role.

When it is woken, it loads and folds the run, asks each of its roles, appends the event that one of them decides, and
asks again until no role decides anything; then it sets the alarms for the run's deadlines. It owns conflicts,
back-off, cancellation, dead letters and drain. It decides nothing.

The log makes this safe, not the shell: an append names the head on which it was decided, and the server refuses the
append if the head has moved. So advancing a run twice, late, or in two processes at once is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Self

import anyio
import anyio.abc
import msgspec
import structlog

from linestop.actors.facts import Fact
from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import HeadMoved, StoredMessage, Timers
from linestop.bus.stop_run import apply_if_next, catch_up_to
from linestop.errors import Conflict, Defect, LinestopError, RetryableError
from linestop.runtime.ask_roles import Decider, Draft, Pass, stop_if_subject_taken
from linestop.runtime.deadline_alarms import Alarms
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.head_checks import HeadChecks, watch_heads
from linestop.runtime.outbox import Outbox
from linestop.runtime.perform_started import Execution, StartPerformer, is_recorded, mark_late, report_until_stored
from linestop.runtime.role_binding import RoleBinding, ShellConfig
from linestop.runtime.run_cache import CachedRun, RunCache
from linestop.runtime.speculation import Speculation
from linestop.runtime.workers.capacity import Capacity
from linestop.schemas.broker_defaults import APPEND_TRIES_MAX
from linestop.schemas.defaults import EFFECT_AFTER_ACK_S
from linestop.schemas.events import AnyEvent, Cue, EffectStarted, ModelStarted, Sealed, StopMode, Stopped
from linestop.schemas.run.fold import Run
from linestop.schemas.run.make_stop import stop_event
from linestop.schemas.run.next_role import role_to_wake
from linestop.schemas.subjects import ACTORS, RunId, TenantId

LOG = structlog.get_logger("linestop.shell")
APPENDS_PER_PASS_MAX = 64
"""Appends of one pass over a run; a run that wants more gets another pass soon."""

BACKOFF_S = 0.005
SPECULATION_MAX_S = 0.05
"""Age at which a speculative decision is still sent; after a slower broker the roles decide again."""


class Shell:
    """Serves the roles of one process. Use as ``async with Shell(...) as shell``; all it does is ``advance`` runs."""

    def __init__(
        self,
        bindings: Sequence[RoleBinding],
        *,
        facts: FactSource,
        encoder: EventEncoder,
        timers: Timers,
        config: ShellConfig,
    ) -> None:
        self.bindings = list(bindings)
        self.capacity = Capacity(config.limits, self._schedule_again)
        self._decider = Decider(self.bindings, facts, self.capacity, config.may_decide)
        self.role_names = self._decider.role_names
        self._has_all_roles = self.role_names >= set(ACTORS)
        self.cache = RunCache()
        self.config = config
        self.outbox = Outbox(self.bindings, config.signer)
        self._facts, self.pinned_agent, self._encoder = facts, facts.pinned_agent, encoder
        self._alarms = Alarms(timers, self.role_names, now=config.now, schedule=self.schedule)
        self._performer = StartPerformer(
            self.capacity, self.outbox, encoder, may_still_begin=self._may_still_begin, report=self._report_safely
        )
        self._heads = HeadChecks(self.bindings[0].log)
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = self.outbox.tasks = await anyio.create_task_group().__aenter__()
        checks = None if self.config.replicated else self._heads
        self._tasks.start_soon(watch_heads, self.cache, self.config.head_check_s, self._refresh, checks)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._tasks is not None
        for entry in self.cache.entries():
            if entry.near_alarm is not None:
                entry.near_alarm.cancel()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def drain(self) -> None:
        """Start nothing more; let started work end for at most ``drain_s``, then cancel it."""
        self._decider.may_start = False
        await self.cache.wait_until_idle(within_s=self.config.drain_s)
        for entry in self.cache.at_work():
            for scope in entry.performing.values():
                scope.cancel()
        await self.cache.wait_until_idle(within_s=self.config.drain_s)

    # --- advancing a run -------------------------------------------------------------------------------

    def schedule(
        self, tenant: TenantId, run: RunId, cue: Cue, *, fresh: bool = False, event: StoredMessage | None = None
    ) -> None:
        """Advance a run in the background; ``fresh`` and ``event`` as in ``advance``."""
        if self._tasks is not None and self._decider.may_start:
            self._tasks.start_soon(self._advance_safely, tenant, run, cue, fresh, event)

    def _schedule_again(self, key: tuple[TenantId, RunId], *, fresh: bool) -> None:
        self.schedule(*key, Cue(kind="sweep"), fresh=fresh)

    async def _advance_safely(
        self, tenant: TenantId, run: RunId, cue: Cue, fresh: bool, event: StoredMessage | None
    ) -> None:
        try:
            await self.advance(tenant, run, cue, fresh=fresh, event=event)
        except LinestopError as error:
            # An alarm is set for another pass: nothing is lost by giving up here.
            LOG.warning("advance_failed", tenant=tenant, run=run, error=str(error))
        except Exception:
            LOG.exception("advance_failed", tenant=tenant, run=run)

    async def advance(
        self,
        tenant: TenantId,
        run: RunId,
        cue: Cue,
        *facts: Fact,
        fresh: bool = False,
        event: StoredMessage | None = None,
    ) -> CachedRun:
        """Advance a run: load what is missing, let the roles decide and append, until no role decides anything.

        ``facts`` are what caused the pass (a task, a control message). ``fresh`` reads the log first even if the run
        is cached: for a wake that may know of events this process has not seen. ``event`` is the stored event that
        woke this process: if it is the next one, nothing has to be read.
        """
        entry = self.cache.get(tenant, run)
        run_pass = Pass(entry, cue, facts, set(self.role_names))
        with entry.in_use():
            entry.cancel_decision(for_stop=run_pass.brings_stop)
            async with entry.lock:
                try:
                    if event is not None and entry.is_loaded and apply_if_next(entry.run, event):
                        self._note_foreign_events(entry)
                    if not entry.is_loaded or fresh or cue.n > entry.run.n:
                        await self._refresh(entry, cue.n)
                    if entry.is_reporting and not facts:
                        # A result is appended before anything else is decided; its pass then asks all roles.
                        entry.pass_deferred = True
                        return entry
                    await self._decide_and_set_alarms(run_pass)
                except RetryableError:
                    self._alarms.retry_soon(entry)
                    raise
        if entry.run.sealed and not entry.run.late_results:
            self.cache.drop(tenant, run)
        return entry

    async def _refresh(self, entry: CachedRun, n_min: int = 0, *, head_seq: int = 0, leader: bool = False) -> None:
        """Fold the events that the log has beyond the cache; of several replicas, only the leader's events count."""
        run, n_before, leader = entry.run, entry.run.n, leader or self.config.replicated
        await catch_up_to(self.bindings[0].log, run, n_min=n_min, head_seq=head_seq, leader=leader)
        entry.is_loaded, entry.stop_announced = True, False
        if run.n != n_before:
            self._note_foreign_events(entry)

    def _note_foreign_events(self, entry: CachedRun) -> None:
        """React to events that another process appended."""
        entry.is_ours = entry.is_ours and not self._has_all_roles
        self._react_to_stop(entry)

    async def _decide_until_idle(self, run_pass: Pass) -> bool:
        """Let the roles decide until none decides anything; return whether that point was reached.

        All roles are asked first, or after a result only those that it wakes; then only those that the last event
        woke, and the role that appended it. The same rule wakes roles that live in processes of their own.
        """
        conflicts = 0
        for _ in range(APPENDS_PER_PASS_MAX):
            try:
                if (draft := await self._next_draft(run_pass)) is None:
                    return True
                await self._append_and_follow_up(run_pass, draft)
                conflicts = 0
            except HeadMoved as moved:
                conflicts += 1
                await self._refresh(run_pass.entry, head_seq=moved.head_seq)
                if conflicts > APPEND_TRIES_MAX and not run_pass.brings_stop:
                    return False
                run_pass.roles_to_ask |= self.role_names
                if conflicts > 1 and not run_pass.brings_stop:
                    await anyio.sleep(BACKOFF_S * conflicts * (0.5 + self.config.random_source.random()))
        return False

    async def _next_draft(self, run_pass: Pass) -> Draft | None:
        """Return the next draft: the speculative one if it was decided just now, else what the roles decide."""
        speculative, run_pass.speculative = run_pass.speculative, None
        if speculative is not None:
            age_s = asyncio.get_running_loop().time() - speculative.decided_at_s
            if age_s <= SPECULATION_MAX_S and self._decider.may_start:
                return speculative.draft
            run_pass.roles_to_ask |= self.role_names
        return await self._decider.next_draft(run_pass, self._now(run_pass.entry.run))

    def _now(self, run: Run) -> datetime:
        return max(self.config.now(), run.at)

    async def _decide_and_set_alarms(self, run_pass: Pass) -> None:
        """Let the roles decide, hint to the role whose turn it is then if it lives elsewhere, and set the alarms."""
        entry = run_pass.entry
        try:
            is_idle = await self._decide_until_idle(run_pass)
            run = entry.run
            if not self._has_all_roles and (
                role := role_to_wake(run, run_pass.cue, self.config.now(), local_roles=self.role_names)
            ):
                await self.bindings[0].publisher.wake(role, run.tenant, run.run)
            await self._alarms.set(entry)
            if not is_idle:
                self._alarms.retry_soon(entry)
        finally:
            self.cache.record_pass(entry)
            self.capacity.pass_ended(entry.run, self._now(entry.run), is_ours=entry.is_ours)

    async def _append_and_follow_up(self, run_pass: Pass, draft: Draft) -> None:
        """Append one event, fold it, and perform what it starts."""
        entry, binding, event = run_pass.entry, draft.binding, draft.event
        append_began_at = asyncio.get_running_loop().time()
        ignored, work = await self._append(run_pass, draft)
        run = entry.run
        if ignored:
            self.outbox.dead_letter(binding, run, f"own event {run.n} was ignored: {ignored}")
            if run.done or isinstance(event, Stopped):
                raise Defect(f"Event {run.n} of run {run.run} was ignored: {ignored}.")
            why = f"The {binding.role.name} decided something that is not legal: {ignored}."
            stop = stop_event(run, by=binding.role.name, why=why, code="defect")
            await self._append(run_pass, Draft(binding, stop))
            return
        if isinstance(event, ModelStarted | EffectStarted) and binding.performer is not None:
            assert self._tasks is not None
            scope, entry.starting_n = anyio.CancelScope(), 0
            entry.begin(run.n, scope)
            self.capacity.begin(run, event)
            self._tasks.start_soon(
                self._performer.perform,
                entry,
                binding,
                Execution(event, work, scope, n=run.n, append_began_at=append_began_at),
            )
        elif isinstance(event, Sealed):
            await self.outbox.outcome_if_room(run)
        else:
            await self._facts.settle_accounts(run, event)

    async def _append(self, run_pass: Pass, draft: Draft) -> tuple[str, object]:
        """Send one event, and while it is on its way fold it and decide the next one (``speculation``).

        Returns why the event is ignored (or nothing), and for a start the work that performing needs.
        """
        entry, binding, event = run_pass.entry, draft.binding, draft.event
        append = draft.append or await self._encoder.encode(
            entry.run, binding.role.name, event, run_pass.cue, at=draft.at
        )
        if append.head_seq != entry.run.head_seq:
            append = msgspec.structs.replace(append, head_seq=entry.run.head_seq)
        speculation = Speculation(run_pass, draft, append, self._decider, self._encoder)
        # Before its echo can arrive.
        entry.appended_ns.append(append.n)
        try:
            seq = await binding.log.append(append, on_sent=partial(speculation.fold_and_decide, self._now))
        except BaseException:
            speculation.discard()
            raise
        entry.run.mark_stored(seq)
        entry.is_ours = True
        if isinstance(event, Stopped):
            self._react_to_stop(entry)
        appended = entry.run.entries[-1]
        if self.config.spans is not None and not speculation.ignored and appended.event is not None:
            self.config.spans.emit_ended(entry.run, appended.event)
        self.outbox.alert(binding, entry.run, appended)
        if draft.dead_letter_reason:
            self.outbox.dead_letter(binding, entry.run, draft.dead_letter_reason)
        return speculation.ignored, speculation.work

    async def stop_stuck(self, tenant: TenantId, run: RunId, *, n: int, why: str) -> int:
        """Stop a run that no process moves, unless its head is past event ``n`` or it is over; return its present head.

        Raises:
            HeadMoved: another event was appended in the meantime.
        """
        entry, binding = self.cache.get(tenant, run), self.bindings[-1]
        with entry.in_use():
            async with entry.lock:
                if not entry.is_loaded:
                    await self._refresh(entry)
                if entry.run.n == n and not entry.run.done and not entry.run.fold_failed_too_often:
                    stop = stop_event(entry.run, by=binding.role.name, why=why, code="stuck")
                    await self._append(Pass(entry, Cue(kind="sweep")), Draft(binding, stop))
                return entry.run.n

    # --- performing --------------------------------------------------------------------------------------

    async def _may_still_begin(self, entry: CachedRun, execution: Execution[object]) -> bool:
        """Whether a start may still begin: proven by a prompt acknowledgement, else by asking the log.

        Only a stop, a pause, a takeover or the passing of ``start_by`` forbids it; other events in between, such as
        another call's result or a person's grant, do not.
        """
        # Measured from the sending: an acknowledgement that took long proves nothing about the present.
        is_prompt = asyncio.get_running_loop().time() - execution.append_began_at <= EFFECT_AFTER_ACK_S
        if self.config.replicated or not is_prompt or not entry.is_loaded:
            try:
                async with entry.lock:
                    if self.config.replicated or not entry.is_loaded or await self._heads.has_moved(entry.run):
                        # A replica that lags would not show a stop that is stored already.
                        await self._refresh(entry, leader=True)
            except LinestopError:
                return False
        if entry.may_not_begin() or self.config.now() >= execution.start_by:
            return False
        return any(attempt.n == execution.n for attempt in entry.run.open_attempts)

    def _react_to_stop(self, entry: CachedRun) -> None:
        """Cancel what is being performed for a stopped run, unless the stop lets it finish (``drain``)."""
        if entry.run.stopped is not None and entry.run.stopped.mode is not StopMode.DRAIN:
            for scope in entry.performing.values():
                scope.cancel()

    async def _report_safely(self, entry: CachedRun, binding: RoleBinding, event: AnyEvent, n: int) -> None:
        """Report a result, retrying while the broker cannot be reached: only the end of this process may lose it."""
        entry.results_in_flight[n] += 1
        try:
            await report_until_stored(
                partial(self._report, entry, binding, event, n), keep_trying=lambda: self._decider.may_start
            )
        except Exception as error:
            LOG.exception("report_failed", run=entry.run.run, n=n, error=str(error))
            entry.unreported.add(n)
            self._alarms.retry_soon(entry)
        finally:
            entry.results_in_flight[n] -= 1

    async def _report(self, entry: CachedRun, binding: RoleBinding, event: AnyEvent, n: int) -> None:
        """Append a result at the run's present head, unless the log already has its outcome; then advance the run."""
        run_pass = Pass(entry, Cue(kind="event", n=n))
        for tries in range(APPEND_TRIES_MAX):
            async with entry.lock:
                if not entry.is_loaded:
                    await self._refresh(entry)
                if entry.pass_deferred:
                    run_pass.roles_to_ask, entry.pass_deferred = set(self.role_names), False
                if is_recorded(entry.run, event, n):
                    # Perhaps by this process, at an earlier try whose acknowledgement was lost: then no role was asked.
                    run_pass.roles_to_ask |= self.role_names
                    return await self._decide_and_set_alarms(run_pass)
                result = stop_if_subject_taken(entry.run, binding.role.name, mark_late(entry.run, event, n))
                try:
                    ignored, _ = await self._append(run_pass, Draft(binding, result))
                except HeadMoved as moved:
                    await self._refresh(entry, head_seq=moved.head_seq)
                else:
                    if isinstance(result, Stopped):
                        # The result's subject was taken: the result follows the stop, as a late result.
                        continue
                    if ignored:
                        self.outbox.dead_letter(binding, entry.run, f"result for event {n} was ignored: {ignored}")
                    return await self._decide_and_set_alarms(run_pass)
            await anyio.sleep(BACKOFF_S * (tries + self.config.random_source.random()))
        raise Conflict(f"A result for event {n} of run {entry.run.run} found no free head in {APPEND_TRIES_MAX} tries.")
