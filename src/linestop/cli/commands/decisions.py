"""Commands with which people decide."""

from __future__ import annotations

import click

from linestop.cli import completion
from linestop.cli.options import common_options, implemented_by, person_options, shown_option


@click.command()
@click.option("--all-tenants", is_flag=True, help="Those of every tenant.")
@common_options
@implemented_by("approvals:approvals")
def approvals() -> None:
    """List the open questions to people, the most urgent first, with exact arguments."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@click.option("--edit", metavar="JSON|FILE", help="Approve the call with these arguments instead.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:approve")
def approve() -> None:
    """Approve CALL of RUN, exactly as it is shown; CALL may be left out if the run has only one open question."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@shown_option
@person_options
@common_options
@implemented_by("approvals:deny")
def deny() -> None:
    """Deny CALL of RUN; the model is told why."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call_and_answer", nargs=-1, required=True, metavar="[CALL] ANSWER")
@click.option("--json-answer", is_flag=True, help="ANSWER is JSON, or a file with JSON.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:answer")
def answer() -> None:
    """Answer a question of RUN's model, or deliver the event that RUN waits for."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("name")
@click.option("--data", metavar="JSON|FILE", help="The data of the event, for the model.")
@person_options
@common_options
@implemented_by("approvals:event")
def event() -> None:
    """Report the event NAME to RUN, which waits for it or will wait for it."""


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("call", default="")
@click.option("--retry", "action", flag_value="retry", help="The call did not take effect: perform it again.")
@click.option("--done", "action", flag_value="done", help="The call took effect: continue the run.")
@click.option("--stop", "action", flag_value="stop", help="End the run.")
@click.option("--result", metavar="JSON|FILE", help="With --done: the result, for the model.")
@shown_option
@person_options
@common_options
@implemented_by("approvals:resolve")
def resolve() -> None:
    """Decide about CALL, whose outcome is unknown: --retry, --done or --stop."""
