"""Letters that look like others: what a person must know about a text before deciding. Pure.

Invisible characters are escaped wherever linestop prints (``terminal_escape.escape_controls``). A letter of another
alphabet is visible, but cannot be told from its double: ``paypal.com`` with a Cyrillic U+0430 for its ``a`` is another
host.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from linestop.cli.output.terminal_escape import escape_controls
from linestop.cli.output.unicode_confusables import CONFUSABLES

WORDS_SHOWN: Final = 5
TEXT_CHARS_MAX: Final = 20_000
"""Characters of a text that are searched; a question shows no more of it."""

_ENCLOSED: Final = "\u2460-\u24ff\u3200-\u32ff\U0001f110-\U0001f189"
"""Letters in circles and squares, which count as symbols."""

_DIGITS: Final = "\uff10-\uff19\U0001d7ce-\U0001d7ff"
"""Full-width and mathematical ones."""

_WORD: Final = re.compile(rf"(?:[^\W\d_]|[{_ENCLOSED}{_DIGITS}])(?:(?:[\w.@:/-]|[{_ENCLOSED}])*(?:\w|[{_ENCLOSED}]))?")
_MIXED_SCRIPTS: Final = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
"""Scripts that ordinary words mix, with each other and with Latin."""

_NOT_ALPHABETS: Final = frozenset({
    "MODIFIER", "COMBINING", "FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "ROMAN", "SMALL", "DOUBLE-STRUCK", "SCRIPT",
    "BLACK-LETTER", "FEMININE", "MASCULINE", "KELVIN", "ANGSTROM", "OHM", "MICRO", "SUPERSCRIPT", "SUBSCRIPT",
    "PLANCK", "EULER", "TURNED", "ALEF", "INFORMATION", "IDEOGRAPHIC", "VERTICAL", "PROLONGED",
})  # fmt: skip
"""First words of the names of letters that belong to no alphabet of their own."""

_FORMS: Final = ("CIRCLED", "SQUARED", "LETTER SMALL CAPITAL")
_LIVING_LETTERS: Final = frozenset("\u0131")
"""Letters of living languages that look like another: reported only in an address."""


def lookalikes(text: str) -> list[str]:
    """One sentence for each word of ``text`` that may be read as another one, at most ``WORDS_SHOWN``."""
    found: list[str] = []
    for match in _WORD.finditer(text[:TEXT_CHARS_MAX]):
        if match[0].isascii():
            continue
        sentence = _lookalike_sentence(match[0])
        if sentence and sentence not in found:
            found.append(sentence)
            if len(found) == WORDS_SHOWN:
                break
    return found


def _lookalike_sentence(word: str) -> str:
    alphabets: dict[str, str] = {}
    for char in word:
        if name := _alphabet(char):
            alphabets.setdefault(name, char)
    shown = escape_controls(word[:80])
    if len(alphabets) > 1:
        parts = ", ".join(f"{name.title()} {char} (U+{ord(char):04X})" for name, char in alphabets.items())
        return f"'{shown}' mixes alphabets: {parts}"
    letters = [char for char in word if char.isalpha()]
    if letters and "LATIN" not in alphabets and all(char in CONFUSABLES for char in letters):
        return f"'{shown}' has no Latin letter, although it looks like it: {next(iter(alphabets), 'other')} throughout"
    address = "@" in word or "." in word
    read = "".join(_read_as(char, address=address) for char in word)
    if read != word and "LATIN" in alphabets.keys() | {"LATIN" if _is_styled(char) else "" for char in word}:
        char = next(char for char in word if _read_as(char, address=address) != char)
        ascii_form = escape_controls(read[:80])
        return f"'{shown}' is written with other characters than '{ascii_form}': {char} (U+{ord(char):04X})"
    return ""


def _read_as(char: str, *, address: bool) -> str:
    """The letter that a person reads: the letter itself, or the ASCII letter that it looks like."""
    if char.isascii() or (char in _LIVING_LETTERS and not address):
        return char
    return _ascii_form(char) or CONFUSABLES.get(char, char)


def _is_styled(char: str) -> bool:
    return not char.isascii() and bool(_ascii_form(char))


def _ascii_form(char: str) -> str:
    """The ASCII letters or digits of which a character is a variant: full-width, mathematical, Roman, in a circle."""
    if unicodedata.category(char) == "No" or char in "\u00aa\u00ba":
        # Raised digits, fractions and ordinals have a meaning of their own.
        return _enclosed_letter(char)
    ascii_form = unicodedata.normalize("NFKC", char)
    return ascii_form if ascii_form.isascii() and ascii_form.isalnum() else _enclosed_letter(char)


def _enclosed_letter(char: str) -> str:
    """The letter in a circle or square, or of a small capital, which some characters have only in their names."""
    name = unicodedata.name(char, "")
    letter = name.rpartition(" ")[2]
    return letter if len(letter) == 1 and any(form in name for form in _FORMS) else ""


def _alphabet(char: str) -> str:
    """The alphabet of a letter, as the first word of its name; empty for characters of none or of every alphabet."""
    if char.isascii():
        return "LATIN" if char.isalpha() else ""
    if not char.isalpha() or _ascii_form(char):
        return ""
    name = unicodedata.name(char, "").partition(" ")[0]
    return "" if name in _NOT_ALPHABETS or name in _MIXED_SCRIPTS else name
