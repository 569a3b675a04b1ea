"""Commands about runs: ``run``, ``runs``, ``show``, ``events``, ``watch``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from linestop.cli import completion
from linestop.cli.options import WholeNumber, common_options
from linestop.cli.run_argument import run_argument

if TYPE_CHECKING:
    from linestop.client import Client, Submitted

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
def run(
    agent: str,
    text: str,
    *,
    key: str,
    user: str,
    material: str,
    detach: bool,
    wait_s: float | None,
    dry_run: bool,
    scope: tuple[str, ...],
    limits: tuple[str, ...],
    directory: Path,
    tenant: str,
    as_json: bool,
) -> None:
    """Give AGENT the task TEXT (`-` reads it from stdin) and print its answer.

    The run's events are printed on stderr. If the run waits for a person and there is no terminal, the command
    prints how to decide and ends with exit code 6; the run keeps waiting.
    """
    from linestop.cli import broker_client, command_input, exit_codes
    from linestop.cli.output import printing
    from linestop.cli.runs.follow_run import RunFollower
    from linestop.client import Submitted
    from linestop.client.client import TaskOptions
    from linestop.client.sender import run_id_for

    task = TaskOptions(
        key=key,
        user=user,
        submitter="cli",
        dry_run=dry_run,
        scope=scope or None,
        limits=command_input.limits(limits),
        material=command_input.material(material),
    )
    body = command_input.text_from_stdin() if text == "-" else text
    # Known before the task is sent, so that a person who interrupts the command can find the run and stop it.
    submitted = Submitted(run=run_id_for(tenant, key), status="kept")
    task["run"] = "" if key else submitted.run
    is_connected = False

    async def work(client: Client) -> int:
        nonlocal submitted, is_connected
        is_connected = True
        submitted = await client.submit(agent, body, tenant=tenant, **task)
        if submitted.sentence and submitted.status == "kept":
            printing.note(submitted.sentence)
        if detach:
            return _print_submitted(submitted, as_json=as_json)
        return await RunFollower(client, directory, tenant=tenant, as_json=as_json).run(submitted.run, wait_s)

    try:
        code = broker_client.with_client(directory, work, as_="client")
    except KeyboardInterrupt:
        if is_connected:
            _note_interrupted(submitted, tenant)
        raise
    exit_codes.exit_with(code)


def _note_interrupted(submitted: Submitted, tenant: str) -> None:
    """Print how to follow and how to stop the run of an interrupted command."""
    from linestop.cli.output import printing, wording

    run = submitted.run
    target = run + wording.for_tenant(tenant)
    if submitted.status == "kept":
        printing.note(
            f"The task may be stored as run {run} and begin later: `linestop watch {target}` follows it, "
            f"`linestop stop {target} --beforehand` stops it, whether it has begun or not."
        )
    else:
        printing.note(
            f"Run {run} is still running: `linestop watch {target}` follows it, `linestop stop {target}` ends it."
        )


def _print_submitted(submitted: Submitted, *, as_json: bool) -> int:
    from linestop.cli import exit_codes
    from linestop.cli.output import printing

    if as_json:
        printing.print_json(submitted)
    else:
        printing.print_text(submitted.run)
        if submitted.status == "refused":
            printing.note(submitted.sentence)
    return exit_codes.EXIT_FAILED if submitted.status == "refused" else exit_codes.EXIT_DONE


@click.command()
@click.option("--open", "open_only", is_flag=True, help="Only runs that are not over.")
@click.option("--all-tenants", is_flag=True, help="Those of every tenant.")
@click.option(
    "--limit", type=WholeNumber(1, 1_000), default=50, show_default=True, help="Number of runs, newest first."
)
@common_options
def runs(*, open_only: bool, all_tenants: bool, limit: int, directory: Path, tenant: str, as_json: bool) -> None:
    """List the newest runs."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing
    from linestop.cli.runs.run_list import note_closed_switches, print_runs

    async def work(client: Client) -> None:
        lines = await client.runs(limit=limit, open_only=open_only, tenant="" if all_tenants else tenant)
        if as_json:
            printing.print_json(lines)
            return
        await note_closed_switches(client)
        if lines:
            print_runs(lines)
        else:
            whose = "" if all_tenants else f" of tenant '{tenant}'"
            printing.note(f"There are no{' open' if open_only else ''} runs{whose}.")

    broker_client.with_client(directory, work, as_="client")


@click.command()
@run_argument
@common_options
def show(run: str, *, directory: Path, tenant: str, as_json: bool) -> None:
    """Show RUN: its task, events, calls with their outcomes, cost and holds, and what it waits for."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing
    from linestop.cli.runs.run_report import print_run, run_document

    async def work(client: Client) -> None:
        state = await client.run(run, tenant=tenant)
        questions, waits = await client.questions_of(state), await client.waits_of(state)
        if as_json:
            printing.print_json({**run_document(state, questions), "waits": waits})
        else:
            print_run(state, questions, waits)

    broker_client.with_client(directory, work, as_="client")


@click.command()
@run_argument
@click.option("--after", "after_n", type=WholeNumber(min=0), default=0, help="Only the events after this number.")
@click.option("--follow", is_flag=True, help="Continue until the run is sealed.")
@common_options
def events(run: str, *, after_n: int, follow: bool, directory: Path, tenant: str, as_json: bool) -> None:
    """Print the events of RUN, one per line; with --json each with all its data."""
    from linestop.cli import broker_client
    from linestop.cli.runs.print_events import note_if_absent, print_events

    async def work(client: Client) -> None:
        if follow:
            await note_if_absent(client, run, tenant)
        entries = client.watch(run, after_n=after_n, follow=follow, tenant=tenant)
        await print_events(client, entries, as_json=as_json)

    broker_client.with_client(directory, work, as_="client")


@click.command()
@run_argument
@common_options
def watch(run: str, *, directory: Path, tenant: str, as_json: bool) -> None:
    """Print the events of RUN from the first until it is sealed; the exit code tells how it ended."""
    from linestop.cli import broker_client, exit_codes
    from linestop.cli.runs.print_events import note_if_absent, print_events

    async def work(client: Client) -> str:
        await note_if_absent(client, run, tenant)
        entries = client.watch(run, tenant=tenant)
        return await print_events(client, entries, as_json=as_json, with_questions=True)

    status = broker_client.with_client(directory, work, as_="client")
    exit_codes.exit_with(exit_codes.EXIT_CODE_BY_STATUS.get(status, exit_codes.EXIT_FAILED))
