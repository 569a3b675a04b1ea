"""Triggers: a test's process kills or freezes itself, or kills the broker, at one given moment of one run.

A run whose id is a ``Trigger`` names the moment. The classes here wrap the interfaces that a role uses (its log, its
queues); the roles and the shell are the real ones.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.interfaces import Append, Delivery, LiveMessage, Log, OnSent, PullCapacity, Queue
from linestop.bus.streams.stream_definitions import ConsumerSpec
from linestop.schemas.broker_defaults import DELIVERIES_IN_FLIGHT_MAX
from linestop.schemas.messages import Task
from linestop.schemas.subjects import RoleName, RunId, TenantId, parse_run_event, parse_timer, stored_subject

Moment = Literal["before", "after", "freeze", "stall", "sending", "taken", "unacked", "acked"]
"""When the trigger fires.

- ``before`` the victim's own event is sent; ``after`` it is acknowledged, and before the victim continues.
- ``freeze`` is ``before`` and ``stall`` is ``after``, with SIGSTOP; ``sending``: SIGSTOP, in the tool that ``event``
  names, right before it sends its request.
- A delivery to the victim is ``taken`` and not handled yet; it is handled and ``unacked``; it is ``acked``.
"""

FREEZES = frozenset({"freeze", "stall", "sending"})
ANY_RECEIVER = "anybody"
"""As the victim of a delivery: the process that gets it, for consumers that several processes share."""

_TRIGGER = re.compile(rf"t[0-9]+-({'|'.join(get_args(Moment))})-([a-z]+)-([a-z]+)-([0-9]+)-([a-z]+)")


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """Which process to kill and when: at the ``count``-th event of this name in the run, counted from 1.

    For a delivery from outside the run log, ``role`` and ``event`` are ``client`` and ``task``, ``person`` and
    the verb, or ``timer`` and ``fired``.
    """

    when: Moment
    role: str
    event: str
    count: int = 1
    victim: str

    @classmethod
    def of(cls, run: str) -> Trigger | None:
        """The trigger that a run's id names, if any."""
        match = _TRIGGER.fullmatch(run)
        if match is None:
            return None
        when = cast("Moment", match[1])
        return cls(when=when, role=match[2], event=match[3], count=int(match[4]), victim=match[5])

    def run(self, number: int) -> str:
        """A run id that names this trigger."""
        return f"t{number}-{self.when}-{self.role}-{self.event}-{self.count}-{self.victim}"

    def fire(self, run: str, directory: Path) -> None:
        """Kill the victim; the mark proves that it happened, and prevents a second time."""
        victim = os.getpid()
        if self.victim == "broker":
            victim = int((directory / "broker.pid").read_text())
        draft = mark(run, directory).with_name(f"{run}.{os.getpid()}")
        draft.write_text(str(victim))
        try:
            # A link appears whole or not at all, so a reader of the mark always finds an id.
            os.link(draft, mark(run, directory))
        except FileExistsError:
            return
        os.kill(victim, signal.SIGSTOP if self.when in FREEZES else signal.SIGKILL)


def mark(run: str, directory: Path) -> Path:
    """The file that records that a run's trigger has fired, and which process it killed."""
    return directory / "fired" / run


ARRIVES_WITHIN_S = 0.15
"""How long a reply of a server on this machine may take, much less than the time-out of a tool."""


class TriggeredLog:
    """A log that fires the trigger of a run's id, once a run."""

    def __init__(self, inner: Log, directory: Path) -> None:
        self._inner = inner
        self.directory = directory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, append: Append, *, on_sent: OnSent | None = None) -> int:
        """Append, with the trigger's crash before or after."""
        trigger = Trigger.of(append.run)
        if trigger is None or not await self._armed(trigger, append):
            return await self._inner.append(append, on_sent=on_sent)
        if trigger.when in {"after", "stall"}:
            seq = await self._inner.append(append, on_sent=on_sent)
            trigger.fire(append.run, self.directory)
            return seq
        if trigger.victim != "broker":
            if trigger.when == "freeze":
                # What is on its way to other calls of the run arrives first: it would be too late after the freeze.
                await asyncio.sleep(ARRIVES_WITHIN_S)
            trigger.fire(append.run, self.directory)
            return await self._inner.append(append, on_sent=on_sent)
        appending = asyncio.ensure_future(self._inner.append(append, on_sent=on_sent))
        # One turn of the loop, so that the request is written and not yet answered.
        await asyncio.sleep(0)
        trigger.fire(append.run, self.directory)
        return await appending

    async def _armed(self, trigger: Trigger, append: Append) -> bool:
        moments = {"before", "after", "freeze", "stall"}
        if trigger.when not in moments or (append.role, append.event) != (trigger.role, trigger.event):
            return False
        if mark(append.run, self.directory).exists():
            return False
        stored = await self._inner.load(append.tenant, append.run)
        same = f".{append.role}.{append.event}."
        return sum(same in message.subject for message in stored) == trigger.count - 1


