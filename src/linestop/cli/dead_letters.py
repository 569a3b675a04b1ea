"""The commands about dead letters: ``dead ls``, ``dead show``, ``dead requeue``."""

from __future__ import annotations

from typing import Any

from linestop.cli import broker_client
from linestop.cli.output import printing, wording
from linestop.client import Client


def ls(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List dead letters, oldest first."""

    async def work(client: Client) -> None:
        dead_letters = await client.dead_letters()
        if options["as_json"]:
            printing.print_json(dead_letters)
        elif dead_letters:
            rows = [
                (str(each.seq), each.role, each.tenant, each.run, wording.short(each.reason)) for each in dead_letters
            ]
            printing.print_table(("dead letter", "role", "tenant", "run", "reason"), rows, wrap=("reason",))
        else:
            printing.note("There are no dead letters.")

    broker_client.with_client(options["directory"], work)


def show(dead_letter_seq: int, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Show one dead letter in full."""

    async def work(client: Client) -> None:
        dead_letter = await client.dead_letter(dead_letter_seq)
        if options["as_json"]:
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

    broker_client.with_client(options["directory"], work)


def requeue(dead_letter_seq: int, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Send the message of a dead letter again, or make its role process the run again; the dead letter stays."""

    async def work(client: Client) -> None:
        dead_letter = await client.requeue(dead_letter_seq)
        if options["as_json"]:
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

    broker_client.with_client(options["directory"], work)
