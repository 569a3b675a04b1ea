"""Following a run in a terminal: its events, the questions that can be decided there, and its outcome."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import click
import msgspec

from linestop.cli import approval_questions, broker_client, command_input, exit_codes
from linestop.cli.output import printing, timeline, wording
from linestop.client import Client, Outcome
from linestop.client.client import DecisionOptions
from linestop.client.result_types import OpenQuestion
from linestop.errors import LinestopError, TimedOut
from linestop.schemas.dollars import rounded_dollars

DECISION_VERBS: Final[dict[str, tuple[str, ...]]] = {
    "approval": ("approve", "deny"),
    "spend": ("approve", "deny"),
    "question": ("answer",),
}
"""The decisions that can be typed at the prompt, by the kind of the question."""

LATER: Final = "later"
REPORT_ELSEWHERE: Final = (
    "Waiting for an event, which a service reports, or the command above in another terminal; "
    "Ctrl-C here leaves the run waiting."
)
DECIDE_ELSEWHERE: Final = (
    "Waiting for a person: decide in another terminal, with one of the commands above; "
    "Ctrl-C here leaves the run waiting."
)


TYPED_TRIES_MAX: Final = 5


async def _typed_decision(verbs: tuple[str, ...]) -> str:
    """The input of the person at the terminal: one of ``verbs``, the text of an answer, or ``later``."""
    wants_text = verbs == ("answer",)
    prompt = "Your answer (Enter for later): " if wants_text else f"{', '.join(verbs)} or later? [later] "
    for _ in range(TYPED_TRIES_MAX):
        command_input.discard_typed_ahead()
        click.echo(prompt, nl=False, err=True)
        # Not in a thread: a thread that waits for a line would keep the command from ending.
        await anyio.wait_readable(sys.stdin)
        line = sys.stdin.readline().strip()
        if not line:
            return LATER
        if wants_text:
            return line
        matches = [verb for verb in (*verbs, LATER) if verb.startswith(line.lower())]
        if matches:
            return matches[0]
    return LATER


class RunFollower:
    """Follows a run: prints its events, and returns when it is over, waits for a person, or takes too long."""

    def __init__(self, client: Client, directory: Path, *, tenant: str, as_json: bool) -> None:
        self._client = client
        self._directory = directory
        self._tenant = tenant
        self._as_json = as_json
        self._shown: list[OpenQuestion] = []

    async def run(self, run: str, wait_s: float | None) -> int:
        """Follow the run and return the exit code."""
        code: int | None = None
        with anyio.move_on_after(wait_s):
            code = await self._until_over(run)
            if code is None:
                return self._print_outcome(await self._client.outcome(run, tenant=self._tenant))
        if code is not None:
            return code
        target = run + wording.for_tenant(self._tenant)
        raise TimedOut(f"Run '{run}' is still running after {wait_s:g} s; `linestop watch {target}` follows it.")

    async def _until_over(self, run: str) -> int | None:
        """Follow the run; the exit code if it waits for a person and there is no terminal, None when it is sealed."""
        entries = self._client.watch(run, tenant=self._tenant)
        async with broker_client.note_lost_connection(self._client), contextlib.aclosing(entries) as states:
            async for state, entry in states:
                printing.note(timeline.entry_line(entry, state), hang=timeline.HANGING_INDENT)
                if entry.name == "asked" and not entry.ignored and await self._show_questions(state.run):
                    return exit_codes.EXIT_WAITING
        return None

    async def _show_questions(self, run: str) -> bool:
        """Show the open questions; True if there is no terminal, so that the command should end."""
        # Read again: the entry may be old, and its question decided since.
        questions = [q for q in await self._client.questions(run, tenant=self._tenant) if q not in self._shown]
        self._shown.extend(questions)
        for question in questions:
            printing.note(approval_questions.question_text(question), block=True)
        # A closed stdin is None.
        if not questions:
            return False
        if sys.stdin and sys.stdin.isatty():
            if not sys.stderr.isatty():
                only_events = all(question.kind == "event" for question in questions)
                printing.note(REPORT_ELSEWHERE if only_events else DECIDE_ELSEWHERE)
                return False
            for question in questions:
                await self._decide_here(question)
            return False
        if self._as_json:
            printing.print_json({"run": run, "status": "waiting", "questions": questions})
        return True

    async def _decide_here(self, question: OpenQuestion) -> None:
        """Ask the person at the terminal; a question left for later is decided elsewhere."""
        verbs = DECISION_VERBS.get(question.kind, ())
        typed = await _typed_decision(verbs) if verbs else LATER
        if typed == LATER:
            printing.note(REPORT_ELSEWHERE if question.kind == "event" else DECIDE_ELSEWHERE)
            return
        control = DecisionOptions(tenant=self._tenant, shown=question.shown)
        try:
            async with broker_client.client_of(self._directory, as_="operator") as client:
                if verbs == ("answer",):
                    reply = await client.answer(question.run, typed, call=question.call, tenant=self._tenant)
                elif typed == "approve":
                    reply = await client.approve(question.run, question.call, **control)
                else:
                    reply = await client.deny(question.run, question.call, **control)
        except LinestopError as error:
            printing.note(str(error))
        else:
            printing.note(f"{reply.run}: {reply.sentence}")

    def _print_outcome(self, outcome: Outcome[Any]) -> int:
        if self._as_json:
            printing.print_json(msgspec.structs.replace(outcome, position=0))
        elif isinstance(outcome.text, str):
            printing.print_text(outcome.text, block=True)
        elif outcome.partial:
            printing.note(f"Partial answer: {outcome.partial}", block=True)
        why = f": {outcome.why}" if outcome.why else ""
        printing.note(f"{outcome.run} {outcome.status}{why} ({rounded_dollars(outcome.cost_micros)})")
        return exit_codes.EXIT_CODE_BY_STATUS.get(outcome.status, exit_codes.EXIT_FAILED)
