"""Printing: data on stdout, progress on stderr, control characters escaped; and exit codes.

Texts of models, tools and strangers are shown with their control characters escaped; ``--json`` prints them
exactly, as JSON in which those characters are escaped, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, TypeVar

import anyio
import click
import msgspec

from linestop.bus.access.credentials import credential_path, require_urls
from linestop.bus.access.permission_table import CredentialName
from linestop.bus.disk_space import broker_disk_is_full, disk_full_message
from linestop.bus.jetstream.retry import NotStored
from linestop.cli.output.closed_pipes import STDERR, STDOUT, until_reader_is_gone
from linestop.cli.output.lookalikes import lookalikes
from linestop.cli.output.terminal_escape import HIDDEN, escape_controls, wrap_for, writes_unicode
from linestop.client import Client
from linestop.client.credentials import identify, state_directory
from linestop.client.result_types import OpenQuestion
from linestop.config.project_file import CONFIG_FILE, load_project
from linestop.errors import InputError, TooLarge
from linestop.schemas.defaults import DEFAULT_TENANT, MESSAGE_BYTES_MAX
from linestop.schemas.messages import Reply

T = TypeVar("T")

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 3
EXIT_STOPPED: Final = 4
EXIT_BUDGET: Final = 5
EXIT_WAITING: Final = 6
EXIT_DENIED: Final = 7

EXIT_CODE_BY_STATUS: Final = {
    "completed": EXIT_DONE,
    "stopped": EXIT_STOPPED,
    "over_budget": EXIT_BUDGET,
    "denied": EXIT_DENIED,
    "expired": EXIT_DENIED,
}
"""Exit code of a run by its status; every other status is a failure."""

WIDTH_PIPED: Final = 160
"""Columns of a table that does not go to a terminal."""

REASON_CHARS_SHOWN: Final = 600
"""More than is stored of a reason, so that none is cut twice."""

ARGS_HEAD_CHARS: Final = 4_000
ARGS_TAIL_CHARS: Final = 500
"""The characters of long arguments that a question shows: one or two screens, and their end."""

CONNECTION_POLL_S: Final = 1.0
POLLS_BEFORE_NOTE: Final = 3
"""A broker that restarts answers again by then."""

NO_BREAK: Final = "\xa0"
WRAPPED_WIDTH_MIN: Final = 16
GAP_WIDTH: Final = 3
"""Columns that a wrapped cell needs at least, and columns between two cells."""

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")
_UNSAFE_IN_JSON = re.compile(f"[\x7f-\x9f{HIDDEN}]")


def short(text: str, chars_max: int = 100) -> str:
    """One clean line of at most ``chars_max`` characters."""
    line = escape_controls(" ".join(text.split(" ")))
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def print_text(text: str, *, hang: int = 0, block: bool = False) -> None:
    """Print data on stdout, escaped: one line, which a narrow terminal continues ``hang`` spaces in.

    With ``block`` line breaks are preserved. Texts of others in it must then stand alone, or be one line: a reason with
    a line break could look like a line of linestop.
    """
    click.echo(wrap_for(sys.stdout, escape_controls(text, block=block), hang=hang))


def note(text: str, *, hang: int = 0, block: bool = False) -> None:
    """Print progress on stderr, otherwise like ``print_text``."""
    click.echo(wrap_for(sys.stderr, escape_controls(text, block=block), hang=hang), err=True)


@contextmanager
def reserve_stdout_for_data() -> Generator[TextIO]:
    """Redirect the prints of others (a tool, a library) to stderr, and yield the real stdout for data."""
    sys.stdout.flush()
    saved = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        with os.fdopen(os.dup(saved), "w", encoding="utf-8") as data:
            yield data
    finally:
        sys.stdout.flush()
        os.dup2(saved, STDOUT)
        os.close(saved)


def print_json(value: object, *, file: TextIO | None = None) -> None:
    """Print one JSON document (or one line of a stream of them) on stdout, or into ``file``."""
    text = msgspec.json.encode(value).decode()
    # JSON does not escape some characters that terminals obey; inside its strings an escape means the same.
    unsafe = _UNSAFE_IN_JSON if writes_unicode(sys.stdout) else _BEYOND_ASCII
    click.echo(unsafe.sub(_json_escape, text), file=file)


def _json_escape(match: re.Match[str]) -> str:
    """A character as a JSON escape, or as two if it lies beyond the basic plane."""
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: Sequence[str] = ()) -> None:
    """Print a table on stdout, its cells escaped; only the columns in ``wrap`` are broken into lines.

    Ids must stay whole to be copied, so on a screen that is too narrow for them each row becomes a block.
    """
    # Imported here: rich takes longer to import than everything else that a command imports.
    from rich import box  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from linestop.cli.output.rich_console import PipeConsole  # noqa: PLC0415

    console = PipeConsole(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = PipeConsole(file=sys.stdout, highlight=False, markup=False, emoji=False, width=WIDTH_PIPED)
    cells = [[escape_controls(cell, block=True) for cell in row] for row in rows]
    column_widths_min = [
        WRAPPED_WIDTH_MIN if name in wrap else max([cell_len(name), *(cell_len(row[at]) for row in cells)])
        for at, name in enumerate(columns)
    ]
    if sum(column_widths_min) + GAP_WIDTH * (len(columns) - 1) > console.width:
        for row in cells:
            click.echo(_row_as_lines(columns, row, wrap, width=console.width))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in wrap)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _row_as_lines(columns: Sequence[str], row: Sequence[str], wrap: Sequence[str], *, width: int) -> str:
    """A row as lines: its first cell, then the short cells, then a line for each long one."""
    rest = list(zip(columns, row, strict=True))[1:]
    # A cell and its name stay together; the terminal breaks a line that is longer than the screen.
    pairs = [f"{name} {cell}".replace(" ", NO_BREAK) for name, cell in rest if cell and name not in wrap]
    short_ones = textwrap.wrap(
        "   ".join(pairs),
        width=width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    long_ones = [f"  {name} {cell}" for name, cell in rest if cell and name in wrap]
    return "\n".join([row[0], *(line.replace(NO_BREAK, " ") for line in short_ones), *long_ones])


def print_reply(reply: Reply, *, as_json: bool) -> None:
    """Print the reply to a control message."""
    if as_json:
        print_json(reply)
    else:
        print_text(f"{reply.run}: {reply.sentence}")


def for_tenant(tenant: str) -> str:
    """The end of a command about a run of this tenant."""
    return "" if tenant == DEFAULT_TENANT else f" --tenant {tenant}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 call``, ``2 calls``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dollars(micros: int) -> str:
    """An amount in dollars, with four decimals."""
    return f"${micros / 1_000_000:.4f}"


def age(moment: datetime | None) -> str:
    """The time since a moment, in one unit; empty for None."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def time_left(moment: datetime) -> str:
    """The time until a moment, in one unit; ``expired`` once it has passed."""
    seconds = int((moment - datetime.now(UTC)).total_seconds())
    if seconds <= 0:
        return "expired"
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def exit_with(code: int) -> NoReturn:
    """End the command with this exit code."""
    click.get_current_context().exit(code)


