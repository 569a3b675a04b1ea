"""Text as typed tokens, so that values are compared whole: an address with an address, a number with a number.

A part of a token is never the token: ``anna@firm.co`` is not in ``anna@firm.co.uk``, ``/srv`` not in ``/srv/data``,
and the 13 of ``June 13`` belongs to a date. Characters between tokens (quotes, operators, invisible characters) are
tokens too, so no part of a value is skipped.

Every pattern is anchored at the first character of a token and bounded, so that any text takes linear time.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["link", "address", "account", "date", "time", "number", "path", "identifier", "word", "sign"]
Unit = Literal["", "major", "minor", "percent"]

_MONTH = (
    r"(?:jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz?|mrz|apr(?:il)?|may|mai|june?|juni|july?|juli|"
    r"aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?|okt(?:ober)?|nov(?:ember)?|dec(?:ember)?|dez(?:ember)?)"
)
_YEAR = r"(?:19|20)\d\d"
_DATE = (
    rf"\d{{4}}-\d\d?-\d\d?(?:[T ]\d\d?:\d\d(?::\d\d(?:\.\d{{1,9}})?)?(?:Z|[+-]\d\d:?\d\d)?)?(?![\w-])"
    rf"|\d{{4}}/\d\d?/\d\d?(?![\w/])|\d\d?(?P<sep>[./-])\d\d?(?P=sep)(?:\d{{4}}|\d\d)(?![\w/-]|\.\d)"
    rf"|{_MONTH}\.? \d\d?(?:st|nd|rd|th)?(?:,? {_YEAR})?(?!\w|:\d)"
    rf"|\d\d?(?:st|nd|rd|th|\.)? (?:of )?{_MONTH}(?:,? {_YEAR})?(?!\w)"
    rf"|{_MONTH} {_YEAR}(?!\w)|{_YEAR}-\d\d(?![\w-])|\d\d?(?:st|nd|rd|th)(?!\w)"
)
_NUMBER = (
    r"[-+\u2212]?(?:\d{1,3}(?:[,.'\u2019\u00a0\u202f]\d{3}){1,6}(?:[.,]\d{1,9})?|\d{1,20}(?:[.,]\d{1,9})?)"
    r"(?=(?:eur|usd|gbp|chf|k?€)(?!\w)|(?![\w]|[.,:/_'-]\w|@))"
)
_TOKEN = re.compile(
    r"(?P<link>[a-z][a-z0-9+.-]{1,20}://[^\s<>\"`]{1,4000}|(?:mailto|data|javascript|tel):[^\s<>\"`]{1,4000}|www\.[^\s<>\"`]{1,4000})"
    r"|(?P<address>[\w.+%-]{1,64}@[\w.-]{0,253}|@[\w.-]{1,253})"
    r"|(?P<account>[a-z]{2}\d{2}(?: ?[a-z0-9]{4}){2,7}(?: ?[a-z0-9]{1,3})?(?!\w)|\d{4}(?:[ -]\d{4}){3}(?!\w)"
    r"|\+\d[\d ()/-]{6,20}\d(?!\w)|\(?\d{3}\)?[ -]\d{3}-\d{4}(?!\w))"
    rf"|(?P<date>{_DATE})"
    r"|(?P<time>\d\d?:\d\d(?::\d\d)?(?: ?(?:am|pm|a\.m\.|p\.m\.))?(?![\w:])"
    r"|\d\d? ?(?:am|pm|a\.m\.|p\.m\.|uhr|o'clock)(?!\w))"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<path>[a-z]:\\[^\s\"'<>]{1,1000}|(?:~|\.{1,2})?/[^\s\"'<>,;)]{0,1000}"
    r"|[\w.-]{1,200}(?:/[\w.@%+~=&?#-]{1,200}){1,40}/?)"
    r"|(?P<word>\w[\w'\u2019]{0,200}(?:[._:-][\w'\u2019]{1,200}){0,60})"
    r"|(?P<sign>\S)",
    re.IGNORECASE,
)
_TRAILING = ".,;:!?)]}'\u2019"
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_CHARS_MAX = 2_000_000
"""The most characters of a text that are read; later ones are not an origin of any value."""

CURRENCIES = {
    "€": "eur",
    "eur": "eur",
    "euro": "eur",
    "euros": "eur",
    "$": "usd",
    "usd": "usd",
    "dollar": "usd",
    "dollars": "usd",
    "£": "gbp",
    "gbp": "gbp",
    "pound": "gbp",
    "pounds": "gbp",
    "chf": "chf",
    "franken": "chf",
}
_CODES = frozenset(CURRENCIES.values())
_PERCENT = frozenset({"%", "percent", "prozent"})
_MINOR = frozenset({"cent", "cents", "ct", "pence", "penny", "pennies", "rappen"})
_SPELLED_NUMBERS = {
    name: number
    for number, names in enumerate(
        (
            "two zwei",
            "three drei",
            "four vier",
            "five fünf",
            "six sechs",
            "seven sieben",
            "eight acht",
            "nine neun",
            "ten zehn",
            "eleven elf",
            "twelve zwölf",
        ),
        2,
    )
    for name in names.split()
}


class Token(NamedTuple):
    """One token: its kind, and its text in the form in which it is compared."""

    kind: Kind
    text: str


class Amount(NamedTuple):
    """A number in a text: its possible values, and its unit: ``major`` are euros, ``minor`` cents."""

    values: frozenset[Decimal]
    unit: Unit
    decimals: bool


def normalized(text: str) -> str:
    """Return ``text`` with equal characters written alike; lookalikes stay different."""
    return unicodedata.normalize("NFC", text[:_CHARS_MAX])


@lru_cache(maxsize=512)
def tokens(text: str) -> tuple[Token, ...]:
    """Return the tokens of a text, in order."""
    result: list[Token] = []
    text = normalized(text)
    at = 0
    while (match := _TOKEN.search(text, at)) is not None:
        kind: Kind = match.lastgroup or "sign"  # type: ignore[assignment] # the names of the groups are kinds
        whole, at = match[0], match.end()
        if kind in {"link", "address", "path"}:
            cut = whole.rstrip(_TRAILING)
            if cut and len(cut) < len(whole):
                at, whole = match.start() + len(cut), cut
        result.append(_token(kind, whole))
    return tuple(result)


def _token(kind: Kind, text: str) -> Token:
    if kind == "link":
        # Names of hosts have no case; the rest of a link may have.
        head, slash, rest = text.partition("://")
        host, cut, path = rest.partition("/") if slash else (head.partition("/"))
        scheme = f"{head.casefold()}://" if slash else ""
        return Token(kind, f"{scheme}{host.casefold()}{cut}{path}")
    if kind == "account":
        return Token(kind, without_separators(text))
    if kind == "word":
        text = _POSSESSIVE.sub("", text) or text
        mixed = any(c.isdigit() for c in text) or any(c in "._:-" for c in text)
        kind, text = ("identifier" if mixed else "word"), text.casefold()
        return Token(kind, CURRENCIES.get(text, text))
    if kind == "sign" and text in CURRENCIES:
        return Token("word", CURRENCIES[text])
    return Token(kind, text if kind == "path" else " ".join(text.casefold().split()))


def without_separators(text: str) -> str:
    """Return an account, card or telephone number without blanks and dashes."""
    return re.sub(r"[\s()/-]", "", text).casefold()


def possible_numbers(text: str) -> frozenset[Decimal]:
    """Return the values that a written number may have: ``1.000`` is a thousand to some and one to others."""
    plain = text.replace("\u2212", "-").lstrip("+")
    plain = re.sub(r"['\u2019\u00a0\u202f]", "", plain)
    if not plain.isascii():
        return frozenset()
    marks = [mark for mark in plain if mark in ".,"]
    forms = {plain}
    if len(set(marks)) == 2:
        last = marks[-1]
        forms = {plain.replace("," if last == "." else ".", "").replace(last, ".")}
    elif len(marks) > 1:
        forms = {plain.replace(marks[0], "")}
    elif marks:
        _, _, rest = plain.partition(marks[0])
        forms = {plain.replace(marks[0], ".")} | ({plain.replace(marks[0], "")} if len(rest) == 3 else set[str]())
    numbers: set[Decimal] = set()
    for form in forms:
        try:
            numbers.add(Decimal(form).normalize())
        except InvalidOperation:
            continue
    return frozenset(numbers)


@lru_cache(maxsize=512)
def amounts(text: str) -> tuple[Amount, ...]:
    """Return the numbers of a text, each with the unit beside it."""
    result: list[Amount] = []
    line = tokens(text)
    for at, token in enumerate(line):
        if token.kind == "number":
            beside = {near.text for near in (*line[max(at - 1, 0) : at], *line[at + 1 : at + 2])}
            after = line[at + 1].text if at + 1 < len(line) else ""
            unit: Unit = (
                "percent" if after in _PERCENT else "major" if beside & _CODES else "minor" if beside & _MINOR else ""
            )
            result.append(Amount(possible_numbers(token.text), unit, re.search(r"[.,]\d\d$", token.text) is not None))
        elif token.kind == "word" and token.text in _SPELLED_NUMBERS:
            result.append(Amount(frozenset({Decimal(_SPELLED_NUMBERS[token.text])}), "", decimals=False))
    return tuple(result)