class DeliveryTopic(msgspec.Struct, frozen=True, kw_only=True):
    """The topic of a delivery: which role or person sends which event of which run; ``n`` is 0 if it has no number."""

    tenant: TenantId
    run: RunId
    role: str
    event: str
    n: int = 0

    @classmethod
    def of_event(cls, subject: str) -> DeliveryTopic:
        """The topic of an event of a run."""
        event = parse_run_event(subject)
        return cls(tenant=event.tenant, run=event.run, role=event.role, event=event.event, n=event.n)

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryTopic | None:
        """The topic of a delivery, None if it has no run."""
        kind, *tokens = delivery.subject.split(".")
        match kind, tokens:
            case "runs", _:
                return cls.of_event(delivery.subject)
            case "tasks", [tenant, _]:
                run = msgspec.json.decode(delivery.payload, type=Task).run
                return cls(tenant=TenantId(tenant), run=RunId(run), role="client", event="task")
            case "control", [tenant, run, verb]:
                return cls(tenant=TenantId(tenant), run=RunId(run), role="person", event=verb)
            case "timers", _:
                timer = parse_timer(delivery.subject)
                return cls(tenant=timer.tenant, run=timer.run, role="timer", event="fired")
            case _:
                return None


class TriggeredDelivery:
    """A delivery that fires around its acknowledgement: before it, or after ``after_ack`` proved that it was sent."""

    def __init__(
        self, inner: Delivery, *, fire: Callable[[], None], after_ack: Callable[[], Awaitable[object]] | None
    ) -> None:
        self._inner = inner
        self._fire = fire
        self._after_ack = after_ack

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def ack(self) -> None:
        """Acknowledge, with the trigger's crash before or after."""
        if self._after_ack is None:
            self._fire()
        await self._inner.ack()
        if self._after_ack is not None:
            await self._after_ack()
            self._fire()


class TriggeredQueue:
    """A queue that fires the trigger of a run's id, once a run."""

    def __init__(self, inner: Queue, role: RoleName, log: TriggeredLog, directory: Path) -> None:
        self._inner = inner
        self._role = role
        self._log = log
        self._directory = directory

    async def deliveries(
        self, *, in_flight_max: int = DELIVERIES_IN_FLIGHT_MAX, capacity: PullCapacity | None = None
    ) -> AsyncGenerator[Delivery]:
        """Yield the deliveries; the trigger's delivery may be the last."""
        inner_deliveries = cast(
            "AsyncGenerator[Delivery]", self._inner.deliveries(in_flight_max=in_flight_max, capacity=capacity)
        )
        async with aclosing(inner_deliveries):
            async for delivery in inner_deliveries:
                topic = DeliveryTopic.of(delivery)
                trigger = Trigger.of(topic.run) if topic is not None else None
                if topic is None or trigger is None or not await is_armed(trigger, topic, self._role, self._log):
                    yield delivery
                    continue
                fire = partial(trigger.fire, topic.run, self._directory)
                if trigger.when == "taken":
                    fire()
                # An acknowledgement has no reply; a later reply on the same connection proves that it was sent.
                after_ack = partial(self._log.load, topic.tenant, topic.run) if trigger.when == "acked" else None
                yield cast("Delivery", TriggeredDelivery(delivery, fire=fire, after_ack=after_ack))


async def is_armed(trigger: Trigger, topic: DeliveryTopic, role: str, log: TriggeredLog) -> bool:
    """Whether the trigger fires when ``role`` receives this."""
    if trigger.when not in {"taken", "unacked", "acked"} or trigger.victim not in {role, ANY_RECEIVER}:
        return False
    if (topic.role, topic.event) != (trigger.role, trigger.event) or mark(topic.run, log.directory).exists():
        return False
    if not topic.n:
        return True
    stored = [parse_run_event(message.subject) for message in await log.load(topic.tenant, topic.run)]
    same = [e.n for e in stored if (e.role, e.event) == (topic.role, topic.event)]
    return same[trigger.count - 1 : trigger.count] == [topic.n]


class TriggeredBackend(JetStreamBackend):
    """The real backend with triggered logs, queues and live events."""

    directory = Path()

    def log(self, role: RoleName) -> Log:
        """The run log for ``role``."""
        return cast("Log", self._log(role))

    def queue(self, role: RoleName, spec: ConsumerSpec) -> Queue:
        """A durable consumer, pulled with the credential of ``role``."""
        return TriggeredQueue(super().queue(role, spec), role, self._log(role), self.directory)

    async def live(self, role: RoleName, *filters: str, group: str = "") -> AsyncGenerator[LiveMessage]:
        """Live messages; the event that the trigger names, if it wakes its victim, may be the last."""
        async with aclosing(super().live(role, *filters, group=group)) as messages:
            async for message in messages:
                if group:
                    topic = DeliveryTopic.of_event(stored_subject(message.subject))
                    trigger = Trigger.of(topic.run)
                    if trigger is not None and await is_armed(trigger, topic, role, self._log(role)):
                        trigger.fire(topic.run, self.directory)
                yield message

    def _log(self, role: RoleName) -> TriggeredLog:
        return TriggeredLog(super().log(role), self.directory)
