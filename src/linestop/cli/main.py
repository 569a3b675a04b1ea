"""``linestop``: the table of commands, and how errors end the program.

``--help`` shows this table and imports none of the commands. ``linestop run --help`` imports the module of ``run``;
what ``run`` needs, such as the broker's client, is imported when it runs.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from linestop.cli.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE
from linestop.cli.output.terminal_escape import accept_any_text, escape_controls, wrap_for
from linestop.errors import LinestopError

COMPLETION_VARIABLE: Final = "_LINESTOP_COMPLETE"
"""Set when the shell asks for completions."""


class Entry(NamedTuple):
    """One command: the module in ``cli/commands/`` that has a function of its name, and its line in the table."""

    module: str
    help: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Start here": {
        "demo": Entry("demo", "Three short stories on real parts; no key, no configuration."),
        "dev": Entry("processes", "Run everything on this machine: broker, actors, scripted models."),
        "doctor": Entry("doctor", "Check this machine and this project, one line per check."),
    },
    "Runs": {
        "run": Entry("runs", "Give an agent a task and wait for the outcome."),
        "runs": Entry("runs", "List runs."),
        "show": Entry("runs", "Show one run: its events, calls and cost, and what it waits for."),
        "watch": Entry("runs", "Follow a run as it happens."),
        "events": Entry("runs", "Print the events of a run."),
        "stop": Entry("stopping", "Stop a run, or all runs of an agent, a user or a tool."),
        "switch": Entry("stopping", "Close and open kill switches, which keep work from starting."),
        "pause": Entry("stopping", "Pause a run: nothing starts until it is resumed."),
        "resume": Entry("stopping", "Continue a paused run."),
    },
    "Decisions": {
        "approvals": Entry("decisions", "List the open questions to people."),
        "approve": Entry("decisions", "Approve one call, exactly as shown."),
        "deny": Entry("decisions", "Deny one call."),
        "answer": Entry("decisions", "Answer a question of a run."),
        "event": Entry("decisions", "Report an event that a run waits for."),
        "resolve": Entry("decisions", "Decide about a call whose outcome is unknown."),
    },
    "Looking back": {
        "verify": Entry("verify", "Check that a run's log is whole and keeps the rules."),
        "export": Entry("verify", "Write a run and its proof to a file."),
    },
    "Agents and tools": {
        "agents": Entry("agents", "List agents: in files, and deployed."),
        "deploy": Entry("agents", "Deploy the agents in files: new runs use them."),
        "undeploy": Entry("agents", "Refuse new runs of an agent."),
        "rollback": Entry("agents", "Deploy an earlier version again."),
        "tools": Entry("tools", "List, inspect and lint tools."),
    },
    "Processes": {
        "up": Entry("processes", "Run all actors against an outside broker."),
        "actor": Entry("processes", "Run one role or several; as many processes as you like."),
        "recorder": Entry("recorder", "Manage the archive of all runs."),
        "bus": Entry("bus", "Set up an outside broker."),
        "workers": Entry("workers", "List the workers: their roles, their state and the work they hold."),
        "health": Entry("doctor", "Check the broker and the workers, for health checks."),
        "dead": Entry("dead_letters", "Show messages that could not be handled, and send them again."),
        "schema": Entry("schema", "Print the schemas of everything on the bus."),
    },
}
"""Every command by section."""

PATH_CHARS_SHOWN: Final = 400
_SYSTEM_ERRORS: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOENT,
        errno.EMFILE,
        errno.ENFILE,
        errno.EIO,
    }
)
"""Errors of the machine or of a path, not of linestop."""

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        del ctx
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the declaration of the command of that name, None if there is none."""
        del ctx
        entry = next((section[cmd_name] for section in SECTIONS.values() if cmd_name in section), None)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"linestop.cli.commands.{entry.module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, name the nearest: click knows only the imported ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if self.get_command(ctx, args[0]) is None and nearest:
                raise click.UsageError(f"No such command '{args[0]}'. Did you mean '{nearest[0]}'?", ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - the value that the command returns
        """Run the command; leave a closed pipe to ``run``, because click would end with exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Click handles only an error with an errno.
            raise BrokenPipeError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table by section, without importing any command."""
        del ctx
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        # Imported here: reading package metadata takes longer than all the rest of the help.
        from importlib.metadata import version  # noqa: PLC0415

        click.echo(f"linestop {version('linestop')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings=_HELP)
@click.option("--project", type=click.Path(path_type=Path), help="Run as if started in that folder [LINESTOP_PROJECT].")
@click.option("--profile", type=click.Choice(["dev", "staging", "prod"]), help="The profile [LINESTOP_PROFILE].")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
def cli(project: Path | None, profile: str | None) -> None:
    """Run AI agents on an event log that anyone can stop and everyone can check.

    New here: `linestop demo`. Then `linestop dev` in an empty folder.
    """
    # Commands, and the processes that they start, read the profile from the environment.
    if profile is not None:
        os.environ["LINESTOP_PROFILE"] = profile
    folder = project or Path(os.environ.get("LINESTOP_PROJECT") or ".")
    if not folder.is_dir():
        raise click.UsageError(f"The project folder {folder} does not exist.")
    # Like `make -C`: every path of every command is relative to that folder.
    os.chdir(folder)
    os.environ.pop("LINESTOP_PROJECT", None)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; errors are one sentence on stderr."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see docs/errors.md)."""
    arguments = sys.argv[1:] if args is None else list(args)
    if COMPLETION_VARIABLE in os.environ:
        # Nothing is printed at a prompt: an unreadable project has no completions.
        with contextlib.suppress(Exception):
            cli.main(args=arguments)
        return 1
    try:
        accept_any_text(sys.stdout, sys.stderr)
        _require_text(arguments)
        result: object = cli.main(args=arguments, standalone_mode=False, color=_color())
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        return _end_with_sentence(_sentence(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence, which stores the traceback
        return _end_with_error(error)
    return result if isinstance(result, int) else 0


def _color() -> bool | None:
    """Whether to write colours: False if the user or the terminal wants none, else None: the stream decides."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if is_plain else None


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text: they could not be stored, and would cause an error later.

    Raises:
        UsageError: an argument is not UTF-8.
    """
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"Argument {number} ({argument[:40]!r}) is not UTF-8 text: convert it.") from None


def first_expected_error(error: BaseException) -> LinestopError | OSError | None:
    """The first error with a sentence for people in a group of errors, as a failed task group raises them.

    These are the errors of linestop and of the operating system: a folder that cannot be written, a full disk.
    """
    if isinstance(error, LinestopError) or (isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [first_expected_error(one) for one in error.exceptions]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
        return next((one for one in inner if one is not None), None)
    return None


def _sentence(error: click.ClickException) -> str:
    # Click prints each choice on a line of its own; linestop prints one sentence.
    sentence = " ".join(_message(error).split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{sentence if sentence.endswith(('.', '?')) else sentence + '.'} See `{error.ctx.command_path} --help`."
    return sentence


def _message(error: click.ClickException) -> str:
    # Click compares options with their dashes, so that short ones are alike whatever their names are.
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        name = error.option_name.lstrip("-")
        near = difflib.get_close_matches(name, [option.lstrip("-") for option in error.possibilities], n=1)
        return error.message + (f" Did you mean '--{near[0]}'?" if near else "")
    return error.format_message()


def _end_with_sentence(sentence: str, code: int) -> int:
    """Print why the program ends, escaped, because names and reasons in the sentence may come from anywhere."""
    click.echo(wrap_for(sys.stderr, f"linestop: {escape_controls(sentence)}"), err=True)
    return code


def _end_with_error(error: Exception) -> int:
    # Imported here: the help needs no event loop.
    from linestop.cli.output.closed_pipes import discard_unread, is_closed_pipe  # noqa: PLC0415

    if is_closed_pipe(error):
        # The reader of the output is gone; nothing more may be written, not even at exit.
        discard_unread()
        return 0
    expected = first_expected_error(error)
    if isinstance(expected, OSError):
        return _end_with_sentence(_refused_by_system(expected), EXIT_USAGE if expected.filename else 1)
    if expected is not None:
        return _end_with_sentence(str(expected), expected.exit_code)
    traceback_file = _store_traceback(error)
    return _end_with_sentence(
        f"Unexpected {type(error).__name__}; this is a defect of linestop. The traceback is in {traceback_file}.", 1
    )


def _refused_by_system(error: OSError) -> str:
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)[:PATH_CHARS_SHOWN]} cannot be used: {error.strerror}."
    return f"The system refused to open or write a file: {error.strerror}."


def _store_traceback(error: Exception) -> Path:
    """Write the traceback into the state folder if there is one, else into a temporary file."""
    state = Path(os.environ.get("LINESTOP_DIR") or ".linestop").absolute()
    text = "".join(traceback.format_exception(error))
    folder = state if state.is_dir() and os.access(state, os.W_OK) else Path(tempfile.gettempdir())
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    descriptor, name = tempfile.mkstemp(prefix=f"crash-{stamp}-", suffix=".txt", dir=folder, text=True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


if __name__ == "__main__":
    main()
