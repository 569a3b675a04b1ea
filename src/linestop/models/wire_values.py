"""Values of a provider's answer, read as far as they can be read.

Compatible servers write the side parts of an answer as they like: ids as numbers, arguments as objects, counters as
null. What carries the answer is read strictly by the two readers; everything here returns "nothing" for a side part
that cannot be read, and never raises for one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from linestop.schemas.model_messages import TOKENS_MAX

_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_RAW_BYTES = re.compile("[\udc80-\udcff]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BEGUN = re.compile(
    "(?:[\ud800-\udbff]|[\udcc2-\udcdf]|[\udce0-\udcef][\udc80-\udcbf]?|[\udcf0-\udcf4][\udc80-\udcbf]{0,2})\\Z"
)
"""The end of a piece that is the beginning of a character: the first of two surrogates, or of its bytes."""

_PLACEHOLDERS = ("{}", "null")
_DIGITS_MAX = 30


def read_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in ``data``; None for what says nothing (blank, null, a single word that keeps alive).

    A character may be cut in two by the events that carry it, as bytes or as an escaped surrogate: the halves are
    kept, for ``joined`` to put together.

    Raises:
        ValueError: it is something else.
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
    return cast("dict[str, Any]", value)


def join_pieces(pieces: list[str]) -> str:
    """One text of its pieces, with characters that were cut in two put together.

    Raises:
        ValueError: half a character is left.
    """
    text = "".join(pieces)
    if not _SURROGATE.search(text):
        return text
    text = _whole_characters(text, errors="strict")
    if _SURROGATE.search(text):
        raise ValueError("half a character")
    return text


def _whole_characters(text: str, *, errors: str) -> str:
    text = _SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _RAW_BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode(errors=errors), text)


class Shown:
    """A text for watchers, piece by piece: the beginning of a character waits for its rest."""

    def __init__(self) -> None:
        self._held = ""

    def piece(self, piece: str) -> str:
        """What can be shown now that ``piece`` has come."""
        text = self._held + piece
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun else ""
        return replace_surrogates(_whole_characters(text[: len(text) - len(self._held)], errors="replace"))


def replace_surrogates(piece: str) -> str:
    """A piece of a text for watchers; half of a character is shown as a mark."""
    return _SURROGATE.sub("\ufffd", piece)


def id_text(value: object) -> str:
    """An id or a name; a number is one too, anything else is none."""
    if isinstance(value, str):
        return replace_surrogates(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def read_index(value: object) -> int | None:
    """An index, also where it is written as a text or a float; None for none."""
    if isinstance(value, str) and value.isdecimal() and len(value) < _DIGITS_MAX:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def fields_of(value: object) -> dict[str, Any]:
    """An object's fields; null, and what is empty, has none.

    Raises:
        ValueError: it is something else.
    """
    if not value:
        return {}
    if not isinstance(value, dict):
        raise ValueError("something else in the place of an object")  # noqa: TRY004 - as above
    return cast("dict[str, Any]", value)


def arguments_text(value: object) -> str:
    """A call's arguments as the model wrote them, or as its server understood them.

    Raises:
        ValueError: they hold a number that JSON cannot write.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def assembled_args(pieces: list[str]) -> str:
    """A call's arguments of their fragments, also where each fragment repeats what came before, or a placeholder leads.

    Raises:
        ValueError: half a character is left.
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
    """The counters of one answer, from all reports of it: totals, so that none ever falls.

    Args:
        paths: Counter → where it stands in a report.
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
        """Enter a report; return the counters that it says."""
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
    """Python refuses to read a number of thousands of digits, which would cost the whole answer."""
    return int(digits) if len(digits) <= _DIGITS_MAX else math.inf
