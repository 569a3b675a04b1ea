"""The commands about runs: ``run``, ``runs``, ``pause``, ``resume``."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import click
import msgspec

from linestop.cli import approval_questions, broker_client, command_input, exit_codes
from linestop.cli.output import printing, timeline, wording
from linestop.cli.runs.stop_runs import closed_sentence
from linestop.client import Client, Outcome, Submitted
from linestop.client.client import DecisionOptions, TaskOptions
from linestop.client.result_types import OpenQuestion, RunLine
from linestop.errors import InputError, LinestopError, TimedOut, TooLarge
from linestop.schemas.defaults import MATERIAL_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.dollars import rounded_dollars

TASK_CHARS_SHOWN: Final = 60


def run(agent: str, text: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Give AGENT the task TEXT (`-` reads it from stdin) and print its answer."""
    task = TaskOptions(
        key=options["key"],
        user=options["user"],
        submitter="cli",
        dry_run=options["dry_run"],
        scope=tuple(options["scope"]) or None,
        limits=_limits(options["limits"]),
        material=_material(options["material"]),
    )
    body = _stdin() if text == "-" else text
    runs_submitted: list[str] = []

    async def work(client: Client) -> int:
        submitted = await client.submit(agent, body, tenant=options["tenant"], **task)
        runs_submitted.append(submitted.run)
        if submitted.sentence and submitted.status == "kept":
            printing.note(submitted.sentence)
        if options["detach"]:
            return _detached(submitted, as_json=options["as_json"])
        waiting = _RunFollower(client, options["directory"], tenant=options["tenant"], as_json=options["as_json"])
        return await waiting.run(submitted.run, options["wait_s"])

    try:
        code = broker_client.with_client(options["directory"], work, as_="client")
    except KeyboardInterrupt:
        for name in runs_submitted:
            target = name + wording.for_tenant(options["tenant"])
            printing.note(
                f"Run {name} is still running: `linestop watch {target}` follows it, `linestop stop {target}` ends it."
            )
        raise
    exit_codes.exit_with(code)


def _material(path: str) -> str:
    """The text of a file of material, bounded like the task.

    Raises:
        InputError: the file does not exist or is not UTF-8 text; ``TooLarge`` if it exceeds the limit.
    """
    if not path:
        return ""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MATERIAL_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"The material {path} cannot be read ({error.strerror}); name a text file.") from None
    if len(data) > MATERIAL_BYTES_MAX:
        raise TooLarge(f"The material {path} has more than {MATERIAL_BYTES_MAX} bytes, which is the limit; shorten it.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"The material {path} is not UTF-8 text (byte {error.start}); convert it first.") from None


def _stdin() -> str:
    """The task's text from stdin, bounded by the size of a message.

    Raises:
        InputError: stdin is closed, or its content is not UTF-8.
        TooLarge: the text has more bytes than a message.
    """
    # The stream is None if the descriptor is closed.
    if sys.stdin is None:
        raise InputError("TEXT is `-`, but stdin is closed: give the text as an argument.")
    try:
        data = sys.stdin.buffer.read(MESSAGE_BYTES_MAX + 1)
        if len(data) > MESSAGE_BYTES_MAX:
            raise TooLarge(f"The text has over {MESSAGE_BYTES_MAX} bytes, more than a task may have: shorten it.")
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"The text is not UTF-8 (byte {error.start}): convert it.") from None


def _limits(options: tuple[str, ...]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for each in options:
        name, _, value = each.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = math.nan
        if not math.isfinite(limits[name]):
            raise InputError(f"--limit {each}: write NAME=VALUE with a number, e.g. cost_max_micros=100000.")
    return limits


def _detached(submitted: Submitted, *, as_json: bool) -> int:
    if as_json:
        printing.print_json(submitted)
    else:
        printing.print_text(submitted.run)
        if submitted.status == "refused":
            printing.note(submitted.sentence)
    return exit_codes.EXIT_FAILED if submitted.status == "refused" else exit_codes.EXIT_DONE


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


class _RunFollower:
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


def runs(directory: Path, *, tenant: str, as_json: bool, open_only: bool, all_tenants: bool, limit: int) -> None:  # noqa: PLR0913 - its options
    """List the newest runs."""

    async def work(client: Client) -> None:
        lines = await client.runs(limit=limit, open_only=open_only, tenant="" if all_tenants else tenant)
        if as_json:
            printing.print_json(lines)
            return
        with contextlib.suppress(LinestopError):
            # A courtesy: the list is printed whether or not the kill switches can be read.
            if closed := await client.kill_switches.closed():
                printing.note(closed_sentence(closed))
        if not lines:
            printing.note(_no_runs_sentence(tenant, open_only=open_only, all_tenants=all_tenants))
            return
        columns = ("run", "agent", "status", "turns", "calls", "cost", "age", "task")
        printing.print_table(
            columns,
            [
                (
                    line.run, line.agent, line.status, str(line.turns), str(line.calls),
                    rounded_dollars(line.cost_micros), wording.age(line.opened_at or line.last_at),
                    _task_cell(line),
                )
                for line in lines
            ],
            wrap=("task",),
        )  # fmt: skip

    broker_client.with_client(directory, work, as_="client")


def _no_runs_sentence(tenant: str, *, open_only: bool, all_tenants: bool) -> str:
    whose = "" if all_tenants else f" of tenant '{tenant}'"
    return f"There are no{' open' if open_only else ''} runs{whose}."


def _task_cell(line: RunLine) -> str:
    """The task, and below it the reason for the run's status; a refused run has only the reason."""
    reason = f"{line.status}: {line.why}" if line.why else ""
    return "\n".join(wording.short(text, TASK_CHARS_SHOWN) for text in (line.text, reason) if text)


def pause(run: str, *, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Pause RUN: none of its calls or requests start until it is resumed; its deadlines still apply."""

    async def work(client: Client) -> None:
        reply = await client.pause(run, by=by, why=why, tenant=options["tenant"])
        printing.print_reply(reply, as_json=options["as_json"])

    broker_client.with_client(options["directory"], work)


def resume(run: str, *, by: str, why: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Continue a paused RUN."""

    async def work(client: Client) -> None:
        reply = await client.resume(run, by=by, why=why, tenant=options["tenant"])
        printing.print_reply(reply, as_json=options["as_json"])

    broker_client.with_client(options["directory"], work)
