"""Commands about dead letters: ``dead ls``, ``dead show``, ``dead requeue``."""

from __future__ import annotations

from pathlib import Path

import click

from linestop.cli.options import WholeNumber, common_options


@click.group()
def dead() -> None:
    """Show messages that could not be handled, and send them again."""


@dead.command("ls")
@common_options
def ls(*, directory: Path, tenant: str, as_json: bool) -> None:
    """List dead letters, oldest first."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing, wording

    del tenant
    dead_letters = broker_client.with_client(directory, lambda client: client.dead_letters())
    if as_json:
        printing.print_json(dead_letters)
    elif dead_letters:
        rows = [(str(each.seq), each.role, each.tenant, each.run, wording.short(each.reason)) for each in dead_letters]
        printing.print_table(("dead letter", "role", "tenant", "run", "reason"), rows, wrap=("reason",))
    else:
        printing.note("There are no dead letters.")


@dead.command("show")
@click.argument("dead_letter_seq", metavar="LETTER", type=WholeNumber(min=1))
@common_options
def show(dead_letter_seq: int, *, directory: Path, tenant: str, as_json: bool) -> None:
    """Show one dead LETTER in full."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing

    del tenant
    dead_letter = broker_client.with_client(directory, lambda client: client.dead_letter(dead_letter_seq))
    if as_json:
        printing.print_json(dead_letter)
        return
    printing.print_text(f"number   {dead_letter.seq}, stored at {dead_letter.at}")
    printing.print_text(f"role     {dead_letter.role}")
    printing.print_text(f"run      {dead_letter.run} (tenant {dead_letter.tenant})")
    printing.print_text(f"reason   {dead_letter.reason}")
    if dead_letter.subject:
        printing.print_text(f"subject  {dead_letter.subject}")
        printing.print_text(f"payload  {dead_letter.payload}")
    for name, value in dead_letter.more.items():
        printing.print_text(f"{name:<8} {value}")


@dead.command("requeue")
@click.argument("dead_letter_seq", metavar="LETTER", type=WholeNumber(min=1))
@common_options
def requeue(dead_letter_seq: int, *, directory: Path, tenant: str, as_json: bool) -> None:
    """Send the message of a dead LETTER again, or make its role process the run again; the dead letter stays."""
    from linestop.cli import broker_client
    from linestop.cli.output import printing

    del tenant
    dead_letter = broker_client.with_client(directory, lambda client: client.requeue(dead_letter_seq))
    if as_json:
        printing.print_json(
            {"letter": dead_letter.seq, "requeued": True, "run": dead_letter.run, "subject": dead_letter.subject}
        )
        return
    consequence = (
        f"'{dead_letter.subject}' was sent again"
        if dead_letter.subject
        else f"the {dead_letter.role} processes run {dead_letter.run} again"
    )
    printing.print_text(f"Dead letter {dead_letter.seq}: {consequence}.")
