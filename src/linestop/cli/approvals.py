"""The commands with which people decide: ``approvals``, ``approve``, ``deny``, ``answer``, ``event``, ``resolve``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import click

from linestop.cli import approval_questions, broker_client, command_input
from linestop.cli.output import printing
from linestop.client import Client
from linestop.client.client import DecisionOptions, Resolution
from linestop.client.result_types import OpenQuestion, pick_question
from linestop.errors import InputError, Refused
from linestop.schemas.json_values import JsonObject
from linestop.schemas.messages import Reply


def approvals(*, all_tenants: bool, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """List the open questions to people, the most urgent first, with exact arguments."""

    async def work(client: Client) -> None:
        questions = await client.approvals(tenant="" if all_tenants else options["tenant"])
        if options["as_json"]:
            printing.print_json(questions)
        elif questions:
            printing.print_text(
                "\n\n".join(approval_questions.question_text(question) for question in questions), block=True
            )
        else:
            printing.note("Nothing waits for a person.")

    broker_client.with_client(options["directory"], work)


def approve(run: str, call: str, *, edit: str | None, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Approve CALL of RUN, exactly as it is shown; CALL may be left out if the run has only one open question."""
    args = None if edit is None else _new_args(edit)
    confirmation = "Approve this?" if args is None else f"Approve it with {edit} instead?"
    options = _with_shown_digest(options, run, call, verb="approve", confirmation=confirmation)
    if args is None:
        _decide(options, lambda client, control: client.approve(run, call, **control))
    else:
        _decide(options, lambda client, control: client.edit(run, args, call=call, **control))


def deny(run: str, call: str, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Deny CALL of RUN; the model is told why."""
    _decide(options, lambda client, control: client.deny(run, call, **control))


def answer(run: str, call_and_answer: tuple[str, ...], *, json_answer: bool, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Answer a question of RUN's model, or deliver the event that RUN waits for."""
    arguments = list(call_and_answer)
    if len(arguments) > 2:
        raise InputError("Give one answer: put it in quotes if it has spaces.")
    call, text = arguments[0] if len(arguments) == 2 else "", arguments[-1]
    value: object = command_input.json_argument(text, "The answer") if json_answer else text
    _decide(options, lambda client, control: client.answer(run, value, call=call, **control))


def event(run: str, name: str, *, data: str | None, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Report the event NAME to RUN, which waits for it or will wait for it."""
    value: object = None if data is None else command_input.json_argument(data, "--data")
    _decide({"shown": "", **options}, lambda client, control: client.event(run, name, value, **control))


def resolve(run: str, call: str, *, action: str | None, result: str | None, **options: Any) -> None:  # noqa: ANN401 - as click gives them
    """Decide about CALL, whose outcome is unknown: --retry, --done or --stop."""
    if action is None:
        raise InputError("Give the outcome of the call: --retry, --done or --stop.")
    if result is not None and action != "done":
        raise InputError("--result goes with --done.")
    value: object = None if result is None else command_input.json_argument(result, "The result")
    resolution = cast("Resolution", action)
    options = _with_shown_digest(options, run, call, verb="resolve", confirmation=f"Resolve the call as {action}?")
    _decide(options, lambda client, control: client.resolve(run, resolution, call=call, result=value, **control))


def _new_args(text: str) -> JsonObject:
    args = command_input.json_argument(text, "--edit")
    if not isinstance(args, dict):
        raise InputError("--edit: give the new arguments as a JSON object.")
    return cast("JsonObject", args)


def _with_shown_digest(options: dict[str, Any], run: str, call: str, *, verb: str, confirmation: str) -> dict[str, Any]:
    """The options with the digest of the question that the person has seen: from the command line, or shown here.

    Raises:
        InputError: no digest is given and there is no terminal to show the question on.
        Refused: the question is not one that ``verb`` decides.
    """
    if options["shown"]:
        return options

    async def read_question(client: Client) -> OpenQuestion:
        state = await client.run(run, tenant=options["tenant"])
        return pick_question(state, await client.questions_of(state), call)

    question = broker_client.with_client(options["directory"], read_question)
    _require_verb(question, verb)
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(
            "Name the question that was shown to you: add `--shown DIGEST`, as `linestop approvals` prints it."
        )
    printing.note(approval_questions.question_text(question), block=True)
    command_input.discard_typed_ahead()
    if not click.confirm(confirmation, err=True):
        raise InputError("Nothing was decided; the question stays open.")
    return options | {"shown": question.shown}


WAITS_FOR_SENTENCES: Final = {
    "approval": "waits for an approval",
    "spend": "waits for an approval",
    "question": "waits for an answer",
    "event": "waits for an event",
    "doubt": "has an unknown outcome",
}


def _require_verb(question: OpenQuestion, verb: str) -> None:
    """Refuse a decision that cannot be made about the question, before a person is asked to confirm it."""
    commands = approval_questions.commands_for(question)
    if any(command.startswith(f"linestop {verb} ") for command in commands):
        return
    what = f"Call '{question.call}' of run '{question.run}'" if question.call else f"Run '{question.run}'"
    listed = ", ".join(f"`{command}`" for command in commands)
    raise Refused(f"{what} {WAITS_FOR_SENTENCES[question.kind]}; `linestop {verb}` cannot decide that. Use {listed}.")


def _decide(options: dict[str, Any], decide: Callable[[Client, DecisionOptions], Awaitable[Reply]]) -> None:
    control = DecisionOptions(by=options["by"], why=options["why"], tenant=options["tenant"], shown=options["shown"])

    async def work(client: Client) -> Reply:
        return await decide(client, control)

    printing.print_reply(broker_client.with_client(options["directory"], work), as_json=options["as_json"])