def client_of(directory: Path, *, as_: CredentialName) -> Client:
    """A client, not yet connected, with the credential ``as_`` of the state directory.

    The broker is where the environment says, else ``linestop.toml`` if the directory is that project's own, else
    the credential: the credential of one installation is not for the broker of another.

    Raises:
        ConfigError: ``linestop.toml`` names a broker, and the directory is not in its folder.
    """
    url = os.environ.get("LINESTOP_NATS", "")
    if url:
        require_urls(url, "LINESTOP_NATS")
    elif Path(CONFIG_FILE).exists():
        project = load_project()
        if state_directory(directory).resolve() == project.directory.resolve():
            url = project.broker_url(directory if directory.is_file() else credential_path(directory, as_))
    identity = identify(directory, as_=as_)
    if url:
        credential = msgspec.structs.replace(identity.credential, url=url)
        identity = msgspec.structs.replace(identity, credential=credential)
    return Client(identity, name="cli")


def with_client(directory: Path, work: Callable[[Client], Awaitable[T]], *, as_: CredentialName = "operator") -> T:
    """Connect as ``client_of`` says, do ``work``, and return what it returns."""

    async def main() -> T:
        async with client_of(directory, as_=as_) as client:
            return await work(client)

    try:
        return anyio.run(main)
    except NotStored:
        if broker_disk_is_full(state := state_directory(directory)):
            raise NotStored(disk_full_message(state)) from None
        raise


@asynccontextmanager
async def note_lost_connection(client: Client) -> AsyncGenerator[None]:
    """Print a note if the broker does not answer for 3 s; following continues when it answers again.

    Raises:
        BrokenPipeError: the reader of the output is gone; a followed run may print nothing for hours.
    """
    no_reader = anyio.CancelScope()

    async def watch_connection() -> None:
        polls_without_connection = 0
        while True:
            await anyio.sleep(CONNECTION_POLL_S)
            polls_without_connection = 0 if client.connected else polls_without_connection + 1
            if polls_without_connection == POLLS_BEFORE_NOTE:
                note("The broker does not answer; waiting for it.")

    async def end_when_reader_is_gone() -> None:
        await until_reader_is_gone()
        no_reader.cancel()

    tasks = [asyncio.create_task(watch_connection()), asyncio.create_task(end_when_reader_is_gone())]
    try:
        with no_reader:
            yield
    finally:
        for task in tasks:
            task.cancel()
    if no_reader.cancelled_caught:
        raise BrokenPipeError


