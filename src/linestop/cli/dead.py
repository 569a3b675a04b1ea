"""The commands about dead letters: ``dead ls``, ``dead show``, ``dead requeue``."""

from __future__ import annotations

from typing import Any

from linestop.cli import output
from linestop.client import Client


def ls(**options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List dead letters, oldest first."""

    async def work(client: Client) -> None:
        letters = await client.dead_letters()
        if options["as_json"]:
            output.say_json(letters)
        elif letters:
            rows = [(str(each.seq), each.role, each.tenant, each.run, output.short(each.reason)) for each in letters]
            output.say_table(("letter", "role", "tenant", "run", "reason"), rows, fold=("reason",))
        else:
            output.note("There are no dead letters.")

    output.with_client(options["directory"], work)


def show(letter: int, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Show one dead LETTER whole."""

    async def work(client: Client) -> None:
        found = await client.dead_letter(letter)
        if options["as_json"]:
            output.say_json(found)
            return
        output.say(f"letter   {found.seq}, of {found.at}")
        output.say(f"role     {found.role}")
        output.say(f"run      {found.run} (tenant {found.tenant})")
        output.say(f"reason   {found.reason}")
        if found.subject:
            output.say(f"subject  {found.subject}")
            output.say(f"payload  {found.payload}")
        for name, value in found.more.items():
            output.say(f"{name:<8} {value}")

    output.with_client(options["directory"], work)


def requeue(letter: int, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Send the message of a dead LETTER again, or let its role look at the run again; the letter stays."""

    async def work(client: Client) -> None:
        found = await client.requeue(letter)
        if options["as_json"]:
            output.say_json({"letter": found.seq, "requeued": True, "run": found.run, "subject": found.subject})
            return
        what = f"'{found.subject}' was sent again" if found.subject else f"{found.role} looks at run {found.run} again"
        output.say(f"Letter {found.seq}: {what}.")

    output.with_client(options["directory"], work)
