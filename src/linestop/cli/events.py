"""The commands that print a run's log: ``events`` and ``watch``."""

from __future__ import annotations

import contextlib
from typing import Any

from linestop.cli import approval_questions, broker_client, exit_codes
from linestop.cli.output import printing, timeline
from linestop.cli.runs.run_report import entry_document
from linestop.client import Client
from linestop.errors import NotFound


def events(run: str, *, after_n: int, follow: bool, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Print the events of RUN, one per line; with --json each with all its data."""

    async def work(client: Client) -> None:
        if follow:
            await _note_if_absent(client, run, options["tenant"])
        source = client.watch(run, after_n=after_n, follow=follow, tenant=options["tenant"])
        async with broker_client.note_lost_connection(client), contextlib.aclosing(source) as states:
            async for state, entry in states:
                if options["as_json"]:
                    printing.print_json(entry_document(entry))
                else:
                    printing.print_text(timeline.entry_line(entry, state), hang=timeline.HANGING_INDENT)

    broker_client.with_client(options["directory"], work, as_="client")


def watch(run: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Print the events of RUN from the first until it is sealed; the exit code tells how it ended."""

    async def work(client: Client) -> int:
        status = ""
        await _note_if_absent(client, run, options["tenant"])
        async with (
            broker_client.note_lost_connection(client),
            contextlib.aclosing(client.watch(run, tenant=options["tenant"])) as states,
        ):
            async for state, entry in states:
                if options["as_json"]:
                    printing.print_json(entry_document(entry))
                else:
                    printing.print_text(timeline.entry_line(entry, state), hang=timeline.HANGING_INDENT)
                if entry.name == "asked" and not entry.ignored:
                    for question in await client.questions(run, tenant=options["tenant"]):
                        printing.note(approval_questions.question_text(question), block=True)
                status = state.sealed.status if state.sealed else ""
        return exit_codes.EXIT_CODE_BY_STATUS.get(status, exit_codes.EXIT_FAILED)

    exit_codes.exit_with(broker_client.with_client(options["directory"], work, as_="client"))


async def _note_if_absent(client: Client, run: str, tenant: str) -> None:
    """Note that the run does not exist yet, so that a misspelt id does not look like a run in which nothing happens."""
    try:
        await client.run(run, tenant=tenant)
    except NotFound:
        printing.note(
            f"There is no run '{run}' of tenant '{tenant}' yet; waiting for its first event. Ctrl-C ends this."
        )
