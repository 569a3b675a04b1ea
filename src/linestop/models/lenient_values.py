"""Reads values of a provider's answer as far as they can be read.

Compatible servers vary in the side parts of an answer: ids as numbers, arguments as objects, counters as null. The
two readers read the parts that carry the answer strictly. The functions here return "nothing" for a side part that
cannot be read, and never raise for one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import cast

import msgspec

from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import TOKENS_MAX

_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_RAW_BYTES = re.compile("[\udc80-\udcff]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BEGUN = re.compile(
    "(?:[\ud800-\udbff]|[\udcc2-\udcdf]|[\udce0-\udcef][\udc80-\udcbf]?|[\udcf0-\udcf4][\udc80-\udcbf]{0,2})\\Z"
)
"""The end of a piece that begins a character: its first surrogate, or its first bytes."""

_PLACEHOLDERS = ("{}", "null")
_DIGITS_MAX = 30


def read_object(data: bytes) -> JsonObject | None:
    """The JSON object in ``data``; None for data without content (blank, null, a keep-alive word).

    Two events may split a character, as bytes or as an escaped surrogate: both halves are kept, and ``join_pieces``
    joins them.

    Raises:
        ValueError: the data is something else.
    """
    if not data.strip():
        return None
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = json.loads(data.decode("utf-8", "surrogateescape"), parse_int=_number)
    if not isinstance(value, dict | list) or value == []:
        return None
    if not isinstance(value, dict):
        raise ValueError("an event that is not a JSON object")  # noqa: TRY004 - of the answer, not of our own code
    return cast("JsonObject", value)


def join_pieces(pieces: list[str]) -> str:
    """Join the pieces of a text, and the halves of characters that were split between them.

    Raises:
        ValueError: an unpaired surrogate is left.
    """
    text = "".join(pieces)
    if not _SURROGATE.search(text):
        return text
    text = _join_halves(text, errors="strict")
    if _SURROGATE.search(text):
        raise ValueError("an unpaired surrogate")
    return text


def _join_halves(text: str, *, errors: str) -> str:
    text = _SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _RAW_BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode(errors=errors), text)


class WholeCharacters:
    """A text for watchers, piece by piece; the first half of a character waits for the second."""

    def __init__(self) -> None:
        self._first_half = ""

    def piece(self, piece: str) -> str:
        """The text that can be shown after ``piece``."""
        text = self._first_half + piece
        begun = _BEGUN.search(text)
        self._first_half = begun[0] if begun else ""
        return replace_surrogates(_join_halves(text[: len(text) - len(self._first_half)], errors="replace"))


def replace_surrogates(piece: str) -> str:
    """A piece of a text for watchers, with U+FFFD for each unpaired surrogate."""
    return _SURROGATE.sub("\ufffd", piece)


def id_text(value: object) -> str:
    """An id or a name; a number counts as one, anything else gives ""."""
    if isinstance(value, str):
        return replace_surrogates(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def read_index(value: object) -> int | None:
    """An index, also one written as a text or a float; None for anything else."""
    if isinstance(value, str) and value.isdecimal() and len(value) < _DIGITS_MAX:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fields_of(value: object) -> JsonObject:
    """The fields of an object; null and empty values have none.

    Raises:
        ValueError: the value is something else.
    """
    if not value:
        return {}
    if not isinstance(value, dict):
        raise ValueError("something else in the place of an object")  # noqa: TRY004 - as above
    return cast("JsonObject", value)


def arguments_text(value: object) -> str:
    """A call's arguments as the model wrote them, or as its server understood them.

    Raises:
        ValueError: the arguments hold a number that JSON cannot express.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def assembled_args(pieces: list[str]) -> str:
    """Join a call's arguments, also if each fragment repeats the ones before, or the first is a placeholder.

    Raises:
        ValueError: an unpaired surrogate is left.
    """
    text = join_pieces(pieces)
    if is_json_object(text) or not pieces:
        return text
    if is_json_object(last := join_pieces(pieces[-1:])) and all(
        last.startswith(piece) for piece in pieces if piece.strip()
    ):
        return last
    for placeholder in _PLACEHOLDERS:
        if is_json_object(rest := text.removeprefix(placeholder)):
            return rest
    return text


def is_json_object(args: str) -> bool:
    """Whether arguments are a whole JSON object."""
    try:
        return isinstance(cast("object", msgspec.json.decode(args)), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False


class TokenCounts:
    """The token counters of one answer, from all its reports; reports are totals, so a counter never falls.

    Args:
        paths: Counter → its path in a report.
    """

    def __init__(self, paths: Mapping[str, tuple[str, ...]]) -> None:
        self._paths = paths
        self._counts: dict[str, int] = {}
        self._unreadable: set[str] = set()

    @property
    def is_readable(self) -> bool:
        """Whether every counter that was reported could be read."""
        return not self._unreadable

    def __getitem__(self, counter: str) -> int:
        """The counter, 0 if it was not reported."""
        return self._counts.get(counter, 0)

    def __contains__(self, counter: object) -> bool:
        """Whether the counter was reported."""
        return counter in self._counts

    def add_report(self, report: object) -> dict[str, int]:
        """Add a report; return the counters in it."""
        reported: dict[str, int] = {}
        for counter, path in self._paths.items():
            value = report
            for key in path:
                if value is None:
                    break
                value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else math.nan
            count = read_index(value) if not isinstance(value, str) else None
            if value is not None and (count is None or not 0 <= count <= TOKENS_MAX):
                self._unreadable.add(counter)
            elif count is not None:
                reported[counter] = count
                self._unreadable.discard(counter)
                self._counts[counter] = max(count, self._counts.get(counter, 0))
        return reported


def _number(digits: str) -> int | float:
    """Parse a number; Python refuses one of thousands of digits, which would cost the whole answer."""
    return int(digits) if len(digits) <= _DIGITS_MAX else math.inf
