"""Commands with which people decide."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from linestop.cli.options import common_options, person_options, shown_option
from linestop.cli.run_argument import run_argument

if TYPE_CHECKING:
    from linestop.client import Client, OpenQuestion
    from linestop.client.client import Resolution
    from linestop.schemas.json_values import JsonObject
    from linestop.schemas.messages import Reply

WAITS_FOR_SENTENCES: Final = {
    "approval": "waits for an approval",
    "spend": "waits for an approval",
    "question": "waits for an answer",
    "event": "waits for an event",
    "doubt": "has an unknown outcome",
}


@click.command()
@click.option("--all-tenants", is_flag=True, help="Those of every tenant.")
@common_options
def approvals(*, all_tenants: bool, directory: Path, tenant: str, as_json: bool) -> None:
    """List the open questions to people, the most urgent first, with exact arguments."""
    from linestop.cli import approval_questions, broker_client
    from linestop.cli.output import printing

    whose = "" if all_tenants else tenant
    questions = broker_client.with_client(directory, lambda client: client.approvals(tenant=whose))
    if as_json:
        printing.print_json(questions)
    elif questions:
        printing.print_text("\n\n".join(approval_questions.question_text(each) for each in questions), block=True)
    else:
        printing.note("Nothing waits for a person.")


@click.command()
@run_argument
@click.argument("call", default="")
@click.option("--edit", metavar="JSON|FILE", help="Approve the call with these arguments instead.")
@shown_option
@person_options
@common_options
def approve(
    run: str,
    call: str,
    *,
    edit: str | None,
    shown: str,
    by: str,
    why: str,
    directory: Path,
    tenant: str,
    as_json: bool,
) -> None:
    """Approve CALL of RUN, exactly as it is shown; CALL may be left out if the run has only one open question."""
    from linestop.client.client import DecisionOptions

    args = None if edit is None else _new_args(edit)
    if not shown:
        confirmation = "Approve this?" if args is None else f"Approve it with {edit} instead?"
        shown = _confirm_question(directory, tenant, run, call, verb="approve", confirmation=confirmation)
    options = DecisionOptions(by=by, why=why, tenant=tenant, shown=shown)
    if args is None:
        _decide(directory, lambda client: client.approve(run, call, **options), as_json=as_json)
    else:
        _decide(directory, lambda client: client.edit(run, args, call=call, **options), as_json=as_json)


@click.command()
@run_argument
@click.argument("call", default="")
@shown_option
@person_options
@common_options
def deny(run: str, call: str, *, shown: str, by: str, why: str, directory: Path, tenant: str, as_json: bool) -> None:
    """Deny CALL of RUN; the model is told why."""
    from linestop.client.client import DecisionOptions

    options = DecisionOptions(by=by, why=why, tenant=tenant, shown=shown)
    _decide(directory, lambda client: client.deny(run, call, **options), as_json=as_json)


@click.command()
@run_argument
@click.argument("call_and_answer", nargs=-1, required=True, metavar="[CALL] ANSWER")
@click.option("--json-answer", is_flag=True, help="ANSWER is JSON, or a file with JSON.")
@shown_option
@person_options
@common_options
def answer(
    run: str,
    call_and_answer: tuple[str, ...],
    *,
    json_answer: bool,
    shown: str,
    by: str,
    why: str,
    directory: Path,
    tenant: str,
    as_json: bool,
) -> None:
    """Answer a question of RUN's model, or deliver the event that RUN waits for."""
    from linestop.cli import command_input
    from linestop.client.client import DecisionOptions
    from linestop.errors import InputError

    *before_answer, text = call_and_answer
    if len(before_answer) > 1:
        raise InputError("Give one answer: put it in quotes if it has spaces.")
    call = before_answer[0] if before_answer else ""
    value: object = command_input.json_argument(text, "The answer") if json_answer else text
    options = DecisionOptions(by=by, why=why, tenant=tenant, shown=shown)
    _decide(directory, lambda client: client.answer(run, value, call=call, **options), as_json=as_json)


