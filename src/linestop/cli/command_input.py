"""What a person or a program gives to a command: JSON arguments, text files, stdin, input at a prompt."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from linestop.errors import InputError, TooLarge
from linestop.schemas.defaults import MESSAGE_BYTES_MAX
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
    from linestop.schemas.argument_validation import decode_strict  # noqa: PLC0415

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
