"""Letters that pass for others: what a person who decides must be told about a text. Pure.

Characters that nobody can see are escaped wherever linestop prints (``plain.clean``). A letter of another alphabet is
seen, but not told from its double: ``paypal.com`` with a Cyrillic U+0430 for its ``a`` is another host.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from linestop.cli.plain import clean

WORDS_SHOWN: Final = 5
TEXT_CHARS_MAX: Final = 20_000
"""How much of a text is looked at; a question shows no more of it."""

_WORD: Final = re.compile(r"[^\W\d_]+(?:[\w.@:/-]*\w)?")
_ALPHABETS: Final = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "GEORGIAN")
"""Alphabets with letters that look like another one's. Source: Unicode's confusables.txt (UTS 39), in large."""

_LIKE_LATIN: Final = frozenset("асеорхуіјѕԁһԛԝАВСЕНІЈКМОРЅТХУαορνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ")  # noqa: RUF001 - they are the point
"""Cyrillic and Greek letters that are drawn like Latin ones. Source: confusables.txt."""

_STYLED: Final = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff\u2100-\u214f\u2460-\u24ff]")
"""Full-width, mathematical and enclosed forms of letters and digits: other characters that read the same."""


def lookalikes(text: str) -> list[str]:
    """One sentence for each word of ``text`` that may be read as another one, at most ``WORDS_SHOWN``."""
    found: list[str] = []
    for match in _WORD.finditer(text[:TEXT_CHARS_MAX]):
        if match[0].isascii():
            continue
        sentence = _about(match[0])
        if sentence and sentence not in found:
            found.append(sentence)
            if len(found) == WORDS_SHOWN:
                break
    return found


def _about(word: str) -> str:
    alphabets = {name: char for char in word if (name := _alphabet(char))}
    shown = clean(word[:80])
    if len(alphabets) > 1:
        parts = ", ".join(f"{name.title()} {char} (U+{ord(char):04X})" for name, char in alphabets.items())
        return f"'{shown}' mixes alphabets: {parts}"
    letters = [char for char in word if char.isalpha()]
    if "LATIN" not in alphabets and all(char in _LIKE_LATIN for char in letters):
        return f"'{shown}' has no Latin letter, although it looks like it: {next(iter(alphabets), 'other')} throughout"
    if _STYLED.search(word):
        return f"'{shown}' is written with other characters than '{clean(unicodedata.normalize('NFKC', word)[:80])}'"
    return ""


def _alphabet(char: str) -> str:
    """The alphabet of a letter, if it is one with doubles in another."""
    if char.isascii():
        return "LATIN" if char.isalpha() else ""
    name = unicodedata.name(char, "").partition(" ")[0]
    return name if name in _ALPHABETS else ""
