"""Commands about runs."""

from __future__ import annotations

import math
from typing import Final

import click

from linestop.cli import completion
from linestop.cli.options import WholeNumber, common_options, implemented_by, person_options

STOP_MODES: Final = ("fence", "drain")
UNLIMITED: Final = "inf"


def _seconds(_ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """The seconds to wait; None, without a limit, if the option or its number is missing."""
    try:
        seconds = float(UNLIMITED if value is None else value)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds) or seconds < 0:
        message = f"{value!r} is not a number of seconds: write --wait=30, or --wait alone behind AGENT and TEXT."
        raise click.BadParameter(message, param=param)
    return None if math.isinf(seconds) else seconds


@click.command()
@click.argument("agent", shell_complete=completion.agents)
@click.argument("text")
@click.option("--key", default="", help="Idempotency key: for 90 days the same key and task are the same run.")
@click.option("--user", default="", help="The user on whose behalf the run works, with a daily budget.")
@click.option(
    "--material",
    default="",
    metavar="FILE",
    help="A text file that the task is about: shown to the model as data, and never trusted.",
)
@click.option("--detach", is_flag=True, help="Print the run's id and end as soon as the task is accepted.")
@click.option(
    "--wait",
    "wait_s",
    is_flag=False,
    flag_value=UNLIMITED,
    callback=_seconds,
    metavar="[SECONDS]",
    help="Wait for the outcome, which is the default; with a number, at most that many seconds (exit code 10).",
)
@click.option("--dry-run", is_flag=True, help="Effects above `read` are described, not performed.")
@click.option("--scope", multiple=True, metavar="TOOL", help="Allow only this tool of the agent's; may be repeated.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Lower a limit; may be repeated.")
@common_options
@implemented_by("runs.follow_run:run")
def run() -> None:
    """Give AGENT the task TEXT (`-` reads it from stdin) and print its answer.

    The run's events are printed on stderr. If the run waits for a person and there is no terminal, the command
    prints how to decide and ends with exit code 6; the run keeps waiting.
    """


@click.command()
@click.option("--open", "open_only", is_flag=True, help="Only runs that are not over.")
@click.option("--all-tenants", is_flag=True, help="Those of every tenant.")
@click.option(
    "--limit", type=WholeNumber(1, 1_000), default=50, show_default=True, help="Number of runs, newest first."
)
@common_options
@implemented_by("runs.follow_run:runs")
def runs() -> None:
    """List the newest runs."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@common_options
@implemented_by("runs.run_report:show")
def show() -> None:
    """Show RUN: its task, events, calls with their outcomes, cost and holds, and what it waits for."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option("--after", "after_n", type=WholeNumber(min=0), default=0, help="Only the events after this number.")
@click.option("--follow", is_flag=True, help="Continue until the run is sealed.")
@common_options
@implemented_by("events:events")
def events() -> None:
    """Print the events of RUN, one per line; with --json each with all its data."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@common_options
@implemented_by("events:watch")
def watch() -> None:
    """Print the events of RUN from the first until it is sealed; the exit code tells how it ended."""


@click.command()
@click.argument("run", default="", shell_complete=completion.runs)
@click.option("--all", "all_runs", is_flag=True, help="Every open run, of every tenant unless --tenant is given.")
@click.option("--agent", default="", shell_complete=completion.agents, help="Every open run of this agent.")
@click.option("--user", default="", help="Every open run on behalf of this user.")
@click.option("--tool", default="", help="Every open run that may use this tool.")
@click.option(
    "--mode",
    type=click.Choice(STOP_MODES),
    default="fence",
    show_default=True,
    help="Calls that have started: `fence` cancels them now, `drain` lets them end.",
)
@click.option("--beforehand", is_flag=True, help="RUN need not exist yet: a task that arrives for it is refused.")
@person_options
@common_options
@implemented_by("runs.stop_runs:stop")
def stop() -> None:
    """Stop RUN; once this returns, none of its calls or requests can start any more.

    Works with no actor alive. The receipt lists the calls and requests that have started and are not known to be
    over. A RUN that does not exist is stopped with --beforehand only. Without RUN, the open runs of --all, --agent,
    --user, --tool or --tenant are stopped; `linestop switch close` refuses new ones.
    """


@click.command()
@click.argument("run", shell_complete=completion.runs)
@person_options
@common_options
@implemented_by("runs.follow_run:pause")
def pause() -> None:
    """Pause RUN: none of its calls or requests start until it is resumed; its deadlines still apply."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@person_options
@common_options
@implemented_by("runs.follow_run:resume")
def resume() -> None:
    """Continue a paused RUN."""
