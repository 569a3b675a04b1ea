"""The shell: one loop that serves every role.

It is woken, loads and folds the run, asks each of its roles, appends what one of them decides, and asks again
until none has anything to say; then it sets the alarms for the run's deadlines. It owns conflicts, back-off,
cancellation, dead letters and drain. It decides nothing.

What makes it safe is not here but in the log: an append names the head it was decided on, and the server
refuses it if the head has moved. So looking twice, late, or in two processes at once is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self

import anyio
import anyio.abc
import msgspec
import structlog

from linestop.actors.facts import Facts
from linestop.bus.event_envelope import Stamper
from linestop.bus.interfaces import HeadMoved, Timers
from linestop.bus.operator_stop import read_on
from linestop.errors import Conflict, Defect, LinestopError, RetryableError
from linestop.runtime.deadline_alarms import Alarms
from linestop.runtime.decide_next import Deciding, Draft, Look, way_round
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.head_watch import watch_heads
from linestop.runtime.outbox import Outgoing
from linestop.runtime.perform_started import Act, late, part, told, until_reached
from linestop.runtime.role_binding import ShellConfig, Station
from linestop.runtime.run_cache import CachedRun, RunCache
from linestop.runtime.workers.capacity import Capacity
from linestop.schemas.defaults import APPEND_TRIES_MAX, EFFECT_AFTER_ACK_S
from linestop.schemas.events import AnyEvent, Cue, EffectStarted, ModelStarted, Sealed, StopMode, Stopped
from linestop.schemas.performer_interfaces import LongResult
from linestop.schemas.run.make_stop import stopped
from linestop.schemas.run.state import Run
from linestop.schemas.run.whose_turn import role_to_wake
from linestop.schemas.start_deadline import IS_STOPPED
from linestop.schemas.subjects import ACTORS, RunId, TenantId

LOG = structlog.get_logger("linestop.shell")
STEPS_MAX = 64
"""Appends of one look at a run; a run that wants more is looked at again soon."""

BACKOFF_S = 0.005
AHEAD_S = 0.05
"""How long what was decided ahead may be sent; a broker that took longer is asked about a newer moment."""


class Shell:
    """Serves ``stations`` of one process. Use as ``async with Shell(...) as shell``; ``look`` is all it does."""

    def __init__(
        self,
        stations: Sequence[Station],
        *,
        facts: FactSource,
        stamper: Stamper,
        timers: Timers,
        config: ShellConfig,
    ) -> None:
        self.stations = list(stations)
        self.capacity = Capacity(config.limits, self._look_again)
        self._deciding = Deciding(self.stations, facts, self.capacity, config.may_decide)
        self.names = self._deciding.names
        self._whole = self.names >= set(ACTORS)
        self.cache = RunCache(config.cache_runs_max)
        self.config = config
        self.outgoing = Outgoing(self.stations, config.signer)
        self._facts, self.pinned, self._stamper = facts, facts.pinned, stamper
        self._alarms = Alarms(timers, self.names, now=config.now, look_soon=self.look_soon)
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = self.outgoing.tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(watch_heads, self.cache, self.config.head_check_s, self._refresh)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._tasks is not None
        for entry in self.cache.entries():
            if entry.timer is not None:
                entry.timer.cancel()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def drain(self) -> None:
        """Start nothing more; let what is being performed end, at most ``drain_s``, then cancel it."""
        self._deciding.starts = False
        await self.cache.performed(within_s=self.config.drain_s)
        for entry in self.cache.entries():
            for scope in entry.performing.values():
                scope.cancel()
        await self.cache.performed(within_s=self.config.drain_s)

    # --- looking at a run ------------------------------------------------------------------------------

    def look_soon(self, tenant: TenantId, run: RunId, cue: Cue, *, fresh: bool = False) -> None:
        """Look at a run in the background; ``fresh`` as in ``look``."""
        if self._tasks is not None and self._deciding.starts:
            self._tasks.start_soon(self._look_safely, tenant, run, cue, fresh)

    def _look_again(self, key: tuple[TenantId, RunId], *, fresh: bool) -> None:
        self.look_soon(*key, Cue(kind="sweep"), fresh=fresh)

    async def _look_safely(self, tenant: TenantId, run: RunId, cue: Cue, fresh: bool) -> None:
        try:
            await self.look(tenant, run, cue, fresh=fresh)
        except LinestopError as error:
            # An alarm is set to look again: nothing is lost by giving up here.
            LOG.warning("look_failed", tenant=tenant, run=run, error=str(error))
        except Exception:
            LOG.exception("look_failed", tenant=tenant, run=run)

    async def look(self, tenant: TenantId, run: RunId, cue: Cue, *facts: Any, fresh: bool = False) -> CachedRun:  # noqa: ANN401
        """Look at a run: load what is missing, let the roles decide, append, until none has anything to say.

        ``facts`` are what woke it (a task, a person's word). ``fresh`` reads the log first even if the run is
        cached: for a wake that may know of events this process has not seen.
        """
        entry = self.cache.get(tenant, run)
        look = Look(entry, cue, facts, set(self.names))
        with entry.used():
            entry.cut_thinking_short(for_stop=look.urgent)
            async with entry.lock:
                try:
                    if not entry.loaded or fresh or cue.n > entry.run.n:
                        await self._refresh(entry, cue.n)
                    if entry.saying and not facts:
                        # What is done comes before what is next; who says it asks all roles then.
                        entry.deferred = True
                        return entry
                    await self._advance(look)
                except RetryableError:
                    self._alarms.again(entry)
                    raise
        if entry.run.sealed and not entry.run.facts_after_seal:
            self.cache.drop(tenant, run)
        return entry

    async def _refresh(self, entry: CachedRun, n_least: int = 0, *, head_seq: int = 0, leader: bool = False) -> None:
        """Fold what the log has beyond the cache; of several replicas, only what the leader has is decided on."""
        run, n_before, leader = entry.run, entry.run.n, leader or self.config.replicated
        await read_on(self.stations[0].log, run, n_least=n_least, head_seq=head_seq, leader=leader)
        entry.loaded, entry.stop_heard = True, False
        entry.ours = entry.ours and (run.n == n_before or not self._whole)
        self._react_to_stop(entry)

    async def _drive(self, look: Look) -> bool:
        """Let the roles speak until none has anything to say; return whether it came to that.

        All roles are asked first, or after a result only those it wakes; then only those that the last event
        woke, and who spoke last. That is exactly what wakes roles that live in processes of their own.
        """
        conflicts = 0
        for _ in range(STEPS_MAX):
            try:
                if (draft := await self._next(look)) is None:
                    return True
                await self._say(look, draft)
                conflicts = 0
            except HeadMoved as moved:
                conflicts += 1
                await self._refresh(look.entry, head_seq=moved.head_seq)
                if conflicts > APPEND_TRIES_MAX and not look.urgent:
                    return False
                look.asked |= self.names
                if conflicts > 1 and not look.urgent:
                    await anyio.sleep(BACKOFF_S * conflicts * (0.5 + self.config.chance.random()))
        return False

    async def _next(self, look: Look) -> Draft | None:
        """What comes next: what was decided ahead, if that was just now, else what the roles decide."""
        ahead, look.ahead = look.ahead, None
        if ahead is not None:
            if asyncio.get_running_loop().time() - ahead.at_s <= AHEAD_S and self._deciding.starts:
                return ahead.draft
            look.asked |= self.names
        return await self._deciding.next(look, self._now(look.entry.run))

    def _now(self, run: Run) -> datetime:
        return max(self.config.now(), run.at)

    async def _advance(self, look: Look) -> None:
        """Let the roles speak, hint to the role whose turn it is then if it lives elsewhere, and set the alarms."""
        entry = look.entry
        try:
            quiet = await self._drive(look)
            run = entry.run
            if not self._whole and (role := role_to_wake(run, look.cue, self.config.now(), here=self.names)):
                await self.stations[0].publisher.wake(role, run.tenant, run.run)
            await self._alarms.set(entry)
            if not quiet:
                self._alarms.again(entry)
        finally:
            self.capacity.looked(entry.run, self._now(entry.run), ours=entry.ours)

    async def _say(self, look: Look, draft: Draft) -> None:
        """Append one event, fold it, and do what follows from it."""
        entry, station, event = look.entry, draft.station, draft.event
        asked_at = asyncio.get_running_loop().time()
        ignored, view = await self._append(look, draft)
        run = entry.run
        if ignored:
            self.outgoing.bury(station, run, f"own event {run.n} was ignored: {ignored}")
            if run.done or isinstance(event, Stopped):
                raise Defect(f"Event {run.n} of run {run.run} was ignored: {ignored}.")
            why = f"The {station.role.name} said something that is not legal: {ignored}."
            stop = stopped(run, by=station.role.name, why=why, code="defect")
            await self._append(look, Draft(station, stop, Facts()))
            return
        if isinstance(event, ModelStarted | EffectStarted) and station.performer is not None:
            assert self._tasks is not None
            scope, entry.starting = anyio.CancelScope(), 0
            entry.performing[run.n] = scope
            self.capacity.begin(run, event)
            self._tasks.start_soon(self._perform, entry, station, Act(event, view, scope, n=run.n, asked_at=asked_at))
        elif isinstance(event, Sealed):
            await self.outgoing.outcome_if_room(run)
        else:
            await self._facts.stored(run, event)

    async def _append(self, look: Look, draft: Draft) -> tuple[str, Any]:
        """Send one event, and while it is on its way fold it and think ahead.

        Returns why it is ignored (or nothing), and for a start the view of it. Whatever goes wrong, also if the
        event may be stored: what was folded before it was acknowledged is forgotten.
        """
        entry, station, event = look.entry, draft.station, draft.event
        append = draft.append or await self._stamper.stamp(entry.run, station.role.name, event, look.cue, at=draft.at)
        if append.head_seq != entry.run.head_seq:
            append = msgspec.structs.replace(append, head_seq=entry.run.head_seq)
        folded: list[tuple[str, Any]] = []

        def meanwhile() -> None:
            if folded:
                return
            folded.append((entry.run.apply_unstored(append.subject, append.payload).ignored, None))
            if folded[0][0]:
                return
            if draft.is_start and station.performer is not None:
                folded[0] = ("", station.performer.view(entry.run, event, draft.facts))
            entry.starting = entry.run.n if draft.is_start else 0
            look.asked |= self._deciding.woken_by(append.role, event)
            look.ahead = self._deciding.ahead(look, self._now(entry.run), self._stamper)

        try:
            seq = await station.log.append(append, meanwhile=meanwhile)
        except BaseException:
            look.ahead, entry.starting = None, 0
            entry.reset()
            raise
        entry.run.stored(seq)
        entry.ours = True
        if isinstance(event, Stopped):
            self._react_to_stop(entry)
        ignored, view = folded[0]
        said = entry.run.entries[-1]
        if self.config.spans is not None and not ignored and said.event is not None:
            self.config.spans.after(entry.run, said.event)
        self.outgoing.call(station, entry.run, said)
        if draft.letter:
            self.outgoing.bury(station, entry.run, draft.letter)
        return ignored, view

    async def stop_stuck(self, tenant: TenantId, run: RunId, *, n: int, why: str) -> int:
        """Stop a run that nobody moves, unless its head is no more event ``n`` or it is over; return its head now.

        Raises:
            HeadMoved: the run moved meanwhile.
        """
        entry, station = self.cache.get(tenant, run), self.stations[-1]
        with entry.used():
            async with entry.lock:
                if not entry.loaded:
                    await self._refresh(entry)
                if entry.run.n == n and not entry.run.done and not entry.run.lost:
                    stop = stopped(entry.run, by=station.role.name, why=why, code="stuck")
                    await self._append(Look(entry, Cue(kind="sweep")), Draft(station, stop, Facts()))
                return entry.run.n

    # --- performing --------------------------------------------------------------------------------------

    async def _perform(self, entry: CachedRun, station: Station, act: Act) -> None:
        """Perform what was started, reporting each result; then speak for what was cancelled or never begun."""
        assert station.performer is not None
        done: set[tuple[str, int]] = set()
        begun = False
        self.capacity.lagged(asyncio.get_running_loop().time() - act.stored_at)
        try:
            with act.scope:
                IS_STOPPED.set(entry.may_not_begin)
                begun = await self._still_first(entry, act)
                if begun:
                    await self._perform_safely(entry, station, act, done)
            with anyio.CancelScope(shield=True):
                for event in station.performer.cancelled(act.view, frozenset(done), begun=begun):
                    await self._report_safely(entry, station, act.timed(event) if begun else event, act.n)
        finally:
            # Not before its last result is said: what this process does not perform, its roles call never begun.
            entry.performing.pop(act.n, None)
            self.capacity.end(entry.key, act.n)

    async def _perform_safely(self, entry: CachedRun, station: Station, act: Act, done: set[tuple[str, int]]) -> None:
        assert station.performer is not None
        kept: list[asyncio.Task[None]] = []
        try:
            act.begun_s = asyncio.get_running_loop().time()
            async for said in station.performer.perform(act.view, act.started):
                done.add(part(said))
                if len(done) == act.parts:
                    self.capacity.end(entry.key, act.n)
                if isinstance(said, LongResult):
                    # Its call has ended, so nothing stops this; and no other result waits for it.
                    kept.append(asyncio.create_task(self._keep(entry, station, said, act.n)))
                    continue
                with anyio.CancelScope(shield=True):
                    await self._report_safely(entry, station, act.timed(said), act.n)
        except Exception as error:
            LOG.exception("perform_failed", run=entry.run.run, n=act.n)
            self.outgoing.bury(station, entry.run, f"performing event {act.n}: {type(error).__name__}: {error}")
        finally:
            with anyio.CancelScope(shield=True):
                for task in kept:
                    await task

    async def _keep(self, entry: CachedRun, station: Station, said: LongResult, n: int) -> None:
        event = await self._stamper.kept(entry.run.tenant, said)
        await self._report_safely(entry, station, event, n)

    async def _still_first(self, entry: CachedRun, act: Act) -> bool:
        """Whether what was started may still begin: proven by its acknowledgement, else by reading the log.

        An event between the two is no reason against it (another call's result, a person's grant); a stop, a pause,
        a takeover or the passing of ``start_by`` is.
        """
        # From when it was asked for: an acknowledgement that was long on its way proves nothing about now.
        prompt = asyncio.get_running_loop().time() - act.asked_at <= EFFECT_AFTER_ACK_S
        if self.config.replicated or not prompt or not entry.loaded:
            try:
                async with entry.lock:
                    # A replica that lags would not show a stop that is stored already.
                    await self._refresh(entry, leader=True)
            except LinestopError:
                return False
        if entry.may_not_begin() or self.config.now() >= act.start_by:
            return False
        return any(attempt.n == act.n for attempt in entry.run.open_attempts)

    def _react_to_stop(self, entry: CachedRun) -> None:
        """Cancel what is being performed for a stopped run, unless the stop lets it run out (``drain``)."""
        if entry.run.stopped is not None and entry.run.stopped.mode is not StopMode.DRAIN:
            for scope in entry.performing.values():
                scope.cancel()

    async def _report_safely(self, entry: CachedRun, station: Station, event: AnyEvent, n: int) -> None:
        """Report a result for as long as the broker is away: it is lost with this process, and not before."""
        entry.unsaid[n] += 1
        try:
            await until_reached(partial(self._report, entry, station, event, n), going_on=lambda: self._deciding.starts)
        except Exception as error:
            LOG.exception("report_failed", run=entry.run.run, n=n, error=str(error))
            entry.unreported.add(n)
            self._alarms.again(entry)
        finally:
            entry.unsaid[n] -= 1

    async def _report(self, entry: CachedRun, station: Station, event: AnyEvent, n: int) -> None:
        """Append a result at whatever head the run has now, unless the log already tells its fate; then go on."""
        look = Look(entry, Cue(kind="event", n=n))
        for tries in range(APPEND_TRIES_MAX):
            async with entry.lock:
                if not entry.loaded:
                    await self._refresh(entry)
                if entry.deferred:
                    look.asked, entry.deferred = set(self.names), False
                if told(entry.run, event, n):
                    # Perhaps by us, at an earlier try whose answer was lost: then nobody has gone on from there.
                    look.asked |= self.names
                    return await self._advance(look)
                said = way_round(entry.run, station.role.name, late(entry.run, event, n))
                try:
                    ignored, _ = await self._append(look, Draft(station, said, Facts()))
                except HeadMoved as moved:
                    await self._refresh(entry, head_seq=moved.head_seq)
                else:
                    if isinstance(said, Stopped):
                        # The result's place was taken: it follows the stop, as a late fact.
                        continue
                    if ignored:
                        self.outgoing.bury(station, entry.run, f"result for event {n} was ignored: {ignored}")
                    return await self._advance(look)
            await anyio.sleep(BACKOFF_S * (tries + self.config.chance.random()))
        raise Conflict(f"A result for event {n} of run {entry.run.run} found no free head in {APPEND_TRIES_MAX} tries.")
