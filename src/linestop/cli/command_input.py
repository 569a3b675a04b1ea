"""What a person or a program gives to a command: JSON arguments, text files, stdin, input at a prompt."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

from linestop.errors import InputError, TooLarge
from linestop.schemas.defaults import MATERIAL_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.json_values import JsonValue


def json_argument(text: str, what: str) -> JsonValue:
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
    from linestop.schemas.strict_json import decode_strict  # noqa: PLC0415

    try:
        return decode_strict(source)
    except ValueError as error:
        raise InputError(f"{what} cannot be read as JSON: {error}.") from None


def discard_typed_ahead() -> None:
    """Discard the input that was typed before a question was shown: it cannot be an answer to the question."""
    # Imported here: the module exists on POSIX only, and most commands ask nothing.
    import termios  # noqa: PLC0415

    with contextlib.suppress(termios.error):
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def material(path: str) -> str:
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


def text_from_stdin() -> str:
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


def limits(options: tuple[str, ...]) -> dict[str, float]:
    """The limits of ``--limit NAME=VALUE``; their names are checked where the task is submitted.

    Raises:
        InputError: a value is not a number.
    """
    found: dict[str, float] = {}
    for each in options:
        name, _, value = each.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise InputError(f"--limit {each}: write NAME=VALUE with a number, e.g. cost_max_micros=100000.")
    return found
