"""Commands of people who decide."""

from __future__ import annotations

import click

from linestop.cli import completion
from linestop.cli.options import common_options, implemented_by, person_options, shown_option


@click.command()
@click.option("--all-tenants", is_flag=True, help="Of every tenant.")
@common_options
@implemented_by("approvals:approvals")
def approvals() -> None:
    """List what waits for a person, the most urgent first, with exact arguments."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@click.option("--edit", metavar="JSON|FILE", help="Approve the call with these arguments instead.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:approve")
def approve() -> None:
    """Agree to CALL of RUN, exactly as it is shown; CALL may be left out if the run asks one thing only."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@shown_option
@person_options
@common_options
@implemented_by("approvals:deny")
def deny() -> None:
    """Refuse CALL of RUN; the model is told why."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call_and_answer", nargs=-1, required=True, metavar="[CALL] ANSWER")
@click.option("--json-answer", is_flag=True, help="ANSWER is JSON, or a file with JSON.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:answer")
def answer() -> None:
    """Answer a question of RUN's model, or deliver the event it waits for."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("name")
@click.option("--data", metavar="JSON|FILE", help="What the model is told of it.")
@person_options
@common_options
@implemented_by("approvals:event")
def event() -> None:
    """Report the event NAME to RUN, which waits for it or will."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@click.option("--retry", "action", flag_value="retry", help="It did not happen: do it again.")
@click.option("--done", "action", flag_value="done", help="It happened: go on.")
@click.option("--stop", "action", flag_value="stop", help="End the run over it.")
@click.option("--result", metavar="JSON|FILE", help="With --done: what the model is told.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:resolve")
def resolve() -> None:
    """Say what became of CALL, whose fate nobody knows: --retry, --done or --stop."""
