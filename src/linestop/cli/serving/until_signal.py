"""Running a process until a signal ends it, and work in it that outlives an unreachable broker."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import structlog

from linestop.cli.serving.event_loop import make_event_loop
from linestop.cli.serving.logs import configure_logs
from linestop.errors import LinestopError

LOG = structlog.get_logger("linestop.processes")
REPEAT_AFTER_S: Final = 1.0


def run_process(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Run ``work`` on uvloop with logs on stderr; its event is set by SIGINT or SIGTERM.

    A second signal cancels the work that the first one let finish. No exit that a tool left behind ends the process.
    """
    configure_logs()
    anyio.run(_run_until_signal, work, backend="asyncio", backend_options={"loop_factory": make_event_loop})


async def _run_until_signal(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    stop_requested = anyio.Event()

    async def listen() -> None:
        async for _ in signals:
            if stop_requested.is_set():
                tasks.cancel_scope.cancel()
            stop_requested.set()

    # Signals are handled from the very start, because a caller may end the process as soon as it reports to be ready.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await work(stop_requested)
            tasks.cancel_scope.cancel()


async def repeat_until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` until it returns; while the broker cannot be reached, start it again every second.

    An error in such work never ends the actors: a crashed broker is restarted. Each new error is logged once.
    """
    last_error = ""
    while True:
        try:
            return await work()
        except LinestopError as error:
            if str(error) != last_error:
                last_error = str(error)
                LOG.warning("started_again", error=last_error)
            await anyio.sleep(REPEAT_AFTER_S)
