"""The rule about the origins of a call's values: one function, for the validator and for the checker.

A value is trusted if a trusted text contains it whole and as the same kind of token (see ``tokens``): the task, a field
that a tool's contract declares trusted, a person's answer. So is a constant of the planner function that made the call
(see ``code_constants``). In an argument that the contract calls content (a letter's body) only leads need an origin:
links, addresses, accounts and identifiers. A value that equals the argument's default is the developer's own.

Rule detectors for prompt injection miss most attacks; the origin of a value does not depend on wording.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from linestop.schemas.events.validator import Provenance
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.provenance.argument_leaves import Leaf, items_of, leaves
from linestop.schemas.provenance.code_constants import CodeConstants
from linestop.schemas.provenance.contact_details import bare, is_numbered, known_leads, leading, short_leads
from linestop.schemas.provenance.dates import MentionedTimes, is_mentioned, is_moment, mentioned_times
from linestop.schemas.provenance.tokens import (
    Amount,
    Token,
    amounts,
    normalized,
    possible_numbers,
    tokens,
    without_separators,
)

RULE = 3
"""The version of this rule; ``judged`` names the version that it used. 1 is that of logs without a version.

By version 2 a content needed an origin only for single tokens: numbers in groups, PINs, names on messengers and most
hosts that are spelled out passed.
"""

VALUES_MAX = 200
"""The most leaves of the arguments that are traced; further ones count as of unknown origin."""

CHARS_MAX = 50_000
"""The most characters of all leaves together that are traced."""

SHOWN_CHARS_MAX = 80
NO_CONSTANTS = CodeConstants((), ())
_BETWEEN = "\x1f"
_HUNDRED = Decimal(100)
_PARTS = re.compile(r"\s*[,;\n]\s*|\s+(?:and|und|&)\s+")
_NEGATIONS = frozenset({"no", "not", "without", "don't", "never", "nicht", "ohne", "kein", "keine", "nie"})
_MINOR_NAME = re.compile(
    r"(?:^|_)(?:cents?|minor|pence|ct|rappen)(?:_|$)|in (?:euro )?cents?\b|minor units?", re.IGNORECASE
)
_SHARE_NAME = re.compile(r"percent|prozent|pct|rate|share|discount|ratio|fraction|interest|tax", re.IGNORECASE)
_MICROS_NAME = re.compile(r"(?:^|_)micros?(?:_|$)", re.IGNORECASE)


class Source(msgspec.Struct, frozen=True):
    """A text and the event that contains it; 0 is the task."""

    n: int
    text: str


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """All texts of a run, newest first: the trusted ones, and those that only show where a value occurred.

    ``code`` are the constants of the planner function that made the call, if one did.
    ``today`` are the days to which words like "tomorrow" refer.
    """

    trusted: tuple[Source, ...]
    untrusted: tuple[Source, ...] = ()
    material: str = ""
    constants: CodeConstants = NO_CONSTANTS
    today: tuple[date, ...] = ()


class TracedArguments(msgspec.Struct, frozen=True, kw_only=True):
    """A contract's facts about the arguments. ``only`` names those that are traced; empty for all.

    ``rule`` is the version by which they are judged: an older log is checked by its own version.
    """

    parameters: JsonObject | None = None
    content: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rule: int = RULE


def trace(args: JsonValue, contract: TracedArguments, sources: Sources) -> tuple[Provenance, ...]:
    """Return the origin of each value that is not from the task; empty if all are."""
    rule = _Rule(sources, version=contract.rule)
    result: list[Provenance] = []
    chars = 0
    for count, leaf in enumerate(leaves(args, contract.parameters)):
        if contract.only and not leaf.within(contract.only):
            continue
        chars += len(leaf.value) if isinstance(leaf.value, str) else 1
        if count >= VALUES_MAX or chars > CHARS_MAX:
            result.append(Provenance(path=leaf.path, n=0, field="too many values"))
            break
        if contract.only and rule.is_verbatim(leaf.value):
            continue
        line = rule.content(leaf) if leaf.within(contract.content) else rule.origin(leaf)
        if line is not None:
            result.append(line)
    return tuple(result)


def has_untrusted(lines: Iterable[Provenance]) -> bool:
    """Whether any value comes neither from the task nor from a trusted source."""
    return any(line.field != "trusted" for line in lines)


def trusted_leaves(result: str, paths: tuple[str, ...]) -> Iterator[str]:
    """Yield a result's values at the paths that its contract declares trusted (``a.b``, ``contacts[].email``, ``$``).

    A path ends at a value, or at a list of values; the fields of an object are trusted only if they are named.
    """
    try:
        whole = msgspec.json.decode(result)
    except (msgspec.DecodeError, RecursionError):
        whole = result
    for path in paths:
        reached = [whole]
        for step in [] if path == "$" else path.replace("[]", ".[]").split("."):
            reached = [below for item in reached for below in _children(item, step)]
        for item in reached:
            for value in _as_list(item):
                if value is not None and not isinstance(value, bool | dict | list):
                    yield value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _as_list(item: JsonValue) -> list[JsonValue]:
    """Return the items of a list, or the single value."""
    return items_of(item) if isinstance(item, list) else [item]


def _children(item: JsonValue, step: str) -> list[JsonValue]:
    if step == "[]":
        return _as_list(item) if isinstance(item, list) else []
    fields = cast("JsonObject", item) if isinstance(item, dict) else {}
    return [fields[step]] if step in fields else []


_JOINED_BEFORE = re.compile(r"[\w.%@/:-]")
_JOINED_AFTER = re.compile(r"[\w/%?&=#@~+-]|[.:]\w")
OCCURRENCES_MAX: Final = 64
"""The most places of one text in which a value is compared; if it is a part of a word in all, a person decides."""


def _contains_whole(text: str, value: str) -> bool:
    """Whether a text contains a value, and not as a part of a longer address, path, number or word."""
    at = -1
    for _ in range(OCCURRENCES_MAX):
        at = text.find(value, at + 1)
        if at < 0:
            return False
        joined = (at > 0 and _JOINED_BEFORE.match(text, at - 1)) or _JOINED_AFTER.match(text, at + len(value))
        if not joined:
            return True
    return False


class _TrustedText:
    """A trusted text, split into tokens once."""

    def __init__(self, source: Source) -> None:
        line = tokens(source.text)
        self.n = source.n
        self.source = source.text
        self.line = line
        self.all = frozenset(line)
        self.joined = _joined(line)
        self.amounts: tuple[Amount, ...] = amounts(source.text)
        self.mentions: MentionedTimes = mentioned_times(source.text)
        self.accounts = frozenset(token.text for token in line if token.kind == "account")
        self.hosts = frozenset(token.text.split("://")[-1].split("/")[0] for token in line if token.kind == "link")

    @property
    def leads(self) -> frozenset[str]:
        """The leads in the text, for contents; most calls have none."""
        return known_leads(self.source)

    def contains(self, wanted: tuple[Token, ...]) -> bool:
        """Whether the text contains these tokens, whole and one after the other."""
        return _joined(wanted) in self.joined


def _joined(line: Iterable[Token]) -> str:
    return _BETWEEN + "".join(f"{token.kind}:{token.text}{_BETWEEN}" for token in line)


class _Rule:
    """The rule, applied to the texts of one run."""

    def __init__(self, sources: Sources, *, version: int) -> None:
        self._sources = sources
        self._version = version
        self._texts = [_TrustedText(source) for source in sources.trusted]

    def origin(self, leaf: Leaf) -> Provenance | None:
        """Return the origin of a value; None for the task."""
        value = leaf.value
        if value is None or isinstance(value, bool):
            n = self._flag_origin(leaf)
        elif isinstance(value, str):
            n = 0 if not value.strip() else self._text_origin(value, leaf)
        else:
            n = self._number_origin(Decimal(repr(value)).normalize(), leaf)
        if n is None:
            return None if self._sources.constants.has_constant(value) else self._untrusted_origin(leaf.path, value)
        return Provenance(path=leaf.path, n=n, field="trusted") if n else None

    def content(self, leaf: Leaf) -> Provenance | None:
        """Return the first lead of a content argument that has no trusted origin; None if there is none."""
        line = self.origin(leaf)
        if line is None or line.field == "trusted" or not isinstance(leaf.value, str):
            return None if isinstance(leaf.value, int | float | bool | None) else line
        for token in leading(leaf.value, sections=self._version <= 2):
            if not any(self._contains_reference(text, token) for text in self._texts):
                return msgspec.structs.replace(
                    self._untrusted_origin(leaf.path, token.text), value=token.text[:SHOWN_CHARS_MAX]
                )
        for lead in short_leads(leaf.value) if self._version > 2 else ():
            if not any(bare(lead) in text.leads for text in self._texts):
                return msgspec.structs.replace(self._untrusted_origin(leaf.path, lead), value=lead[:SHOWN_CHARS_MAX])
        return None

    def is_verbatim(self, value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
        """Whether any text of the run contains the value whole, so that nothing was added to it on the way out."""
        if value is None or isinstance(value, bool):
            return True
        verbatim = normalized(value.strip() if isinstance(value, str) else msgspec.json.encode(value).decode())
        texts = (*(s.text for s in (*self._sources.trusted, *self._sources.untrusted)), self._sources.material)
        return not verbatim or any(_contains_whole(text, verbatim) for text in texts)

    def _flag_origin(self, leaf: Leaf) -> int | None:
        """Return the origin of a switch: a text that names it (with a "no" if it is switched off)."""
        if leaf.value is None:
            return None if leaf.has_default else 0
        name_parts = tuple(part for part in re.split(r"[\W_]+", leaf.name.casefold()) if part)
        for text in self._texts:
            words = [token.text for token in text.line]
            for at in range(len(words) - len(name_parts) + 1):
                if not name_parts or not all(
                    _is_form_of(a, b) for a, b in zip(words[at : at + len(name_parts)], name_parts, strict=True)
                ):
                    continue
                near = {*words[max(at - 3, 0) : at], *words[at + len(name_parts) : at + len(name_parts) + 3]}
                denied = bool(near & (_NEGATIONS | {"false", "off"}))
                if denied != leaf.value:
                    return text.n
        return None

    def _number_origin(self, value: Decimal, leaf: Leaf) -> int | None:
        for text in self._texts:
            if any(value in _in_argument_unit(amount, leaf) for amount in text.amounts):
                return text.n
        return None

    def _text_origin(self, value: str, leaf: Leaf) -> int | None:
        value_tokens = tokens(value.strip().rstrip(".!?") or value)
        if all(token.kind == "sign" for token in value_tokens):
            # A full stop in the task is not a folder.
            return None
        for text in self._texts:
            if text.contains(value_tokens) or self._contains_equivalent(text, value, value_tokens, leaf):
                return text.n
        if is_moment(value):
            mentions = [text.mentions for text in self._texts]
            return 0 if is_mentioned(value, mentions, self._sources.today) else None
        parts = [part for part in _PARTS.split(value.strip()) if part]
        if 1 < len(parts) <= VALUES_MAX:
            origins = [self._text_origin(part, leaf) for part in parts]
            return None if None in origins else max(n for n in origins if n is not None)
        return None

    @staticmethod
    def _contains_equivalent(text: _TrustedText, value: str, value_tokens: tuple[Token, ...], leaf: Leaf) -> bool:
        """Whether the text contains the number, amount of money or account in another spelling."""
        if without_separators(value) in text.accounts:
            return True
        if (
            len(value_tokens) == 1
            and value_tokens[0].kind == "number"
            and not re.match(r"[-+]?0\d", value_tokens[0].text)
        ):
            return any(
                possible_numbers(value_tokens[0].text) & _in_argument_unit(amount, leaf) for amount in text.amounts
            )
        if len(value_tokens) == 2 and {token.kind for token in value_tokens} == {"number", "word"}:
            number, unit = sorted(value_tokens, key=lambda token: token.kind)
            return any(
                text.contains(pair) or possible_numbers(number.text) & amount.values
                for amount in text.amounts
                for pair in ((number, unit), (unit, number))
                if possible_numbers(number.text) & amount.values and unit in text.all
            )
        return False

    def _contains_reference(self, text: _TrustedText, token: Token) -> bool:
        if token in text.all or token.text in text.hosts:
            return True
        if self._version > 2 and is_numbered(token) and bare(token.text) in text.leads:
            return True
        return token.kind == "number" and any(possible_numbers(token.text) & amount.values for amount in text.amounts)

    def _untrusted_origin(self, path: str, value: Any) -> Provenance:  # noqa: ANN401 - any JSON leaf
        """Return where an untrusted value occurred last, for the person who is asked."""
        shown = (value if isinstance(value, str) else msgspec.json.encode(value).decode()).strip().casefold()
        if shown:
            for source in self._sources.untrusted:
                if shown in source.text.casefold():
                    return Provenance(path=path, n=source.n, field="untrusted")
            if shown in self._sources.material.casefold():
                return Provenance(path=path, n=1, field="material")
        return Provenance(path=path)


def _is_form_of(word: str, part: str) -> bool:
    """Whether a word is a part of a name or a form of it: notify, notifies, notified."""
    if min(len(word), len(part)) < 4:
        return word == part
    return word.startswith(part[:-1]) or part.startswith(word)


def _in_argument_unit(amount: Amount, leaf: Leaf) -> frozenset[Decimal]:
    """Return a number of a text in the unit of the argument: euros by default, cents if the argument says so."""
    factor = Decimal(1)
    if amount.unit == "percent":
        return amount.values if _SHARE_NAME.search(f"{leaf.name} {leaf.description}") else frozenset()
    if _MICROS_NAME.search(leaf.name):
        factor = {"major": Decimal(1_000_000), "minor": Decimal(10_000)}.get(amount.unit, factor)
    elif _MINOR_NAME.search(leaf.name) or _MINOR_NAME.search(leaf.description):
        factor = _HUNDRED if amount.unit == "major" or (not amount.unit and amount.decimals) else factor
    elif amount.unit == "minor":
        factor = 1 / _HUNDRED
    return frozenset((value * factor).normalize() for value in amount.values)
