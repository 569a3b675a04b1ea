"""``linestop demo``: three short stories on real parts, which check themselves.

``shop`` is the world outside, ``tools`` reach it, ``stage`` builds everything, ``stories`` tell, ``screen``
and ``lines`` show.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio
import click
import structlog

from linestop.cli.closed_pipes import until_reader_is_gone
from linestop.cli.demo.screen import JsonScreen, Screen
from linestop.cli.demo.stage import set_stage
from linestop.cli.demo.stories import loop, refund, stop

__all__ = ["demo"]

NEXT_STEPS: Final = """\
What to try next:
  mkdir ~/shop && cd ~/shop
  linestop dev                           all on this machine; Ctrl-C ends it
  linestop run hello "What time is it?"  in another terminal: a task
  linestop runs · show RUN · watch RUN   what happened, and what it cost
  linestop stop RUN --why "..."          pull the line
Then write an agent of your own: agents/<name>.toml with its prompt beside it,
tools in a Python file, a real model's name instead of playbook/…;
examples/support is a project to start from."""


def demo(*, as_json: bool) -> None:
    """Three short stories on real parts: a refund that survives a kill, a loop that is ended, a stopped run."""
    # What is killed and stopped on purpose would be reported as trouble.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    screen = JsonScreen() if as_json else Screen()
    anyio.run(_run_until_signal, screen, backend_options={"use_uvloop": True})


async def _run_until_signal(screen: Screen) -> None:
    """Tell; a signal other than Ctrl-C ends it as Ctrl-C does, so that nothing is left behind.

    Raises:
        Abort: it was ended.
        BrokenPipeError: whoever read what is told is gone; perhaps in a group.
    """
    signals_received: list[signal.Signals] = []

    async def listen() -> None:
        async for number in signals:
            signals_received.append(number)
            tasks.cancel_scope.cancel()

    async def end() -> None:
        await until_reader_is_gone()
        raise BrokenPipeError

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            tasks.start_soon(end)
            await run_stories(screen)
            tasks.cancel_scope.cancel()
    if signals_received:
        raise click.Abort


async def run_stories(screen: Screen) -> None:
    """Tell all three stories.

    Raises:
        Untold: if one did not end as it is told.
    """
    started_s = time.monotonic()
    screen.note("Starting a broker, five actors here, the executor as a process of its own, and a small shop …")
    with tempfile.TemporaryDirectory(prefix="linestop-demo-") as folder:
        async with set_stage(Path(folder)) as stage:
            screen.note(
                f"ready after {time.monotonic() - started_s:.1f} s. The models are scripts; prices are examples."
            )
            for story in (refund, loop, stop):
                await story(stage, screen)
    screen.end(time.monotonic() - started_s, what_next=_next_steps())


def _next_steps() -> str:
    """What to try, and how to reach the command if this shell does not know it."""
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("linestop") or not activate.exists():
        return NEXT_STEPS
    first, _, rest = NEXT_STEPS.partition("\n")
    return f"{first}\n  . {activate}\n{rest}"
