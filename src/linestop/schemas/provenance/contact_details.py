"""Leads: the parts of a text that a reader could follow: links, addresses, accounts, telephone numbers, names.

There are two kinds: tokens that are leads by their form (``leading``), and leads that take several tokens or a word
beside them (``short_leads``): a telephone number in groups, a PIN, a name on a messenger, a host that is spelled out.
Prose seldom has any, so people are seldom asked; a lead in words that no pattern knows passes.
Leads are compared without the signs between their parts.

Every pattern is bounded and anchored at a character that it cannot pass twice, so that any text takes linear time.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from linestop.schemas.provenance.contact_hosts import spelled_hosts
from linestop.schemas.provenance.contact_names import PLATFORMS as _MESSENGERS
from linestop.schemas.provenance.contact_names import names_on_platforms
from linestop.schemas.provenance.contact_numbers import grouped_secrets, is_number_of_one, spelled_numbers
from linestop.schemas.provenance.tokens import Token, tokens

_FILES = frozenset(
    {
        "pdf",
        "txt",
        "docx",
        "doc",
        "xlsx",
        "xls",
        "csv",
        "png",
        "jpg",
        "jpeg",
        "gif",
        "json",
        "xml",
        "html",
        "pptx",
        "log",
        "yaml",
        "yml",
        "ini",
    }
)
"""Endings of files; no domain has them."""

_HOST = re.compile(r"(?:[\w-]{1,63}\.){1,8}([^\W\d_]{2,24})")
_ENDINGS = r"(?:com|org|net|io|co|de|info|xyz|dev|app|me|ru|cn|uk|eu|site|online|shop)(?!\w)"
_SPELLED_HOST = re.compile(
    rf"\w{{1,63}}(?:\s{{1,3}}\.\s{{0,3}}{_ENDINGS}|\s{{1,3}}(?:dot|punkt)\s{{1,3}}{_ENDINGS}|,{_ENDINGS}"
    r"|\s{0,3}[\[({]\s{0,3}(?:dot|punkt|at|\.|@)\s{0,3}[\])}]\s{0,3}\w)",
    re.IGNORECASE,
)

_SHORT_ENDINGS = r"(?:com|org|net|io|xyz|dev|ru|cn|uk|eu|biz|ch|nl|(?:de|co|info|at|fr)(?=\s*(?:[/.,;:!?)]|$)))(?!\w)"
_SPELLED = re.compile(
    # Spelled in words or with another dot: evil point com, evil -dot- com, evil d0t com.
    r"(?<!\w)(?:d[o0]t|p[uo]n[ck]t|p[uo]nto|point|kropka|\u0442\u043e\u0447\u043a\u0430)[\s\-_*<>\"'|~]{1,3}"
    rf"{_SHORT_ENDINGS}"
    rf"|\w[\s\-_*<>\"'|~]{{0,3}}[\u00b7\u2022\u2027\u30fb\u22c5\u2219\u0387\u2024]\s{{0,3}}{_SHORT_ENDINGS}"
    rf"|\w[*_|~<>]{{1,2}}[.]?[*_|~<>]{{0,2}}{_SHORT_ENDINGS}"
    # Torn apart: evil. com, www evil com, hxxp, eve at gmail.
    r"|\w\.\s{1,3}(?-i:com|org|net|xyz)(?!\w)"
    r"|(?<!\w)www(?:\s{1,3}\w|\s?\(|\s?\[)"
    r"|(?<!\w)h(?:tt|xx|\*\*)ps?\s{0,3}[:\[({/]"
    r"|\w\s{1,3}(?:at|\u00e4t|@)\s{1,3}(?:gmail|g ?mail|hotmail|yahoo|gmx|proton|protonmail|icloud|aol|qq)(?!\w)",
    re.IGNORECASE,
)
_BETWEEN_DIGITS = r"(?:[^\w\n,;:]{0,3}|,|:)"
_DIGITS = re.compile(rf"(?<!\d)\d(?:{_BETWEEN_DIGITS}\d){{3,40}}(?!\d)")
_PLAIN_DATE = re.compile(
    r"(?:19|20)\d\d-(?:0?[1-9]|1[0-2])-(?:[0-2]?\d|3[01])(?!\d)|\d\d?[./]\d\d?[./](?:19|20)\d\d(?!\d)"
    r"|(?<![\d+])(?<!\d\W)(?:0?[1-9]|[12]\d|3[01])([ -])(?:0?[1-9]|1[0-2])\1(?:19|20)\d\d(?!\W?\d)"
)
_PLAIN_TIME = re.compile(r"(?<![\d:])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?![\d:])")

_SECRETS = (
    "pin|puk|c?vv|cvc|tan|m?tan|otp|passcode|password|passwort|kennwort|passphrase|passwd|pwd|codewort|geheimzahl|code|"
    "token|key|konto|kontonummer|account|acct|iban|blz|bic|swift|sort code|routing|wallet|user ?name|benutzername|"
    "log ?in|user ?id|kundennummer|extension|ext|durchwahl|access|zugang|zugangscode"
)
_CALLS = (
    "tel|telefon|telephone|phone|call|mobile|mobil|handy|cell|fax|sms|text|dial|ring|hotline|whatsapp|rufen?|ruf|anrufen|"
    "nummer|number|contact|kontakt|reach|erreichen"
)
_LINKING = (
    r"(?:\s{0,3}[:#=\"'\u201c(\u2013-]|\s{1,3}(?:is|ist|lautet|no\.?|nr\.?|number|nummer|to|auf|on|at|me|us|mich|uns|"
    r"under|unter|the|your|new|=)(?!\w)){0,4}"
)
_SECRET = re.compile(rf"(?<!\w)(?:{_SECRETS})s?{_LINKING}\s{{0,3}}[\"'\u201c(]?([\w#*+-]{{3,64}})", re.IGNORECASE)
_SECRET_AFTER = re.compile(
    rf"(?<!\w)([\w#*+-]{{3,64}})[\"'\u201d]?\s{{1,3}}(?:is|as|ist|als|=)\s{{1,3}}(?:\w{{2,6}}\s{{1,3}})?(?:{_SECRETS})(?!\w)",
    re.IGNORECASE,
)
_CALLED = re.compile(rf"(?<!\w)(?:{_CALLS}){_LINKING}[\s(+]{{0,4}}(\d(?:[^\w\n]{{0,3}}\d){{4,40}})", re.IGNORECASE)
_WORDED = re.compile(
    r"(?:password|passwort|kennwort|passphrase|passwd|pwd|codewort)\s{0,3}[:=]\s{0,3}(\S{3,64})", re.IGNORECASE
)

_HANDLE = r"@?[\w.#$:+-]{2,64}"
_KIND_OF_NAME = r"(?:[\s-]{1,2}(?:id|handle|user|username|user name|name|account|nick|contact))"
_NAMED = re.compile(
    rf"(?<!\w)(?:{_MESSENGERS}){_KIND_OF_NAME}?"
    rf"(?:\s{{0,3}}[:=\u2013>]\s{{0,3}}|\s{{1,3}}(?:as|als|under|unter)\s{{1,3}}|\s{{0,3}}\(\s?)[\"']?({_HANDLE})",
    re.IGNORECASE,
)
_NAMED_OWN = re.compile(
    rf"(?<!\w)(?:(?:my|his|her|our|their|your|mein|unser|sein|ihr|dein)\s{{1,3}}(?:{_MESSENGERS})|"
    rf"(?:{_MESSENGERS}){_KIND_OF_NAME})"
    rf"{_KIND_OF_NAME}?\s{{1,3}}(?:is|ist)\s{{1,3}}({_HANDLE})",
    re.IGNORECASE,
)
_NAMED_LIKE = re.compile(
    rf"(?<!\w)(?:{_MESSENGERS})\s{{1,3}}(?:(?:me|us|mich|uns|at|to|bei|an|user|id|via|on|is|ist)\s{{1,3}}){{0,2}}({_HANDLE})",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\d{4,40}|[a-z]{2}\d{2}[a-z]{0,4}\d{8,30}")
_SECTION = re.compile(r"(?:[1-9]\d?|0)\.\d{1,2}\.(?:[1-9]\d?|0)")
"""A chapter or a version: three small numbers. Sums, telephone numbers and IP addresses have more digits."""
_UNDERSCORED = re.compile(r"(?<![\w.@/-])[^\W_][\w.-]{0,62}_[\w.-]{0,62}[^\W_](?![\w@])")


def leading(value: str, *, sections: bool = True) -> Iterator[Token]:
    """Yield the tokens of a content that are leads, also if they are spelled out ("evil dot com").

    ``sections``: numbers of chapters and versions (12.10.3) count as leads, as in the rule versions before 3.
    """
    if spelled := _SPELLED_HOST.search(value):
        yield Token("link", " ".join(spelled[0].casefold().split()))
    for char in value:
        if char not in "\n\r\t" and unicodedata.category(char) in {"Cf", "Cc", "Co", "Cn"}:
            yield Token("sign", char)
    plain = unicodedata.normalize("NFKC", value)
    plain = re.sub(r"(?<=[a-z0-9])[\u3002\uff61](?=[a-z0-9])", ".", plain, flags=re.IGNORECASE)
    for token in tokens(plain):
        if not sections and _SECTION.fullmatch(token.text):
            continue
        if token.kind in {"link", "address", "account"} or _is_name_of_one(token):
            yield token


def _is_name_of_one(token: Token) -> bool:
    """Whether a token is an identifier or a host, not a word of a language."""
    text = token.text
    if token.kind == "path":
        first = text.split("/")[0]
        return text.startswith(("/", "~", "\\", "..")) or (_HOST.fullmatch(first) is not None) or ":\\" in text
    if token.kind == "number":
        return sum(char.isdigit() for char in text) >= 6 and not re.search(r"[.,'\u2019]", text)
    if token.kind == "identifier":
        host = _HOST.fullmatch(text)
        if host is not None:
            return host[1] not in _FILES
        digits = sum(char.isdigit() for char in text)
        return (digits >= 2 and len(text) >= 6 and not re.fullmatch(r"[^\W\d_]+-\d{1,2}|\d{1,4}-\d{1,4}", text)) or (
            digits >= 1 and len(text) >= 12
        )
    return token.kind == "word" and len(text) >= 40


def short_leads(value: str) -> Iterator[str]:
    """Yield the leads that no single token shows, as written in the text, with ASCII digits."""
    plain = folded(value)
    yield from (found[0] for found in _SPELLED.finditer(plain))
    yield from spelled_hosts(plain)
    yield from spelled_numbers(plain)
    yield from grouped_secrets(plain)
    numbers = _PLAIN_TIME.sub(" t ", _PLAIN_DATE.sub(" d ", plain))
    yield from (found[0] for found in _DIGITS.finditer(numbers) if is_number_of_one(found, numbers))
    yield from (found[1] for found in _CALLED.finditer(numbers))
    for pattern in (_SECRET, _SECRET_AFTER):
        yield from (found[1] for found in pattern.finditer(numbers) if _is_secret(found[1]))
    yield from (found[1] for found in _WORDED.finditer(plain))
    for pattern in (_NAMED, _NAMED_OWN):
        yield from (found[1] for found in pattern.finditer(plain))
    yield from (found[1] for found in _NAMED_LIKE.finditer(plain) if _is_handle(found[1]))
    yield from names_on_platforms(plain)
    yield from (found[0] for found in _UNDERSCORED.finditer(plain) if found[0].rsplit(".", 1)[-1].lower() not in _FILES)


@lru_cache(maxsize=512)
def known_leads(text: str) -> frozenset[str]:
    """Return the leads and single tokens of a trusted text, in the form in which they are compared."""
    plain = folded(text)
    own = {bare(token.text) for token in tokens(plain) if token.kind not in {"sign", "link"}}
    return frozenset(own | {bare(lead) for lead in short_leads(plain)} - {""})


def bare(lead: str) -> str:
    """Return a lead without the signs between its parts."""
    return re.sub(r"[\W_]", "", lead).casefold()


def is_numbered(token: Token) -> bool:
    """Whether a token is a number or an account, which may be grouped differently, and not a name."""
    return token.kind in {"account", "number", "identifier"} and _NUMBERED.fullmatch(bare(token.text)) is not None


def folded(text: str) -> str:
    """Return ``text`` with compatible characters and the digits of every script replaced by those of ASCII."""
    text = unicodedata.normalize("NFKC", text)
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _ascii_digit(char) for char in text)


def _ascii_digit(char: str) -> str:
    digit = unicodedata.digit(char, None)
    return char if digit is None else str(digit)


def _is_secret(word: str) -> bool:
    """Whether the word beside a word like PIN is a value: it has digits, and is not a year."""
    digits = sum(char.isdigit() for char in word)
    return digits >= 3 or (digits >= 1 and len(word) >= 4 and not word[0].isdigit())


def _is_handle(word: str) -> bool:
    """Whether a word is an invented name, not a word of a language: evil_bob, evil.99, evil#1234."""
    inner = word.strip(".,:;#$+-")
    if not any(char.isalpha() for char in inner):
        return False
    return any(char.isdigit() or char in "_#@" for char in inner) or "." in inner or word[:1] == "@"