def json_argument(text: str, what: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON from the command line: the text itself, or the file named as ``@file`` or by its name.

    Raises:
        InputError: the file does not exist, or the text is not JSON; ``TooLarge`` if it is larger than a message.
    """
    source = text
    path = Path(text.removeprefix("@"))
    if text.startswith("@") or (not text.lstrip().startswith(("{", "[", '"')) and path.is_file()):
        try:
            with path.open("rb") as file:
                data = file.read(MESSAGE_BYTES_MAX + 1)
            if len(data) > MESSAGE_BYTES_MAX:
                raise TooLarge(f"{what} in {path} has over {MESSAGE_BYTES_MAX} bytes, more than a message may have.")
            source = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{what} cannot be read from {path}: {error}.") from None
    # Imported here because it imports a schema compiler, and few commands read JSON.
    from linestop.schemas.argument_validation import decode_strict  # noqa: PLC0415

    try:
        return decode_strict(source)
    except ValueError as error:
        raise InputError(f"{what} cannot be read as JSON: {error}.") from None


def commands_for(question: OpenQuestion) -> list[str]:
    """The commands that decide a question, ready to be copied."""
    target = f"{question.run} {question.call}".rstrip() + f" --shown {question.shown}"
    tenant = for_tenant(question.tenant)
    match question.kind:
        case "approval" | "spend":
            commands = [f"approve {target}", f"deny {target} --why REASON"]
        case "question":
            commands = [f"answer {target} ANSWER"]
        case "event":
            commands = [f"event {question.run} {question.text} --data JSON"]
        case "doubt":
            commands = [f"resolve {target} --{action}" for action in ("retry", "done", "stop")]
    return [f"linestop {command}{tenant}" for command in commands]


def discard_typed_ahead() -> None:
    """Discard the input that was typed before a question was shown: it cannot be an answer to the question."""
    # Imported here: the module exists on POSIX only, and most commands ask nothing.
    import termios  # noqa: PLC0415

    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def reason_of_model(question: OpenQuestion) -> str:
    """The model's reason, marked as such and on one line, so that it cannot look like another part of the question."""
    return f"the model says: {short(question.reason, REASON_CHARS_SHOWN)}"


def _shortened_args(question: OpenQuestion) -> str:
    """The arguments in full, or the beginning and the end of long ones with the command that shows the rest."""
    hidden_chars = len(question.args) - ARGS_HEAD_CHARS - ARGS_TAIL_CHARS
    if hidden_chars <= 0:
        return question.args
    hint = f"[{hidden_chars:,} more characters: `linestop show {question.run} --json{for_tenant(question.tenant)}`]"
    return f"{question.args[:ARGS_HEAD_CHARS]} … {hint} … {question.args[-ARGS_TAIL_CHARS:]}"


def question_text(question: OpenQuestion) -> str:
    """A question as a person must see it before deciding: the call with its exact arguments."""
    kind = "the outcome of a call is unknown" if question.kind == "doubt" else question.kind
    remaining = time_left(question.expires_at)
    remaining += " left" if remaining[0].isdigit() else ""
    what = f"an event: {question.text}" if question.kind == "event" else f"a person: {kind}"
    lines = [f"Run {question.run} ({question.agent}) waits for {what}, {remaining}."]
    fields = {
        "task": short(question.task),
        "call": f"{question.call}: {question.tool}({_shortened_args(question)})" if question.tool else "",
        "tier": f"{question.tier} (rule {question.rule})" if question.tier else "",
        "wider": question.wider,
        "key": question.effect_key,
        "cost": f"{dollars(question.cost_max_micros)} at most" if question.cost_max_micros else "",
        "asks": question.text,
        "options": " | ".join(question.options),
        "reason": reason_of_model(question) if question.reason else "",
    }
    lines += [f"  {label:<7} {escape_controls(text)}" for label, text in fields.items() if text]
    lines += [f"  letters {sentence}" for sentence in lookalikes(f"{question.args} {question.text}")]
    for origin in question.provenance:
        source = f"event {origin.n} {origin.field}".rstrip() if origin.n else "an unknown source"
        lines.append(f"  value   {origin.path} comes from {source}")
    if question.egress:
        lines.append(f"  leaves  the system with this call: {', '.join(question.egress)}")
    if question.quorum > 1:
        lines.append(f"  quorum  {len(question.votes)} of {question.quorum}: {', '.join(question.votes) or 'none yet'}")
    lines += [f"  $ {command}" for command in commands_for(question)]
    return "\n".join(lines)
