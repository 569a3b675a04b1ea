"""``linestop``: the table of commands, and how errors end the program.

``--help`` shows this table and imports none of the commands. ``linestop run --help`` imports the declaration of
``run``; what it does, with the broker's client, SDKs or a database, is imported when it is called.
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

from linestop.cli.terminal_escape import accept_any_text, escape_controls, wrap_for
from linestop.errors import LinestopError

COMPLETION_VARIABLE: Final = "_LINESTOP_COMPLETE"
"""Set where the shell asks what could follow."""


class Entry(NamedTuple):
    """One command: where it is declared, and what the table says of it."""

    target: str
    help: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "Start here": {
        "demo": Entry("processes:demo", "Three short stories on real parts; no key, no configuration."),
        "dev": Entry("processes:dev", "Run everything on this machine: broker, actors, scripted models."),
        "doctor": Entry("processes:doctor", "Check this machine and this project, one line a check."),
    },
    "Runs": {
        "run": Entry("runs:run", "Give an agent a task and wait for the outcome."),
        "runs": Entry("runs:runs", "List runs."),
        "show": Entry("runs:show", "Show one run: what happened, who said it, what it cost."),
        "watch": Entry("runs:watch", "Follow a run as it happens."),
        "events": Entry("runs:events", "Print the events of a run."),
        "stop": Entry("runs:stop", "Stop a run, or all of an agent, a user, a tool: nothing more starts."),
        "switch": Entry("switches:switch", "Close and open kill switches: what may start at all."),
        "pause": Entry("runs:pause", "Hold a run: nothing starts until it is resumed."),
        "resume": Entry("runs:resume", "Let a paused run go on."),
    },
    "Decisions": {
        "approvals": Entry("decisions:approvals", "List what waits for a person."),
        "approve": Entry("decisions:approve", "Agree to one call, exactly as shown."),
        "deny": Entry("decisions:deny", "Refuse one call."),
        "answer": Entry("decisions:answer", "Answer a question of a run."),
        "event": Entry("decisions:event", "Report an event that a run waits for."),
        "resolve": Entry("decisions:resolve", "Say what became of a call whose fate is unknown."),
    },
    "Looking back": {
        "verify": Entry("checking:verify", "Check that a run's log is whole and keeps the rules."),
        "export": Entry("checking:export", "Write a run with its proof into a file."),
    },
    "Agents and tools": {
        "agents": Entry("agents:agents", "List agents: in files, and deployed."),
        "deploy": Entry("agents:deploy", "Let new runs use the agents in files."),
        "undeploy": Entry("agents:undeploy", "Let an agent have no new runs."),
        "rollback": Entry("agents:rollback", "Let new runs use an earlier version again."),
        "tools": Entry("agents:tools", "List, inspect and lint tools."),
    },
    "Processes": {
        "up": Entry("processes:up", "Run all actors against an outside broker."),
        "actor": Entry("processes:actor", "Run one role; as many processes as you like."),
        "recorder": Entry("processes:recorder", "Look after the archive of all runs."),
        "bus": Entry("processes:bus", "Set up an outside broker."),
        "workers": Entry("workers:workers", "List the workers: who does which role, and what each one holds."),
        "health": Entry("processes:health", "Say whether this worker and its broker are well."),
        "dead": Entry("processes:dead", "Look at what could not be handled, and send it again."),
        "schema": Entry("checking:schema", "Print the schemas of everything on the bus."),
    },
}
"""Every command by section; where it is declared is a module of ``linestop.cli.commands`` and a name there."""

EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
PATH_CHARS_SHOWN: Final = 400
_SYSTEM_ERRORS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP,
        errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.EIO,
    }
)  # fmt: skip
"""What is wrong with the machine or with a path, and not with linestop."""

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
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(f"linestop.cli.commands.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of one that does not exist, name the nearest: click knows only what is imported."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if self.get_command(ctx, args[0]) is None and nearest:
                raise click.UsageError(f"No such command '{args[0]}'. Did you mean '{nearest[0]}'?", ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - what the command returns
        """Run the command; a closed pipe is for ``run`` to judge, which click would end with exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Click takes only one with an errno for its own.
            raise BrokenPipeError from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table by section, from what is known without importing anything."""
        del ctx
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        # Imported here: reading package metadata costs more than all the rest of the help.
        from importlib.metadata import version  # noqa: PLC0415

        click.echo(f"linestop {version('linestop')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings=_HELP)
@click.option("--project", type=click.Path(path_type=Path), help="As if started in that folder [LINESTOP_PROJECT].")
@click.option("--profile", type=click.Choice(["dev", "staging", "prod"]), help="Which profile [LINESTOP_PROFILE].")
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
def cli(project: Path | None, profile: str | None) -> None:
    """Run AI agents on an event log that anyone can stop and everyone can check.

    New here: `linestop demo`. Then `linestop dev` in an empty folder.
    """
    # The environment is how every command, and every process that a command starts, is told.
    if profile is not None:
        os.environ["LINESTOP_PROFILE"] = profile
    folder = project or Path(os.environ.get("LINESTOP_PROJECT") or ".")
    if not folder.is_dir():
        raise click.UsageError(f"The project folder {folder} does not exist.")
    # As `make -C` does it: every path of every command means the same as if it were typed there.
    os.chdir(folder)
    os.environ.pop("LINESTOP_PROJECT", None)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; errors are one sentence on stderr."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (DESIGN section 9)."""
    arguments = sys.argv[1:] if args is None else list(args)
    if COMPLETION_VARIABLE in os.environ:
        # Nothing is said at a prompt: a project that cannot be read has nothing to complete.
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
    except Exception as error:  # noqa: BLE001 - the last line of defence, which keeps the traceback
        return _end_with_error(error)
    return result if isinstance(result, int) else 0


