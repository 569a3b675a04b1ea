"""A process of linestop: some roles, one shell, and the pumps that feed it.

With all six roles in one process the roles wake each other through the shell; only messages from outside come from
the broker (tasks, control messages, timers, stops). A role in a process of its own is woken by the events that the
server republishes as it stores them. The sweep finds every run whose wake was lost on the way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import structlog

from linestop import clock
from linestop.actors.executor import Executor
from linestop.actors.planner import Planner
from linestop.actors.role_protocol import AnyRole
from linestop.bus.broker_backend import Backend
from linestop.bus.event_message import EventEncoder
from linestop.bus.interfaces import Delivery, LiveMessage, PullCapacity, StoredMessage
from linestop.bus.run_outcomes_and_alerts import SYSTEM_TENANT, clock_off_alert, event_alerts
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.stores.idempotency_keys import IdempotencyKeys
from linestop.bus.stores.kill_switch_store import KillSwitchStore
from linestop.bus.stores.worker_heartbeats import Heartbeat
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumer_spec
from linestop.errors import LinestopError, TooLarge
from linestop.runtime.fetch_facts import FactSource
from linestop.runtime.housekeeping.space_alerts import SpaceWatch
from linestop.runtime.housekeeping.stalled_run_sweep import Sweep
from linestop.runtime.intake import ControlIntake, TaskIntake
from linestop.runtime.message_loops import RESTART_PAUSE_S, Pumps
from linestop.runtime.money.ledger import AccountLedger
from linestop.runtime.money.orphaned_holds import OrphanedHolds
from linestop.runtime.process_settings import ProcessSettings, utc_now
from linestop.runtime.role_binding import RoleBinding, ShellConfig
from linestop.runtime.role_factory import live_filters
from linestop.runtime.run_loop import Shell
from linestop.runtime.stream_space import StreamSpace
from linestop.runtime.workers.presence import Presence, PresenceCallbacks, RoleLoad, count_starts
from linestop.schemas.broker_defaults import OUTCOME_RETRY_S, SPACE_TO_WATCH
from linestop.schemas.defaults import REFRESH_FACTS_EVERY_S
from linestop.schemas.events import NEVER, Cue
from linestop.schemas.subjects import (
    ACTORS,
    RoleName,
    RunId,
    TenantId,
    event_filter,
    live_subject,
    parse_run_event,
    parse_timer,
    parse_wake,
    stored_subject,
    wake_filter,
)

if TYPE_CHECKING:
    from linestop.archive.writer_process import Writer

LOG = structlog.get_logger("linestop.process")
LIVE_STOPS = live_subject(event_filter(None, "stopped"))
STOP_ALERT_KINDS = frozenset({"stopped"})

ROLE_ORDER: tuple[RoleName, ...] = ("validator", "approver", "executor", "planner", "budget", "recorder", "operator")
"""The order in which the roles of a process are asked: limits and gates before starts, the rare ones last."""


class ActorProcess:
    """One process: ``roles`` over ``backend``. Use ``async with process.running():``."""

    _pumps: anyio.abc.TaskGroup | None = None
    _is_sweep_due = False
    _losses = 0
    _orphaned_holds: OrphanedHolds | None = None

    def __init__(
        self, backend: Backend, roles: Sequence[AnyRole], config: ProcessSettings, *, archive: Writer | None = None
    ) -> None:
        self.backend = backend
        self.config = config
        self.archive = archive
        self.roles = sorted(roles, key=lambda role: ROLE_ORDER.index(role.name))
        first = self.roles[0].name
        self._role_names = {role.name for role in self.roles}
        self.clock = clock.PROCESS_CLOCK if config.now is utc_now else clock.Clock(config.now, clock.loop_s)
        self.presence = Presence(
            {role.name: backend.bucket(role.name, stream_names.BEATS_BUCKET) for role in self.roles},
            self.clock,
            worker=config.worker,
            load=self._role_load,
            compare_clock=config.compare_clock,
        )
        self.ledger = self._make_ledger() if "budget" in self._role_names else None
        self.facts = FactSource(
            agents=AgentStore(backend.bucket(first, stream_names.AGENTS_BUCKET)),
            ledger=self.ledger,
            blobs=backend.blobs(first),
            switches=KillSwitchStore(
                backend.bucket(first, stream_names.SWITCHES_BUCKET), backend.bucket(first, stream_names.SHARED_BUCKET)
            ),
            worker=config.worker,
            roster=self.presence.roster,
            secrets=config.secrets,
            checks=config.checks,
            tools=config.tools,
        )
        self.shell = self._make_shell()
        self._stream_space = StreamSpace(self.facts)
        self.pumps = Pumps(backend, self._may_decide)
        self.sweep = self._make_sweep()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[ActorProcess]:
        """Serve until the block ends; then drain."""
        async with self.shell, anyio.create_task_group() as pumps:
            log = self.shell.bindings[0].log
            self.shell.config.replicated = await log.replicated()
            # No role decides before it is known which kill switches are closed.
            while not await self.facts.refresh(log):  # noqa: ASYNC110 - the broker gives no signal
                await anyio.sleep(RESTART_PAUSE_S)
            self._pumps = pumps
            self.presence.callbacks = PresenceCallbacks(on_deaths=self._on_deaths, on_clock=self._on_clock)
            async with self.presence.sending_heartbeats():
                self._start_pumps(pumps)
                try:
                    yield self
                finally:
                    with anyio.CancelScope(shield=True):
                        pumps.cancel_scope.cancel()
                        self.presence.state = "ending"
                        await self.shell.drain()

    def _make_shell(self) -> Shell:
        backend, config, first = self.backend, self.config, self.roles[0].name
        bindings = [
            RoleBinding(
                role=role,
                log=backend.log(role.name),
                publisher=backend.publisher(role.name),
                performer=role if isinstance(role, Planner | Executor) else None,
            )
            for role in self.roles
        ]
        shell = Shell(
            bindings,
            facts=self.facts,
            encoder=EventEncoder(
                build=config.build,
                blobs=backend.blobs(first),
                random_source=config.random_source,
                now=self.clock.now,
                sampled=config.spans.sampled if config.spans else None,
            ),
            timers=backend.timers(first),
            config=ShellConfig(
                worker=config.worker,
                now=self.clock.now,
                may_decide=self._may_decide,
                random_source=config.random_source,
                drain_s=config.drain_s,
                spans=config.spans,
                signer=config.signer,
                limits=config.limits,
            ),
        )
        shell.capacity.has_budget = "budget" in self._role_names
        return shell

    def _make_ledger(self) -> AccountLedger:
        shared = self.backend.bucket("budget", stream_names.SHARED_BUCKET)
        ledger = AccountLedger(shared, self.config.account_limits, self.clock.now)
        ledger.on_funds_freed = self._on_funds_freed
        return ledger

    def _role_load(self, role: RoleName) -> RoleLoad:
        starts = count_starts(self.shell.cache.at_work(), role)
        return RoleLoad(runs=self.shell.cache.open_count, starts=starts, process=self.shell.capacity.load)

    def _may_decide(self) -> bool:
        return not self.clock.refusal

    async def _on_clock(self, refusal: str) -> None:
        """Alert a person to a clock that is wrong; when it is right again, sweep the runs that had to wait."""
        if refusal:
            binding = self.shell.bindings[0]
            alert = clock_off_alert(self.config.worker, binding.role.name, refusal, at=self.clock.now())
            await binding.publisher.alert(SYSTEM_TENANT, alert.kind, alert.payload, alert.headers)
        else:
            # Later, when the listeners are back in their groups, and not within the round of heartbeats.
            self._sweep_after_loss()

    def _on_deaths(self, died: list[Heartbeat]) -> None:
        """Sweep all runs if these workers had a role of this process; else a recorder sweeps those that are due."""
        shares_role = any(heartbeat.role in self._role_names for heartbeat in died)
        if self._pumps is not None and (shares_role or "recorder" in self._role_names):
            self._pumps.start_soon(self._sweep_after_deaths, shares_role)
        if self._orphaned_holds is not None and any(heartbeat.role == "budget" for heartbeat in died):
            self._orphaned_holds.on_budget_died()

    async def _sweep_after_deaths(self, all_runs: bool) -> None:
        try:
            await self.sweep.once(all_runs=all_runs)
        except LinestopError as error:
            LOG.warning("sweep_failed", error=str(error))

    # --- pumps -------------------------------------------------------------------------------------------

    def _start_pumps(self, pumps: anyio.abc.TaskGroup) -> None:
        """Start the loops of the roles that this process has, and those of every process."""
        self._pumps = pumps
        starters: dict[RoleName, Callable[[], None]] = {
            "validator": self._start_validator_pumps,
            "budget": self._start_budget_pumps,
            "recorder": self._start_recorder_pumps,
        }
        for role in self.roles:
            if start := starters.get(role.name):
                start()
            self._listen(role.name, (wake_filter(role.name),), self._on_hint)
            if not self._role_names >= set(ACTORS):
                on_event = partial(self._on_event, role.name)
                self._listen(
                    role.name, live_filters(role.name), on_event, group=role.name, on_loss=self._sweep_after_loss
                )
        first = self.roles[0].name
        self._start_control_pumps(first)
        self._pull(first, stream_names.TIMERS_CONSUMER, self._on_timer)
        self._listen(first, (LIVE_STOPS,), self._on_stop)
        pumps.start_soon(self._refresh_facts)
        pumps.start_soon(self._sweep)

    def _pull(
        self,
        role: RoleName,
        consumer: str,
        handle: Callable[[Delivery], Awaitable[None]],
        capacity: PullCapacity | None = None,
    ) -> None:
        assert self._pumps is not None
        self._pumps.start_soon(self.pumps.pull, role, consumer_spec(consumer), handle, capacity)

    def _listen(
        self,
        role: RoleName,
        filters: tuple[str, ...],
        handle: Callable[[LiveMessage], None],
        *,
        group: str = "",
        on_loss: Callable[[], None] | None = None,
    ) -> None:
        assert self._pumps is not None
        self._pumps.start_soon(partial(self.pumps.listen, role, filters, handle, group=group, on_loss=on_loss))

    def _start_validator_pumps(self) -> None:
        keys = IdempotencyKeys(self.backend.bucket("validator", stream_names.IDS_BUCKET))
        publisher = self.backend.publisher("validator")
        tasks = TaskIntake(self.shell, self.facts, self._stream_space, keys=keys, publisher=publisher)
        self._pull("validator", stream_names.TASKS_CONSUMER, tasks.handle, self.shell.capacity)

    def _start_budget_pumps(self) -> None:
        assert self._pumps is not None
        assert self.ledger is not None
        self._orphaned_holds = OrphanedHolds(
            self.ledger,
            next(s.log for s in self.shell.bindings if s.role.name == "budget"),
            shared=self.backend.bucket("budget", stream_names.SHARED_BUCKET),
            now=self.clock.now,
            may_decide=self._may_decide,
        )
        self._pumps.start_soon(self._orphaned_holds.run_for_ever)

    def _start_recorder_pumps(self) -> None:
        assert self._pumps is not None
        self._pull("recorder", stream_names.SEALED_CONSUMER, self._on_seal)
        log, publisher = self.backend.log("recorder"), self.backend.publisher("recorder")
        self._pumps.start_soon(SpaceWatch(log, publisher, self.config.directory, self.clock.now).run_for_ever)
        if self.archive is not None:
            self._pumps.start_soon(self.archive.run)

    def _start_control_pumps(self, first: RoleName) -> None:
        """Pull stops in every process, and all other control messages where the approver is."""
        role: RoleName = "approver" if "approver" in self._role_names else first
        control = ControlIntake(
            self.shell, self._stream_space, publisher=self.backend.publisher(role), people=self.config.people
        )
        requests = stream_names.REQUESTS_CONSUMERS if role == "approver" else ()
        for _, durable in (*stream_names.STOPS_CONSUMERS, *requests):
            self._pull(role, durable, control.handle)

    async def _on_timer(self, delivery: Delivery) -> None:
        """Handle a durable timer: advance the run, or wake the role that lives elsewhere."""
        subject = parse_timer(delivery.subject)
        role = subject.name.partition("-")[0]
        if role in self._role_names:
            await self.shell.advance(subject.tenant, subject.run, Cue(kind="timer", id=subject.name), fresh=True)
        elif role in ACTORS:
            await self.shell.bindings[0].publisher.wake(role, subject.tenant, subject.run)
        await delivery.ack()

    def _on_event(self, role: RoleName, message: LiveMessage) -> None:
        """Handle an event that another process stored and that wakes ``role`` of this one."""
        subject = parse_run_event(stored_subject(message.subject))
        entry = self.shell.cache.peek(subject.tenant, subject.run)
        if not self._may_decide():
            # This worker was chosen from its group, but its clock is wrong: all workers of the role receive a hint.
            assert self._pumps is not None
            self._pumps.start_soon(self.backend.publisher(role).wake, role, subject.tenant, subject.run)
        elif entry is None or subject.n not in entry.appended_ns:
            event = StoredMessage(subject=stored_subject(message.subject), payload=message.payload, seq=message.seq)
            self.shell.schedule(subject.tenant, subject.run, Cue(kind="event", n=subject.n), event=event)

    def _sweep_after_loss(self) -> None:
        """Sweep all runs soon, because events that wake a role of this process may have been lost."""
        self._losses += 1
        if self._pumps is not None and not self._is_sweep_due:
            self._is_sweep_due = True
            self._pumps.start_soon(self._sweep_until_no_loss)

    async def _sweep_until_no_loss(self) -> None:
        """Sweep after the listeners are back; again if one of them, on its own connection, came back only then."""
        losses = 0
        while losses != self._losses:
            losses = self._losses
            await anyio.sleep(2 * RESTART_PAUSE_S)
            await self.sweep.once_with_retries(all_runs=True)
        self._is_sweep_due = False

    async def _on_seal(self, delivery: Delivery) -> None:
        """Publish the outcome of a sealed run, also if the process that sealed it died before it could."""
        subject = parse_run_event(delivery.subject)
        entry = await self.shell.advance(subject.tenant, subject.run, Cue(kind="event", n=subject.n))
        if entry.run.sealed is not None:
            try:
                await self.shell.outbox.publish_outcome(entry.run)
            except TooLarge as error:
                # OUTCOMES is full: the outcome stays in the log and does not hold up the next one.
                LOG.warning("outcome_waits", run=entry.run.run, error=str(error))
                await delivery.nak(OUTCOME_RETRY_S)
                return
            # Also the alerts of an operator's stop, for which no actor was needed.
            await self.shell.outbox.publish_alerts(
                entry.run, event_alerts(entry.run, since=NEVER, kinds=STOP_ALERT_KINDS)
            )
        await delivery.ack()

    def _on_funds_freed(self, tenant: str, run: str) -> None:
        """Advance a run that waited for money and has room now, here and in any other process with budget."""
        self.shell.schedule(TenantId(tenant), RunId(run), Cue(kind="sweep"), fresh=True)
        if self._pumps is not None:
            self._pumps.start_soon(self.backend.publisher("budget").wake, "budget", TenantId(tenant), RunId(run))

    def _on_stop(self, message: LiveMessage) -> None:
        event = parse_run_event(stored_subject(message.subject))
        entry = self.shell.cache.peek(event.tenant, event.run)
        # An event of this process that is on its way has this number, too; the stop may be why it is never stored.
        if entry is not None and entry.run.n <= event.n:
            # At once: reading the log has to wait for the task that appends now, and no call may begin meanwhile.
            entry.stop_announced = True
            self.shell.schedule(event.tenant, event.run, Cue(kind="event", n=event.n))

    def _on_hint(self, message: LiveMessage) -> None:
        wake = parse_wake(message.subject)
        self.shell.schedule(TenantId(wake.tenant), RunId(wake.run), Cue(kind="sweep"), fresh=True)

    async def _refresh_facts(self) -> None:
        while True:
            is_nearly_full = self.facts.space.used >= SPACE_TO_WATCH
            await anyio.sleep(REFRESH_FACTS_EVERY_S / 10 if is_nearly_full else REFRESH_FACTS_EVERY_S)
            await self.facts.refresh(self.shell.bindings[0].log)

    def _make_sweep(self) -> Sweep:
        binding = next((s for s in self.shell.bindings if s.role.name == "recorder"), self.shell.bindings[0])
        return Sweep(
            shell=self.shell,
            log=binding.log,
            publisher=binding.publisher,
            now=self.clock.now,
            hints_other_processes=not self._role_names >= set(ACTORS),
            every_s=self.config.sweep_every_s,
            is_role_missing=self.presence.roster.is_missing,
        )

    async def _sweep(self) -> None:
        if "recorder" in self._role_names and self.config.sweeping:
            await self.sweep.run_for_ever()
        else:
            # Also without sweeping: the open runs show what this process has to do and which alarms to set.
            await self.sweep.once_with_retries()
