"""Printing a run's events as they come: ``events`` and ``watch``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from linestop.cli import approval_questions, broker_client
from linestop.cli.output import printing, timeline
from linestop.cli.runs.run_report import entry_document
from linestop.client import Client
from linestop.errors import NotFound
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry


async def print_events(
    client: Client, entries: AsyncGenerator[tuple[Run, Entry]], *, as_json: bool, with_questions: bool = False
) -> str:
    """Print each entry, and the open questions after each that asks one; return the final status, empty if open."""
    status = ""
    async with broker_client.note_lost_connection(client), contextlib.aclosing(entries) as states:
        async for state, entry in states:
            if as_json:
                printing.print_json(entry_document(entry))
            else:
                printing.print_text(timeline.entry_line(entry, state), hang=timeline.HANGING_INDENT)
            if with_questions and entry.name == "asked" and not entry.ignored:
                for question in await client.questions(state.run, tenant=state.tenant):
                    printing.note(approval_questions.question_text(question), block=True)
            status = state.sealed.status if state.sealed else ""
    return status


async def note_if_absent(client: Client, run: str, tenant: str) -> None:
    """Note that the run does not exist yet, so that a misspelt id does not look like a run in which nothing happens."""
    try:
        await client.run(run, tenant=tenant)
    except NotFound:
        printing.note(
            f"There is no run '{run}' of tenant '{tenant}' yet; waiting for its first event. Ctrl-C ends this."
        )
