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
    """How long to wait; None, for ever, without the option or without a number."""
    try:
        seconds = float(UNLIMITED if value is None else value)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds) or seconds < 0:
        message = f"{value!r} is no number of seconds: write --wait=30, or --wait alone behind AGENT and TEXT."
        raise click.BadParameter(message, param=param)
    return None if math.isinf(seconds) else seconds


@click.command()
@click.argument("agent", shell_complete=completion.agents)
@click.argument("text")
@click.option("--key", default="", help="Makes it idempotent: the same key and task are the same run, for 90 days.")
@click.option("--user", default="", help="On whose behalf, for that user's daily budget.")
@click.option(
    "--material",
    default="",
    metavar="FILE",
    help="A text file that the task is about: shown to the model as data, and never trusted.",
)
@click.option("--detach", is_flag=True, help="Print the run's id and leave as soon as the task is let in.")
@click.option(
    "--wait",
    "wait_s",
    is_flag=False,
    flag_value=UNLIMITED,
    callback=_seconds,
    metavar="[SECONDS]",
    help="Wait for the outcome, as it does anyway; with a number at most so long (exit code 10).",
)
@click.option("--dry-run", is_flag=True, help="Effects above `read` are described, not done.")
@click.option("--scope", multiple=True, metavar="TOOL", help="Allow only this tool of the agent's; may be repeated.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="Lower a limit; may be repeated.")
@common_options
@implemented_by("runs:run")
def run() -> None:
    """Give AGENT the task TEXT (`-` reads it from stdin) and print its answer.

    The run's log goes to stderr while it lasts. If it comes to wait for a person and nobody sits at a
    terminal, the command ends with exit code 6 and says how to decide; the run goes on waiting.
    """


@click.command()
@click.option("--open", "open_only", is_flag=True, help="Only runs that are not over.")
@click.option("--all-tenants", is_flag=True, help="Of every tenant.")
@click.option("--limit", type=WholeNumber(1, 1_000), default=50, show_default=True, help="How many, newest first.")
@common_options
@implemented_by("runs:runs")
def runs() -> None:
    """List the runs begun last, newest first."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@common_options
@implemented_by("show:show")
def show() -> None:
    """Show RUN: what it is, what happened, what became of its calls, what it cost and what it holds."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.option("--after", "after_n", type=WholeNumber(min=0), default=0, help="Only what comes after this event.")
@click.option("--follow", is_flag=True, help="Go on until the run is sealed.")
@common_options
@implemented_by("events:events")
def events() -> None:
    """Print the events of RUN, one a line; with --json each with all its data."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@common_options
@implemented_by("events:watch")
def watch() -> None:
    """Follow RUN as it happens, from its beginning until it is sealed; the exit code says how it ended."""


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
    help="What was started before: `fence` cancels it now, `drain` lets it end.",
)
@click.option("--beforehand", is_flag=True, help="RUN need not exist yet: a task that comes for it is refused.")
@person_options
@common_options
@implemented_by("stop:stop")
def stop() -> None:
    """Stop RUN; when this returns, nothing of it can start any more.

    Works with no actor alive. The receipt lists what was started before and is not known to be over. A RUN that does
    not exist is stopped with --beforehand only. Without RUN,
    --all, --agent, --user, --tool or --tenant says which open runs are stopped; `linestop switch close` keeps new ones
    from coming.
    """


@click.command()
@click.argument("run", shell_complete=completion.runs)
@person_options
@common_options
@implemented_by("runs:pause")
def pause() -> None:
    """Hold RUN: nothing of it starts until it is resumed; deadlines go on."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@person_options
@common_options
@implemented_by("runs:resume")
def resume() -> None:
    """Let a paused RUN go on."""
