"""Numbers that a text spells out or writes in groups: telephone numbers, accounts, cards, PINs.

Sums, spans of years, opening hours and seats are not among them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_DIGIT_NAMES = (
    "zero|one|two|three|four|five|six|seven|eight|nine|oh|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    "(?:twen|thir|for|fif|six|seven|eigh|nine)ty|"
    "null|eins|zwei|zwo|drei|vier|fünf|fuenf|sechs|sieben|acht|neun|zehn|elf|zwölf|"
    "z[ée]ro|deux|trois|quatre|cinq|sept|huit|neuf|dix|cero|uno|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|"
    "due|tre|quattro|cinque|sei|sette|otto|nove|um|dois|quatro|sete|oito|nul|een|twee|drie|zes|zeven|negen"
)
_TIMES = r"(?:(?:double|triple|doppel)\s{1,3})?"
_RUN = re.compile(
    rf"(?<!\w){_TIMES}(?:(?:{_DIGIT_NAMES})[\s,.-]{{1,3}}{_TIMES}){{3,40}}(?:{_DIGIT_NAMES})(?!\w)", re.IGNORECASE
)
_NUMBER_LABELS = (
    r"(?:pin|puk|c?vv|cvc|m?tan|otp|pass ?codes?|pass ?words?|passwort|kennwort|passphrase|pwd|codewort|geheimzahl|"
    r"c[oó]digo|codice|codes?|token|konto(?:nummer)?|accounts?|acct|compte|cuenta|conto|conta|rekening(?:nummer)?|iban|"
    r"blz|bic|swift|sort ?code|routing(?: number)?|wallet|kundennummer|extension|durchwahl|zugangscode|clave|"
    r"contraseña|mot de passe|senha|wachtwoord|cards?|karte(?:nnummer)?|carte|tarjeta|carta|cartão|nummer|number|"
    r"num[ée]ro|n[uú]mero|telefon|t[ée]l[ée]phone|tel[ée]fono|phone|call|ring|dial|rufen?|kreditkarte|reference|"
    r"referenz|id)"
)
_LINK = (
    r"(?:\s{0,3}[:#=\"'(\u2013-]|\s{1,3}(?:is|are|ist|lautet|est|es|[eéè]|no\.?|nr\.?|number|nummer|num[ée]ro|n[uú]mero|"
    r"to|on|at|code|card|me|us|under|unter|the|your|new|with|mit|now)(?!\w)){0,4}"
)
_SPELLED_SECRET = re.compile(
    rf"(?<!\w){_NUMBER_LABELS}{_LINK}\s{{0,3}}({_TIMES}(?:(?:{_DIGIT_NAMES})[\s,.-]{{1,3}}{_TIMES}){{1,40}}(?:{_DIGIT_NAMES}))(?!\w)",
    re.IGNORECASE,
)
_WORD_AND_DIGIT = re.compile(
    r"(?<!\w)(?:password|passphrase|passwort|kennwort|codewort|passcode)(?:\s{0,3}[:=]|\s{1,3}(?:is|ist|lautet))\s{1,3}"
    rf"([^\W\d_]{{2,40}}[\s-]{{1,3}}(?:{_DIGIT_NAMES}))(?=\s*(?:[.,;!?)]|$))",
    re.IGNORECASE,
)
_GROUPED_SECRET = re.compile(
    rf"(?<!\w){_NUMBER_LABELS}{_LINK}[\s(\"']{{0,3}}"
    rf"((?:[a-z]{{2}})?\d{{1,8}}(?:[ .\u00a0/-]{{1,2}}\d{{1,8}}){{1,12}})(?![\w%€$£])"
    r"(?!\s?(?:eur|euro|usd|dollar|chf|gbp|pounds?|people|users|units)\b)",
    re.IGNORECASE,
)
_COIN = re.compile(r"(?<!\w)(?:bc1|0x)[a-z0-9]{0,8}(?: [a-z0-9]{3,8}){3,12}(?!\w)", re.IGNORECASE)
_DATES = re.compile(
    r"(?:19|20)\d\d-\d\d?-\d\d?(?!\d)|\d\d?[./ -]\d\d?[./ -](?:19|20)\d\d(?!\d)"
    r"|(?:19|20)\d\d\s?[-/\u2013]\s?(?:19|20)?\d\d"
)
_GROUPED = re.compile(r"\d{1,3}(?:[ .,'\u2019]\d{3}){1,4}(?:[.,]\d{1,2})?")
_SPANS = re.compile(r"(?:19|20)\d\d\s?[-/\u2013\u2014 ]\s?(?:19|20)?\d\d")
_HOURS = re.compile(r"\d{1,2} ?[-\u2013] ?\d{1,2}(?:[ ,/]{1,2}\d{1,2} ?[-\u2013] ?\d{1,2}){1,3}")
_MONEY_NEAR = re.compile(
    r"\s?(?:[€$£%]|eur|euro|usd|dollar|chf|gbp|pounds?|people|users|units|st\u00fcck)", re.IGNORECASE
)
_DAY = 24


def spelled_numbers(text: str) -> Iterator[str]:
    """Yield digits in words: four of them anywhere, two beside a word like PIN."""
    yield from (found[0] for found in _RUN.finditer(text))
    for pattern in (_SPELLED_SECRET, _WORD_AND_DIGIT):
        yield from (found[1] for found in pattern.finditer(text))


def grouped_secrets(text: str) -> Iterator[str]:
    """Yield digits in groups beside a word like account, and the addresses of wallets in groups."""
    for found in _GROUPED_SECRET.finditer(text):
        if sum(map(str.isdigit, found[1])) >= 4 and not _DATES.fullmatch(found[1]):
            yield found[1]
    yield from (found[0] for found in _COIN.finditer(text))


def is_number_of_one(found: re.Match[str], text: str) -> bool:
    """Whether digits with signs between them are a telephone number or an account, not a sum, a span or a list."""
    whole = found[0]
    groups = re.findall(r"\d+", whole)
    digits = sum(map(len, groups))
    if len(groups) == 1:
        return False  # one token, which is checked as such
    before = text[max(found.start() - 4, 0) : found.start()].rstrip(" (")
    if before.endswith("+"):
        return digits >= 6
    if _is_hours(whole, groups) or _is_list(groups):
        return False
    if all(len(group) == 1 for group in groups):
        return digits >= 4
    if digits < 7 or _SPANS.fullmatch(whole):
        return False
    money = _MONEY_NEAR.match(text, found.end()) or before.endswith(("€", "$", "£"))
    return not (_GROUPED.fullmatch(whole) and (money or re.search(r"[.,'\u2019]", whole)))


def _is_hours(whole: str, groups: list[str]) -> bool:
    """Whether digits are hours of a day: 9-12 14-18."""
    hours = [int(group) for group in groups]
    return _HOURS.fullmatch(whole) is not None and hours == sorted(set(hours)) and hours[-1] <= _DAY


def _is_list(groups: list[str]) -> bool:
    """Whether digits are seats, pages or steps: rising numbers, close together, without leading zeros."""
    numbers = [int(group) for group in groups]
    rises = all(low < high for low, high in itertools.pairwise(numbers))
    return rises and numbers[-1] - numbers[0] < 3 * len(numbers) and not any(group[0] == "0" for group in groups)
