"""Asking the roles of a process what comes next in a run.

Nothing here waits, so it can be done while the event before is still on its way to the broker. What is decided
then is sent only when that event is stored; if it was not, the decision is forgotten with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import structlog

from linestop.actors.call_judging import judging_bytes
from linestop.actors.control_messages import said_stop, spoken, stop_asked
from linestop.actors.facts import Facts, Incoming, Performing, Word
from linestop.actors.role_protocol import Role
from linestop.bus.event_envelope import Stamper
from linestop.bus.interfaces import Append
from linestop.errors import LinestopError
from linestop.off_loop import off_loop
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.role_binding import Station
from linestop.runtime.run_cache import CachedRun
from linestop.runtime.workers.capacity import Capacity
from linestop.schemas.defaults import LONG_BYTES
from linestop.schemas.events import NAMES, AnyEvent, Cue, EffectStarted, ModelStarted, Stopped
from linestop.schemas.run.make_stop import stopped
from linestop.schemas.run.state import Run
from linestop.schemas.subjects import RoleName, run_event

LOG = structlog.get_logger("linestop.shell")
NOTHING_THOUGHT: Mapping[RoleName, AnyEvent | None] = {}


@dataclass(slots=True)
class Draft:
    """What a role says next. ``at`` is when it decided; ``append`` is made where that needs no waiting.

    ``letter`` is what is to be kept as a dead letter once it is said: why this had to be.
    """

    station: Station
    event: AnyEvent
    facts: Facts
    append: Append | None = None
    at: datetime | None = None
    letter: str = ""

    @property
    def is_start(self) -> bool:
        """Whether it is the start of a model call or of tool calls."""
        return isinstance(self.event, ModelStarted | EffectStarted)


@dataclass(slots=True)
class Ahead:
    """What was decided while the event before was on its way, and when (seconds of the loop's clock)."""

    draft: Draft | None
    at_s: float


@dataclass(slots=True)
class Look:
    """One look at a run, under its lock: what woke it, what that brought along, and who is still to be asked."""

    entry: CachedRun
    cue: Cue
    extra: tuple[Any, ...] = ()
    asked: set[RoleName] = field(default_factory=set[RoleName])
    ahead: Ahead | None = None

    @property
    def urgent(self) -> bool:
        """Whether it brings a stop: that gives way to nobody, and tries again at once as often as there are steps."""
        return stop_asked(self.extra)


class Deciding:
    """The roles of one process, asked in their order.

    ``starts`` False means that nothing may be started; ``capacity`` says whether there is a place for a start. Where
    ``may_decide`` says no, the process's clock is wrong: then only a stop is said, which no clock decides.
    """

    def __init__(
        self, stations: Sequence[Station], facts: FactSource, capacity: Capacity, may_decide: Callable[[], bool]
    ) -> None:
        self._capacity = capacity
        self.names: frozenset[RoleName] = frozenset(station.role.name for station in stations)
        self.starts = True
        self._stations = stations
        self._facts = facts
        self._may_decide = may_decide
        self._woken: dict[str, frozenset[RoleName]] = {}

    def woken_by(self, role: RoleName, event: AnyEvent) -> frozenset[RoleName]:
        """The roles here that look at a run when ``role`` has said ``event``."""
        name = NAMES[type(event)]
        wake = name if isinstance(event, Stopped) else f"{role}.{name}"
        found = self._woken.get(wake)
        if found is None:
            names: set[RoleName] = {station.role.name for station in self._stations if wake in station.role.wakes}
            found = self._woken[wake] = frozenset(names)
        return found

    async def next(self, look: Look, now: datetime) -> Draft | None:
        """What comes next, fetching the facts that it takes; None if no role has anything to say."""
        fetched: dict[RoleName, Facts] = {}
        thought: dict[RoleName, AnyEvent | None] = {}
        run = look.entry.run
        while isinstance(found := self.at_once(look, now, fetched, thought), Station):
            role = found.role
            try:
                if role.name != "validator":
                    fetched[role.name] = await self._facts.gather(run, role, now, look.extra)
                elif not await self._think(look, role, now, fetched, thought):
                    return None
            except LinestopError:
                raise
            except Exception as error:  # noqa: BLE001 - logged where it becomes a stop
                if (stop := self._failed(found, look.entry.run, error, now)) is not None:
                    return stop
                look.asked.discard(found.role.name)
        return found

    async def _think(
        self,
        look: Look,
        role: Role,
        now: datetime,
        fetched: dict[RoleName, Facts],
        thought: dict[RoleName, AnyEvent | None],
    ) -> bool:
        """Let the validator read what outsiders wrote, beside the loop if it is much; False if a stop came meanwhile.

        It changes nothing, so it can be abandoned at any time; and a change of the run needs its lock, which this
        look holds. An abandoned decision may still read the run as it was, so the run is loaded again.
        """
        entry, run = look.entry, look.entry.run
        try:
            with anyio.CancelScope() as entry.thinking:
                facts = fetched[role.name] = await self._facts.gather(run, role, now, look.extra)
                if (size := _size(role, run, look.extra)) > LONG_BYTES:
                    work = partial(role.decide, run, look.cue, facts, now)
                    thought[role.name] = await off_loop(size, work, give_up=True)
                return True
        finally:
            entry.thinking = None
        entry.reset()
        return False

    def at_once(
        self,
        look: Look,
        now: datetime,
        fetched: Mapping[RoleName, Facts],
        thought: Mapping[RoleName, AnyEvent | None] = NOTHING_THOUGHT,
    ) -> Draft | Station | None:
        """What comes next, or the station whose facts must be fetched, or which must think, before it can be said.

        Roles that have nothing to say are taken out of ``look.asked``.
        """
        run, extra = look.entry.run, look.extra
        if extra:
            if (stop := said_stop(run, extra, now)) is not None:
                return Draft(self._stations[0], stop, Facts(), at=now)
            if spoken(run, look.cue):
                look.extra = extra = tuple(fact for fact in extra if not isinstance(fact, Word))
        if run.lost or not self._may_decide():
            return None
        if run.breaks and not run.done:
            return self._broken(self._stations[0], run, now)
        for station in self._stations:
            if station.role.name not in look.asked:
                continue
            name = station.role.name
            found: Draft | Station | None
            if name in thought:
                found = self._draft(station, run, thought[name], fetched[name], now)
            else:
                found = self._ask(station, look, fetched.get(name), now=now)
            if isinstance(found, Station) or (found is not None and self._may_say(run, found)):
                return found
            look.asked.discard(station.role.name)
        return None

    def _may_say(self, run: Run, draft: Draft) -> bool:
        return not draft.is_start or (self.starts and self._capacity.reserve(run, draft.event))

    def ahead(self, look: Look, now: datetime, stamper: Stamper) -> Ahead | None:
        """Decide what comes next as if the event on its way were stored, and make it ready to be sent.

        None where that needs waiting (a fact, a blob), or goes wrong: it is decided again when the event is stored.
        """
        if look.extra:
            return None
        try:
            draft = self.at_once(look, now, {})
            if isinstance(draft, Station):
                return None
            if draft is not None:
                if not stamper.short(draft.event):
                    return None
                role = draft.station.role.name
                draft.append = stamper.stamp_short(look.entry.run, role, draft.event, look.cue, at=draft.at)
        except Exception:
            LOG.exception("thinking_ahead_failed", run=look.entry.run.run)
            return None
        return Ahead(draft, asyncio.get_running_loop().time())

    def _ask(self, station: Station, look: Look, facts: Facts | None, *, now: datetime) -> Draft | Station | None:
        """What this role says to the run, or the station itself if its facts must be fetched first."""
        run, role = look.entry.run, station.role
        if run.blind and not run.done:
            return None
        try:
            facts = facts or self._facts.at_hand(run, role, now, look.extra)
            if facts is None or _size(role, run, look.extra) > LONG_BYTES:
                return station
            if run.open_attempts and Performing in role.needs:
                facts = facts.with_(look.entry.performs)
            event = role.decide(run, look.cue, facts, now)
        except Exception as error:  # noqa: BLE001 - logged where it becomes a stop
            return self._failed(station, run, error, now)
        return self._draft(station, run, event, facts, now)

    @staticmethod
    def _draft(station: Station, run: Run, event: AnyEvent | None, facts: Facts, now: datetime) -> Draft | None:
        name = station.role.name
        return None if event is None else Draft(station, way_round(run, name, event), facts, at=now)

    @staticmethod
    def _failed(station: Station, run: Run, error: Exception, now: datetime) -> Draft | None:
        """The stop of a run that a role broke on; None for a run that is over, which is left as it is.

        One that does not exist yet cannot be stopped: whoever brought it hears the error.
        """
        LOG.error("decide_failed", role=station.role.name, run=run.run, exc_info=error)
        if run.done:
            return None
        if run.opened is None and not run.breaks:
            raise error
        return _defect(station, run, now, kind=type(error).__name__, text=str(error))

    @staticmethod
    def _broken(station: Station, run: Run, now: datetime) -> Draft:
        """The stop of a run with an event that the fold broke on."""
        last = run.breaks[-1]
        LOG.error("fold_broken", role=station.role.name, run=run.run, error=f"{last.kind}: {last.text}", at=last.where)
        return _defect(station, run, now, kind=last.kind, text=last.text)


def _size(role: Role, run: Run, extra: tuple[Any, ...]) -> int:
    """How many bytes of outside data a decision of this role goes through; only the validator goes through many."""
    if role.name != "validator":
        return 0
    at_door = (fact.task for fact in extra if isinstance(fact, Incoming) and fact.task is not None)
    return judging_bytes(run) + sum(len(task.material) for task in at_door)


def _defect(station: Station, run: Run, now: datetime, *, kind: str, text: str) -> Draft:
    why = f"The {station.role.name} failed on this run: {kind}."
    stop = stopped(run, by=station.role.name, why=why, code="defect")
    return Draft(station, stop, Facts(), at=now, letter=f"{kind}: {text}")


def way_round(run: Run, role: RoleName, event: AnyEvent) -> AnyEvent:
    """The event, or a stop where its place was taken beforehand: what follows a stop has another number."""
    if not run.squatted or run.sealed or isinstance(event, Stopped):
        return event
    subject = run_event(run.tenant, run.run, role=role, event=NAMES[type(event)], n=run.n + 1)
    if subject not in run.squatted:
        return event
    why = f"Somebody with the credential of the {role} has written {subject} before its time, so it cannot be said."
    return stopped(run, by=role, why=why, code="squatted")
