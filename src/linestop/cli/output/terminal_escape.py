"""Escaping of the characters that a terminal obeys. Imports next to nothing, because every error message needs it."""

from __future__ import annotations

import codecs
import io
import os
import re
from typing import IO, Final

from linestop.schemas.text.visible_text import INVISIBLE

# Characters that show nothing, and those of private use, which fonts draw differently.
HIDDEN: Final = f"{INVISIBLE}\ue000-\uf8ff\U000f0000-\U0010ffff"

# C0 and C1 controls, DEL and lone surrogates: characters that a terminal obeys, or cannot write.
_UNSAFE: Final = re.compile(f"[\x00-\x1f\x7f-\x9f{HIDDEN}\ud800-\udfff]")
_ALLOWED_IN_BLOCK: Final = frozenset("\n\t")


def escape_controls(text: str, *, block: bool = False) -> str:
    """Escape the characters that a terminal obeys. ``block`` keeps line breaks and tabs."""

    def escaped(match: re.Match[str]) -> str:
        char = match[0]
        if block and char in _ALLOWED_IN_BLOCK:
            return char
        return char.encode("unicode_escape", "surrogatepass").decode()

    return _UNSAFE.sub(escaped, text)


_ASCII_SPELLINGS: Final = {"…": "...", "·": "-", "✓": "ok", "—": "-", "→": "->", "“": '"', "”": '"'}
"""ASCII spellings of the other characters that linestop prints, for terminals that cannot show them."""


def _spell_in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks: the error handler of a codec."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(
        _ASCII_SPELLINGS.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text
    ), error.end


def accept_any_text(*streams: object) -> None:
    """Make these streams accept every character in any encoding of the terminal."""
    codecs.register_error("linestop-spell", _spell_in_ascii)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="linestop-spell")


def writes_unicode(stream: IO[str]) -> bool:
    """Whether the stream can write every character unchanged."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


_COMMAND: Final = re.compile("`[^`\\n]*`")
_NO_BREAK: Final = "\xa0"
_LABEL: Final = re.compile(r" {2,}\S+ +")
COLUMNS_MIN: Final = 20


def wrap_lines(text: str, columns: int, *, hang: int = 0) -> str:
    """Break lines that are longer than ``columns`` between words, and never inside a command.

    The continuation is indented to the text of a labelled line (``  reason  …``), else by ``hang`` spaces.
    """
    return "\n".join(_wrap_line(line, columns, hang) for line in text.split("\n"))


def _wrap_line(line: str, columns: int, hang: int) -> str:
    if len(line) <= columns or line.lstrip().startswith("$ "):
        return line
    # Imported here: most lines fit.
    import textwrap  # noqa: PLC0415

    label = _LABEL.match(line)
    indent = len(label[0]) if label else hang
    unbroken = _COMMAND.sub(lambda found: found[0].replace(" ", _NO_BREAK), line)
    lines = textwrap.wrap(
        unbroken,
        columns,
        subsequent_indent=" " * (indent if indent <= columns // 2 else 0),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    return "\n".join(lines).replace(_NO_BREAK, " ")


def wrap_for(stream: IO[str], text: str, *, hang: int = 0) -> str:
    """The text with its lines wrapped if the stream is a terminal, else unchanged: programs read whole lines."""
    columns = _terminal_columns(stream)
    return wrap_lines(text, columns, hang=hang) if columns >= COLUMNS_MIN else text


def _terminal_columns(stream: IO[str]) -> int:
    """The width of the terminal in columns; 0 if the stream is not a terminal or its width is unknown."""
    if not stream.isatty():
        return 0
    given = os.environ.get("COLUMNS", "")
    try:
        return int(given) if given.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0