def _color() -> bool | None:
    """Whether to write colours: never where the user or the terminal wants none, else as the stream is."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if is_plain else None


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse what is no text: it could not be stored, and would fail in some depth or other.

    Raises:
        UsageError: an argument is not UTF-8.
    """
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"Argument {number} ({argument[:40]!r}) is not UTF-8 text: convert it.") from None


def first_expected_error(error: BaseException) -> LinestopError | OSError | None:
    """The first error that has a sentence for people in a group of errors, as a failed task group raises them.

    Those are ours, and what the operating system refuses: a folder that cannot be written, a full disk.
    """
    if isinstance(error, LinestopError) or (isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [first_expected_error(one) for one in error.exceptions]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
        return next((one for one in inner if one is not None), None)
    return None


def _sentence(error: click.ClickException) -> str:
    # Click puts each choice on a line of its own; this is one sentence.
    sentence = " ".join(error.format_message().split())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{sentence if sentence.endswith(('.', '?')) else sentence + '.'} See `{error.ctx.command_path} --help`."
    return sentence


def _end_with_sentence(sentence: str, code: int) -> int:
    """Print why the program ends; names and reasons in it come from anywhere, so nothing of it is obeyed."""
    click.echo(wrap_for(sys.stderr, f"linestop: {escape_controls(sentence)}"), err=True)
    return code


def _end_with_error(error: Exception) -> int:
    # Imported here: the help needs no event loop.
    from linestop.cli.closed_pipes import discard_unread, is_closed_pipe  # noqa: PLC0415

    if is_closed_pipe(error):
        # Whoever read our output has seen enough; nothing more may be written, not even at exit.
        discard_unread()
        return 0
    expected = first_expected_error(error)
    if isinstance(expected, OSError):
        return _end_with_sentence(_refused_by_system(expected), EXIT_USAGE if expected.filename else 1)
    if expected is not None:
        return _end_with_sentence(str(expected), expected.exit_code)
    traceback_file = _store_traceback(error)
    return _end_with_sentence(
        f"{type(error).__name__} where none was expected; this is a defect. The traceback is in {traceback_file}.", 1
    )


def _refused_by_system(error: OSError) -> str:
    if isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)[:PATH_CHARS_SHOWN]} cannot be used: {error.strerror}."
    return f"The system refuses to write or open something: {error.strerror}."


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
