"""``linestop demo``: three short stories on real parts, which check themselves.

``shop`` is the outside service, ``tools`` call it, ``stage`` starts every process, ``stories`` run and check the three
stories, ``screen`` and ``lines`` print them.
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

from linestop.cli.demo.processes import set_stage
from linestop.cli.demo.screen import JsonScreen, Screen
from linestop.cli.demo.stories import loop, refund, stop
from linestop.cli.output.closed_pipes import until_reader_is_gone

__all__ = ["tell_stories"]

NEXT_STEPS: Final = """\
What to try next:
  mkdir ~/shop && cd ~/shop
  linestop dev                           all on this machine; Ctrl-C ends it
  linestop run hello "What time is it?"  in another terminal: a task
  linestop runs · show RUN · watch RUN   what happened, and what it cost
  linestop stop RUN --why "..."          stop the run
Then write an agent of your own: agents/<name>.toml with its prompt beside it,
tools in a Python file, a real model's name instead of playbook/…;
examples/support is a project to start from."""


def tell_stories(*, as_json: bool) -> None:
    """Three short stories on real parts: a refund that survives a kill, a loop that is ended, a stopped run."""
    # The demo kills and stops on purpose, which would be logged as errors.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    screen = JsonScreen() if as_json else Screen()
    anyio.run(_run_until_signal, screen, backend_options={"use_uvloop": True})


async def _run_until_signal(screen: Screen) -> None:
    """Run the stories; SIGTERM and SIGHUP end the demo like Ctrl-C, so that nothing is left behind.

    Raises:
        Abort: a signal ended the demo.
        BrokenPipeError: the reader of the output is gone; perhaps in an exception group.
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
    """Run all three stories.

    Raises:
        StoryFailed: a story did not end as expected.
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
    """The next steps, with the command that activates the environment if the shell does not find `linestop`."""
    activate = Path(sys.prefix) / "bin" / "activate"
    if shutil.which("linestop") or not activate.exists():
        return NEXT_STEPS
    first, _, rest = NEXT_STEPS.partition("\n")
    return f"{first}\n  . {activate}\n{rest}"
