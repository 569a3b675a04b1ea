"""A process of linestop: some roles, one shell, and the pumps that feed it.

With all six roles in one process the roles wake each other through the shell itself; only what others say
comes from the broker (tasks, control, timers, stops). A role in a process of its own is woken by its durable
consumer on the run log. Whatever is lost on these ways, the sweep finds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import structlog

from linestop import clock
from linestop.actors.executor import Executor
from linestop.actors.planner import Planner
from linestop.actors.role_protocol import Role
from linestop.bus import run_outcomes_and_alerts, stream_names
from linestop.bus.agent_versions import AgentStore
from linestop.bus.broker_backend import Backend
from linestop.bus.event_envelope import Stamper
from linestop.bus.idempotency_keys import Keys
from linestop.bus.interfaces import Delivery, Room
from linestop.bus.kill_switch_store import SwitchStore
from linestop.bus.stream_definitions import SECOND_NS, ConsumerSpec, consumer_spec
from linestop.bus.worker_heartbeats import Beat
from linestop.errors import LinestopError, TooLarge
from linestop.runtime.ack_extender import Keeping
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.headroom import Headroom
from linestop.runtime.housekeeping.dead_letter_given_up import GivenUp
from linestop.runtime.housekeeping.space_alerts import SpaceWatch
from linestop.runtime.housekeeping.stalled_run_sweep import Sweep
from linestop.runtime.intake import ControlIntake, TaskIntake
from linestop.runtime.money.ledger import Accounts
from linestop.runtime.money.orphaned_holds import FORGOTTEN_AFTER_S, release_forgotten, remove_ended_accounts
from linestop.runtime.process_settings import HostConfig, utc_now
from linestop.runtime.role_binding import ShellConfig, Station
from linestop.runtime.role_factory import role_consumer_spec
from linestop.runtime.run_loop import Shell
from linestop.runtime.workers.presence import Presence, RoleLoad, Watchers, load_of
from linestop.schemas.defaults import SPACE_AT_EASE
from linestop.schemas.events import NEVER, Cue
from linestop.schemas.subjects import (
    ACTORS,
    RoleName,
    RunId,
    TenantId,
    parse_run_event,
    parse_timer,
    parse_wake,
    stored,
    wakes_of,
)

if TYPE_CHECKING:
    # Only a recorder has an archive; nobody else shall load a database.
    from linestop.archive.writer import Archive

LOG = structlog.get_logger("linestop.host")
FACTS_EVERY_S = 2.0
"""How soon a closed kill switch holds in every process."""

RESTART_S = 0.5
OUTCOME_RETRY_S = 60.0
"""How long an outcome that found no room waits until it is tried again."""

RELEASE_EVERY_S = 60.0
LEFT_AFTER_S = 0.0
"""How old a hold is that a dead worker may have left. A living one loses nothing: its run's log says what it needs."""

IN_FLIGHT = 64
REFUSED_AGAIN_S = 2.0
"""When what a person said comes again to a process whose clock was wrong."""

LIVE_STOPS = "live.runs.*.*.*.stopped.*"
STOPS = frozenset({"stopped"})

ORDER: tuple[RoleName, ...] = ("validator", "approver", "executor", "planner", "budget", "recorder", "operator")
"""In which order the roles of a process are asked: limits and gates before starts, the rare ones last."""


