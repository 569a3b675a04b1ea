"""The loops that bring messages to a process: each pulls a durable consumer, or listens to live messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import anyio
import structlog

from linestop.bus.broker_backend import Backend
from linestop.bus.interfaces import Delivery, LiveMessage, PullCapacity
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import SECOND_NS, ConsumerSpec
from linestop.errors import LinestopError, Unreachable
from linestop.runtime.ack_extender import AckExtender
from linestop.schemas.broker_defaults import DELIVERIES_IN_FLIGHT_MAX
from linestop.schemas.subjects import RoleName

LOG = structlog.get_logger("linestop.process")
RESTART_PAUSE_S = 0.5
WRONG_CLOCK_RETRY_S = 2.0
"""Seconds until a control message is delivered again after a process with a wrong clock returned it."""


class Pumps:
    """Pulls and listens for one process. While ``may_decide`` returns False, only stops are pulled."""

    def __init__(self, backend: Backend, may_decide: Callable[[], bool]) -> None:
        self._backend = backend
        self._may_decide = may_decide

    async def pull(
        self,
        role: RoleName,
        spec: ConsumerSpec,
        handle: Callable[[Delivery], Awaitable[None]],
        capacity: PullCapacity | None = None,
    ) -> None:
        """Pull a queue until cancelled, handling several messages at once, and no more than fit."""
        limiter = anyio.Semaphore(DELIVERIES_IN_FLIGHT_MAX)
        extender = AckExtender(spec.config["ack_wait"] / SECOND_NS)

        async def handle_one(delivery: Delivery) -> None:
            try:
                with extender.extending(delivery):
                    await handle(delivery)
            except LinestopError as error:
                LOG.warning("delivery_failed", subject=delivery.subject, error=str(error))
            except Exception:
                # One bad message must not fail the others; unacknowledged, it is delivered again.
                LOG.exception("delivery_failed", subject=delivery.subject)
            finally:
                limiter.release()

        while True:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(extender.run)
                    async for delivery in self._deliveries(role, spec, capacity):
                        await limiter.acquire()
                        tasks.start_soon(handle_one, delivery)
                    tasks.cancel_scope.cancel()
            except* LinestopError as group:
                LOG.warning("pump_failed", consumer=spec.name, error=str(group.exceptions[0]))
            await anyio.sleep(RESTART_PAUSE_S)

    async def listen(
        self,
        role: RoleName,
        filters: tuple[str, ...],
        handle: Callable[[LiveMessage], None],
        *,
        group: str = "",
        on_loss: Callable[[], None] | None = None,
    ) -> None:
        """Hand over live messages until cancelled; ``on_loss`` is called each time after some may have been lost.

        A process that may not decide leaves its ``group``, so that the messages go to another one.
        """
        while True:
            while group and not self._may_decide():  # noqa: ASYNC110 - a clock has no signal of its own
                await anyio.sleep(RESTART_PAUSE_S)
            try:
                async with aclosing(self._backend.live(role, *filters, group=group)) as messages:
                    async for message in messages:
                        self._handle_live(message, handle)
                        if group and not self._may_decide():
                            break
            except Unreachable:
                # Whatever else needs the broker logs the outage; once, and not for each listener.
                LOG.debug("listening_again", filters=filters)
            except LinestopError as error:
                LOG.warning("listen_failed", filters=filters, error=str(error))
            if on_loss is not None:
                on_loss()
            await anyio.sleep(RESTART_PAUSE_S)

    @staticmethod
    def _handle_live(message: LiveMessage, handle: Callable[[LiveMessage], None]) -> None:
        try:
            handle(message)
        except LinestopError as error:
            # A credential of a role may publish on subjects that name no event or run.
            LOG.warning("live_message_failed", subject=message.subject, error=str(error))

    async def _deliveries(
        self, role: RoleName, spec: ConsumerSpec, capacity: PullCapacity | None
    ) -> AsyncGenerator[Delivery]:
        """Yield what is delivered while this process may decide; stops always, since they need no clock."""
        is_control = spec.stream in {stream_names.CONTROL, stream_names.CLIENTS}
        while not (self._may_decide() or is_control):  # noqa: ASYNC110 - a clock has no signal of its own
            await anyio.sleep(RESTART_PAUSE_S)
        queue = self._backend.queue(role, spec)
        async for delivery in queue.deliveries(in_flight_max=DELIVERIES_IN_FLIGHT_MAX, capacity=capacity):
            if self._may_decide() or (is_control and delivery.subject.endswith(".stop")):
                yield delivery
                continue
            await delivery.nak(WRONG_CLOCK_RETRY_S)
            if not is_control:
                # No more is pulled, so that messages go to a process whose clock is right.
                return