@click.command()
@run_argument
@click.argument("name")
@click.option("--data", metavar="JSON|FILE", help="The data of the event, for the model.")
@person_options
@common_options
def event(
    run: str, name: str, *, data: str | None, by: str, why: str, directory: Path, tenant: str, as_json: bool
) -> None:
    """Report the event NAME to RUN, which waits for it or will wait for it."""
    from linestop.cli import command_input
    from linestop.client.client import DecisionOptions

    value: object = None if data is None else command_input.json_argument(data, "--data")
    options = DecisionOptions(by=by, why=why, tenant=tenant, shown="")
    _decide(directory, lambda client: client.event(run, name, value, **options), as_json=as_json)


@click.command()
@run_argument
@click.argument("call", default="")
@click.option("--retry", "action", flag_value="retry", help="The call did not take effect: perform it again.")
@click.option("--done", "action", flag_value="done", help="The call took effect: continue the run.")
@click.option("--stop", "action", flag_value="stop", help="End the run.")
@click.option("--result", metavar="JSON|FILE", help="With --done: the result, for the model.")
@shown_option
@person_options
@common_options
def resolve(
    run: str,
    call: str,
    *,
    action: Resolution | None,
    result: str | None,
    shown: str,
    by: str,
    why: str,
    directory: Path,
    tenant: str,
    as_json: bool,
) -> None:
    """Decide about CALL, whose outcome is unknown: --retry, --done or --stop."""
    from linestop.cli import command_input
    from linestop.client.client import DecisionOptions
    from linestop.errors import InputError

    if action is None:
        raise InputError("Give the outcome of the call: --retry, --done or --stop.")
    if result is not None and action != "done":
        raise InputError("--result goes with --done.")
    value: object = None if result is None else command_input.json_argument(result, "The result")
    if not shown:
        confirmation = f"Resolve the call as {action}?"
        shown = _confirm_question(directory, tenant, run, call, verb="resolve", confirmation=confirmation)
    options = DecisionOptions(by=by, why=why, tenant=tenant, shown=shown)
    _decide(directory, lambda client: client.resolve(run, action, call=call, result=value, **options), as_json=as_json)


def _new_args(text: str) -> JsonObject:
    from linestop.cli import command_input
    from linestop.errors import InputError

    args = command_input.json_argument(text, "--edit")
    if not isinstance(args, dict):
        raise InputError("--edit: give the new arguments as a JSON object.")
    return cast("JsonObject", args)


def _confirm_question(directory: Path, tenant: str, run: str, call: str, *, verb: str, confirmation: str) -> str:
    """Show the question on the terminal, let the person confirm the decision, and return the question's digest.

    Raises:
        InputError: there is no terminal to show the question on, or the person did not confirm.
        Refused: the question is not one that ``verb`` decides.
    """
    from linestop.cli import approval_questions, broker_client, command_input
    from linestop.cli.output import printing
    from linestop.client.result_types import pick_question
    from linestop.errors import InputError

    async def read_question(client: Client) -> OpenQuestion:
        state = await client.run(run, tenant=tenant)
        return pick_question(state, await client.questions_of(state), call)

    question = broker_client.with_client(directory, read_question)
    _require_verb(question, verb)
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(
            "Name the question that was shown to you: add `--shown DIGEST`, as `linestop approvals` prints it."
        )
    printing.note(approval_questions.question_text(question), block=True)
    command_input.discard_typed_ahead()
    if not click.confirm(confirmation, err=True):
        raise InputError("Nothing was decided; the question stays open.")
    return question.shown


def _require_verb(question: OpenQuestion, verb: str) -> None:
    """Refuse a decision that cannot be made about the question, before a person is asked to confirm it."""
    from linestop.cli import approval_questions
    from linestop.errors import Refused

    commands = approval_questions.commands_for(question)
    if any(command.startswith(f"linestop {verb} ") for command in commands):
        return
    what = f"Call '{question.call}' of run '{question.run}'" if question.call else f"Run '{question.run}'"
    listed = ", ".join(f"`{command}`" for command in commands)
    raise Refused(f"{what} {WAITS_FOR_SENTENCES[question.kind]}; `linestop {verb}` cannot decide that. Use {listed}.")


def _decide(directory: Path, decide: Callable[[Client], Awaitable[Reply]], *, as_json: bool) -> None:
    from linestop.cli import broker_client
    from linestop.cli.output import printing

    printing.print_reply(broker_client.with_client(directory, decide), as_json=as_json)