class Host:
    """One process: ``roles`` over ``backend``. Use ``async with Host.open(...) as host``."""

    def __init__(
        self, backend: Backend, roles: Sequence[Role], config: HostConfig, *, archive: Archive | None = None
    ) -> None:
        self.backend = backend
        self.config = config
        self.archive = archive
        self.roles = sorted(roles, key=lambda role: ORDER.index(role.name))
        first = self.roles[0].name
        stations = [
            Station(
                role=role,
                log=backend.log(role.name),
                publisher=backend.publisher(role.name),
                performer=role if isinstance(role, Planner | Executor) else None,
            )
            for role in self.roles
        ]
        names = {role.name for role in self.roles}
        self.clock = clock.PROCESS if config.now is utc_now else clock.Clock(config.now, clock.loop_s)
        self.presence = Presence(
            {role.name: backend.shared(role.name, stream_names.BEATS_BUCKET) for role in self.roles},
            self.clock, worker=config.worker, load=self._load, compares=config.compares_clock,
        )  # fmt: skip
        self.accounts = None
        if "budget" in names:
            shared = backend.shared("budget", stream_names.SHARED_BUCKET)
            self.accounts = Accounts(shared, config.accounts, self.clock.now)
            self.accounts.on_room = self._on_room
        self.facts = FactSource(
            agents=AgentStore(backend.shared(first, stream_names.AGENTS_BUCKET)),
            accounts=self.accounts,
            blobs=backend.blobs(first),
            switches=SwitchStore(
                backend.shared(first, stream_names.SWITCHES_BUCKET), backend.shared(first, stream_names.SHARED_BUCKET)
            ),
            worker=config.worker,
            roster=self.presence.roster,
            secrets=config.secrets,
            checks=config.checks,
            tools=config.tools,
        )
        self.shell = Shell(
            stations,
            facts=self.facts,
            stamper=Stamper(
                build=config.build, blobs=backend.blobs(first), chance=config.chance, now=self.clock.now,
                sampled=config.spans.sampled if config.spans else None,
            ),
            timers=backend.timers(first),
            config=ShellConfig(
                worker=config.worker, now=self.clock.now, may_decide=self._may_decide, chance=config.chance,
                drain_s=config.drain_s, spans=config.spans, signer=config.signer, limits=config.limits,
            ),
        )  # fmt: skip
        self.shell.capacity.has_budget = "budget" in names
        self._names = names
        self._pumps: anyio.abc.TaskGroup | None = None
        self._budget_died = anyio.Event()
        self.sweep = self._make_sweep()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Host]:
        """Serve until the block ends; then drain."""
        async with self.shell, anyio.create_task_group() as pumps:
            log = self.shell.stations[0].log
            self.shell.config.replicated = await log.replicated()
            # Nothing is decided before it is known which kill switches are closed.
            while not await self.facts.refresh(log):  # noqa: ASYNC110 - the broker is asked, nobody tells
                await anyio.sleep(RESTART_S)
            self._pumps = pumps
            self.presence.watchers = Watchers(died=self._on_deaths, clock=self._on_clock)
            async with self.presence.shown():
                self._start(pumps)
                try:
                    yield self
                finally:
                    with anyio.CancelScope(shield=True):
                        pumps.cancel_scope.cancel()
                        self.presence.state = "ending"
                        await self.shell.drain()

    def _load(self, role: RoleName) -> RoleLoad:
        runs, starts = load_of(self.shell.cache.entries(), role)
        return RoleLoad(runs=runs, starts=starts, process=self.shell.capacity.load)

    def _may_decide(self) -> bool:
        return not self.clock.refusal

    async def _on_clock(self, refusal: str) -> None:
        """Call a person for a clock that is wrong; when it is right again, look at what was left lying."""
        if refusal:
            station = self.shell.stations[0]
            alert = run_outcomes_and_alerts.clock_off(
                self.config.worker, station.role.name, refusal, at=self.clock.now()
            )
            await station.publisher.alert(run_outcomes_and_alerts.SYSTEM, alert.kind, alert.payload, alert.headers)
        else:
            await self.sweep.at_start()

    def _on_deaths(self, died: list[Beat]) -> None:
        """Look at what these workers left, if their role is done here; a recorder looks who waits for them."""
        ours = any(beat.role in self._names for beat in died)
        if self._pumps is not None and (ours or "recorder" in self._names):
            self._pumps.start_soon(self._after_deaths, ours)
        if any(beat.role == "budget" for beat in died):
            self._budget_died.set()

    async def _after_deaths(self, every: bool) -> None:
        try:
            await self.sweep.once(every=every)
        except LinestopError as error:
            LOG.warning("sweep_failed", error=str(error))

    # --- pumps -------------------------------------------------------------------------------------------

    def _start(self, pumps: anyio.abc.TaskGroup) -> None:
        self._pumps = pumps
        first = self.roles[0].name
        every = self._names >= set(ACTORS)
        if "recorder" in self._names:
            pumps.start_soon(self._pump, "recorder", consumer_spec(stream_names.SEALED_CONSUMER), self._on_seal)
            log, publisher = self.backend.log("recorder"), self.backend.publisher("recorder")
            pumps.start_soon(SpaceWatch(log, publisher, self.config.directory, self.clock.now).run_for_ever)
            given_up = GivenUp(log, publisher)
            pumps.start_soon(self._pump, "recorder", consumer_spec(stream_names.ADVISORIES_CONSUMER), given_up.handle)
            if self.archive is not None:
                feed = self.backend.queue("recorder", consumer_spec(stream_names.FEED))
                pumps.start_soon(self.archive.run, log, feed)
        if "budget" in self._names:
            pumps.start_soon(self._release)
        headroom = Headroom(self.facts)
        if "validator" in self._names:
            keys = Keys(self.backend.shared("validator", stream_names.IDS_BUCKET))
            publisher = self.backend.publisher("validator")
            tasks = TaskIntake(self.shell, self.facts, headroom, keys=keys, publisher=publisher)
            pumps.start_soon(
                self._pump, "validator", consumer_spec(stream_names.TASKS_CONSUMER), tasks.handle, self.shell.capacity
            )
        who: RoleName = "approver" if "approver" in self._names else first
        publisher = self.backend.publisher(who)
        control = ControlIntake(self.shell, headroom, publisher=publisher, people=self.config.people)
        requests = stream_names.REQUESTS_CONSUMERS if who == "approver" else ()
        for _, durable in (*stream_names.STOPS_CONSUMERS, *requests):
            pumps.start_soon(self._pump, who, consumer_spec(durable), control.handle)
        pumps.start_soon(self._pump, first, consumer_spec(stream_names.TIMERS_CONSUMER), self._timer)
        pumps.start_soon(self._listen, first, LIVE_STOPS, self._on_stop)
        for role in self.roles:
            pumps.start_soon(self._listen, role.name, wakes_of(role.name), self._on_hint)
            if not every:
                spec = role_consumer_spec(role)
                pumps.start_soon(self._pump, role.name, spec, self._on_wake)
        pumps.start_soon(self._refresh_facts)
        pumps.start_soon(self._sweep)

    async def _pump(
        self,
        role: RoleName,
        spec: ConsumerSpec,
        handle: Callable[[Delivery], Awaitable[None]],
        room: Room | None = None,
    ) -> None:
        """Pull a queue for ever, handling a bounded number of messages at once, and no more than there is room for."""
        limiter = anyio.Semaphore(IN_FLIGHT)
        keeping = Keeping(spec.config["ack_wait"] / SECOND_NS)

        async def one(delivery: Delivery) -> None:
            try:
                with keeping.holding(delivery):
                    await handle(delivery)
            except LinestopError as error:
                LOG.warning("delivery_failed", subject=delivery.subject, error=str(error))
            except Exception:
                # One bad message must not take the others down; unacknowledged, it comes again, or is given up.
                LOG.exception("delivery_failed", subject=delivery.subject)
            finally:
                limiter.release()

        while True:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(keeping.run)
                    async for delivery in self._deliveries(role, spec, room):
                        await limiter.acquire()
                        tasks.start_soon(one, delivery)
                    tasks.cancel_scope.cancel()
            except* LinestopError as group:
                LOG.warning("pump_failed", consumer=spec.name, error=str(group.exceptions[0]))
            await anyio.sleep(RESTART_S)

    async def _deliveries(self, role: RoleName, spec: ConsumerSpec, room: Room | None) -> AsyncGenerator[Delivery]:
        """What is delivered, as long as this process may decide; stops always, for no clock decides them."""
        is_control = spec.stream in {stream_names.CONTROL, stream_names.CLIENTS}
        while not (self._may_decide() or is_control):  # noqa: ASYNC110 - a clock has no signal of its own
            await anyio.sleep(RESTART_S)
        async for delivery in self.backend.queue(role, spec).deliveries(in_flight_max=IN_FLIGHT, room=room):
            if self._may_decide() or (is_control and delivery.subject.endswith(".stop")):
                yield delivery
                continue
            await delivery.nak(REFUSED_AGAIN_S)
            if not is_control:
                # Nothing more is pulled, so that it goes to a process whose clock is right.
                return

    async def _listen(self, role: RoleName, subject: str, handle: Callable[[str], None]) -> None:
        while True:
            try:
                async for heard in self.backend.hints(role, subject):
                    handle(heard)
            except LinestopError as error:
                LOG.warning("listen_failed", subject=subject, error=str(error))
            await anyio.sleep(RESTART_S)

    async def _timer(self, delivery: Delivery) -> None:
        """A durable timer fired: look, or tell the role that lives elsewhere."""
        subject = parse_timer(delivery.subject)
        role = subject.name.partition("-")[0]
        if role in self._names:
            await self.shell.look(subject.tenant, subject.run, Cue(kind="timer", id=subject.name), fresh=True)
        elif role in ACTORS:
            await self.shell.stations[0].publisher.wake(role, subject.tenant, subject.run)
        await delivery.ack()

    async def _on_wake(self, delivery: Delivery) -> None:
        """An event of the log, for a role in a process of its own."""
        subject = parse_run_event(delivery.subject)
        await self.shell.look(subject.tenant, subject.run, Cue(kind="event", n=subject.n))
        await delivery.ack()

    async def _on_seal(self, delivery: Delivery) -> None:
        """A run was sealed: its outcome goes out, also if whoever sealed it died before it could say so."""
        subject = parse_run_event(delivery.subject)
        entry = await self.shell.look(subject.tenant, subject.run, Cue(kind="event", n=subject.n))
        if entry.run.sealed is not None:
            try:
                await self.shell.outgoing.outcome(entry.run)
            except TooLarge as error:
                # OUTCOMES is full: the outcome waits where it is, in the log, and does not hold up the next.
                LOG.warning("outcome_waits", run=entry.run.run, error=str(error))
                await delivery.nak(OUTCOME_RETRY_S)
                return
            # Also those of an operator's stop, for which no actor was needed.
            await self.shell.outgoing.alerts(
                entry.run, run_outcomes_and_alerts.alerts(entry.run, since=NEVER, kinds=STOPS)
            )
        await delivery.ack()

    async def _release(self) -> None:
        """Give back what forgotten holds hold: now and then, at the start, and when a worker of the budget has died."""
        station = next(s for s in self.shell.stations if s.role.name == "budget")
        cleaned, older_than_s = False, LEFT_AFTER_S
        while self.accounts is not None:
            try:
                if self._may_decide():
                    await release_forgotten(self.accounts, station.log, older_than_s=older_than_s)
                    shared = self.backend.shared("budget", stream_names.SHARED_BUCKET)
                    cleaned = cleaned or await remove_ended_accounts(shared, self.clock.now())
            except LinestopError as error:
                LOG.warning("release_failed", error=str(error))
            except Exception:
                # A value of the accounts that nobody can read ends no process.
                LOG.exception("release_failed")
            self._budget_died, older_than_s = anyio.Event(), FORGOTTEN_AFTER_S
            with anyio.move_on_after(RELEASE_EVERY_S):
                await self._budget_died.wait()
                older_than_s = LEFT_AFTER_S

    def _on_room(self, tenant: str, run: str) -> None:
        """A run that waited for money has room now: whichever worker of the budget is there looks at it."""
        self.shell.look_soon(TenantId(tenant), RunId(run), Cue(kind="sweep"), fresh=True)
        if self._pumps is not None:
            self._pumps.start_soon(self.backend.publisher("budget").wake, "budget", TenantId(tenant), RunId(run))

    def _on_stop(self, subject: str) -> None:
        event = parse_run_event(stored(subject))
        entry = self.shell.cache.peek(event.tenant, event.run)
        # An event of ours that is on its way has this number, too, and the stop may be why it is never stored.
        if entry is not None and entry.run.n <= event.n:
            # At once: reading the log has to wait for whoever appends just now, and the first byte must not leave.
            entry.stop_heard = True
            self.shell.look_soon(event.tenant, event.run, Cue(kind="event", n=event.n))

    def _on_hint(self, subject: str) -> None:
        wake = parse_wake(subject)
        self.shell.look_soon(TenantId(wake.tenant), RunId(wake.run), Cue(kind="sweep"), fresh=True)

    async def _refresh_facts(self) -> None:
        while True:
            short = self.facts.space.used >= SPACE_AT_EASE
            await anyio.sleep(FACTS_EVERY_S / 10 if short else FACTS_EVERY_S)
            await self.facts.refresh(self.shell.stations[0].log)

    def _make_sweep(self) -> Sweep:
        station = next((s for s in self.shell.stations if s.role.name == "recorder"), self.shell.stations[0])
        return Sweep(
            shell=self.shell, log=station.log, publisher=station.publisher, now=self.clock.now,
            everyone=not self._names >= set(ACTORS), every_s=self.config.sweep_every_s,
            is_missing=self.presence.roster.is_missing,
        )  # fmt: skip

    async def _sweep(self) -> None:
        if "recorder" in self._names and self.config.sweeping:
            await self.sweep.run_for_ever()
        else:
            # Also without sweeping: what this process has to do, and which alarms to set, stands in the open runs.
            await self.sweep.at_start()
