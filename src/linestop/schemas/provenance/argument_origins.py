"""The rule about where the values of a call come from: one function, for the validator and for the checker.

A value is trusted if a trusted text says it, whole and as what it is (see ``value_tokens``): the task, a field that
a tool's contract declares trusted, a person's answer. So is a constant of the planner function that made the call
(see ``code_constants``). An argument that the contract calls content (a letter's body) needs an origin only for what
could lead somebody somewhere: links, addresses, accounts and identifiers in it.
What equals the argument's default is the developer's own.

Rule detectors for prompt injection miss most attacks; where a value came from does not depend on wording.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from linestop.schemas.events.validator import Provenance
from linestop.schemas.provenance.argument_leaves import Leaf, items_of, leaves
from linestop.schemas.provenance.code_constants import CodeConstants
from linestop.schemas.provenance.dates import Spoken, is_moment, is_spoken_of, spoken
from linestop.schemas.provenance.leads import bare, is_numbered, known_leads, leading, short_leads
from linestop.schemas.provenance.tokens import Amount, Token, amounts, compact, normalized, readings, tokens

RULE = 3
"""The version of this rule; ``judged`` says by which one it was made. 1 is that of the logs before there were more.

By 2 a content needed an origin only for what is one token: numbers in groups, PINs, names of messengers and most hosts
that are spelled out passed.
"""

VALUES_MAX = 200
"""Leaves of the arguments that are looked at; more than that count as of unknown origin."""

CHARS_MAX = 50_000
"""Characters of all leaves together that are looked through."""

SHOWN_CHARS_MAX = 80
NO_CODE = CodeConstants((), ())
_BETWEEN = "\x1f"
_HUNDRED = Decimal(100)
_PARTS = re.compile(r"\s*[,;\n]\s*|\s+(?:and|und|&)\s+")
_NO = frozenset({"no", "not", "without", "don't", "never", "nicht", "ohne", "kein", "keine", "nie"})
_YES = frozenset({"true", "yes", "on", "ja"})
_MINOR_NAME = re.compile(
    r"(?:^|_)(?:cents?|minor|pence|ct|rappen)(?:_|$)|in (?:euro )?cents?\b|minor units?", re.IGNORECASE
)
_SHARE_NAME = re.compile(r"percent|prozent|pct|rate|share|discount|ratio|fraction|interest|tax", re.IGNORECASE)
_MICROS_NAME = re.compile(r"(?:^|_)micros?(?:_|$)", re.IGNORECASE)


class Source(msgspec.Struct, frozen=True):
    """A text and the event it came with; 0 is the task."""

    n: int
    text: str


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """All texts of a run, newest first: the trusted ones, and those that only show where a value was seen.

    ``code`` are the constants of the function that made the call, if one did.
    ``today`` are the days that words like "tomorrow" are about.
    """

    trusted: tuple[Source, ...]
    seen: tuple[Source, ...] = ()
    material: str = ""
    code: CodeConstants = NO_CODE
    today: tuple[date, ...] = ()


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """What a contract says of the arguments. ``only`` names those that are looked at; empty for all.

    ``rule`` is the version by which they are judged: a log of before is checked by its own.
    """

    parameters: dict[str, Any] | None = None
    content: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    rule: int = RULE


def trace(args: Any, contract: Traced, sources: Sources) -> tuple[Provenance, ...]:  # noqa: ANN401 - any JSON value
    """Where each value comes from that is not of the task; empty if all are."""
    rule = _Rule(sources, version=contract.rule)
    found: list[Provenance] = []
    chars = 0
    for count, leaf in enumerate(leaves(args, contract.parameters)):
        if contract.only and not leaf.within(contract.only):
            continue
        chars += len(leaf.value) if isinstance(leaf.value, str) else 1
        if count >= VALUES_MAX or chars > CHARS_MAX:
            found.append(Provenance(path=leaf.path, n=0, field="too many values"))
            break
        if contract.only and rule.is_verbatim(leaf.value):
            continue
        line = rule.content(leaf) if leaf.within(contract.content) else rule.origin(leaf)
        if line is not None:
            found.append(line)
    return tuple(found)


def untrusted(lines: Iterable[Provenance]) -> bool:
    """Whether any value comes from elsewhere than the task or a trusted source."""
    return any(line.field != "trusted" for line in lines)


def trusted_leaves(result: str, paths: tuple[str, ...]) -> Iterator[str]:
    """The values of a result at the paths that its contract declares trusted (``a.b``, ``contacts[].email``, ``$``).

    A path ends at a value, or at a list of values; what an object holds is trusted only if it is named itself.
    """
    try:
        whole = msgspec.json.decode(result)
    except (msgspec.DecodeError, RecursionError):
        whole = result
    for path in paths:
        reached = [whole]
        for step in [] if path == "$" else path.replace("[]", ".[]").split("."):
            reached = [below for item in reached for below in _below(item, step)]
        for item in reached:
            for value in _listed(item):
                if value is not None and not isinstance(value, bool | dict | list):
                    yield value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _listed(item: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    """The items of a list, or the one value that there is."""
    return items_of(item) if isinstance(item, list) else [item]


def _below(item: Any, step: str) -> list[Any]:  # noqa: ANN401 - any JSON value
    if step == "[]":
        return _listed(item) if isinstance(item, list) else []
    fields = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
    return [fields[step]] if step in fields else []


_JOINED_BEFORE = re.compile(r"[\w.%@/:-]")
_JOINED_AFTER = re.compile(r"[\w/%?&=#@~+-]|[.:]\w")
PLACES_MAX: Final = 64
"""In so many places of one text a value is looked at; what is a part of other words in all of them needs a person."""


def _stands_whole(text: str, wanted: str) -> bool:
    """Whether a value stands in a text, and not as a part of a longer address, path, number or word."""
    at = -1
    for _ in range(PLACES_MAX):
        at = text.find(wanted, at + 1)
        if at < 0:
            return False
        joined = (at > 0 and _JOINED_BEFORE.match(text, at - 1)) or _JOINED_AFTER.match(text, at + len(wanted))
        if not joined:
            return True
    return False


class _Text:
    """A trusted text, taken apart once."""

    def __init__(self, source: Source) -> None:
        line = tokens(source.text)
        self.n = source.n
        self.source = source.text
        self.line = line
        self.all = frozenset(line)
        self.joined = _joined(line)
        self.amounts: tuple[Amount, ...] = amounts(source.text)
        self.spoken: Spoken = spoken(source.text)
        self.accounts = frozenset(token.text for token in line if token.kind == "account")
        self.hosts = frozenset(token.text.split("://")[-1].split("/")[0] for token in line if token.kind == "link")

    @property
    def leads(self) -> frozenset[str]:
        """What it leads to, for contents; most calls have none."""
        return known_leads(self.source)

    def holds(self, wanted: tuple[Token, ...]) -> bool:
        """Whether these tokens stand in it, whole and one after the other."""
        return _joined(wanted) in self.joined


def _joined(line: Iterable[Token]) -> str:
    return _BETWEEN + "".join(f"{token.kind}:{token.text}{_BETWEEN}" for token in line)


class _Rule:
    """The rule over the texts of one run."""

    def __init__(self, sources: Sources, *, version: int) -> None:
        self._sources = sources
        self._version = version
        self._texts = [_Text(source) for source in sources.trusted]

    def origin(self, leaf: Leaf) -> Provenance | None:
        """Where a value comes from; None for the task."""
        value = leaf.value
        if value is None or isinstance(value, bool):
            n = self._of_flag(leaf)
        elif isinstance(value, str):
            n = 0 if not value.strip() else self._of_text(value, leaf)
        else:
            n = self._of_number(Decimal(repr(value)).normalize(), leaf)
        if n is None:
            return None if self._sources.code.holds(value) else self._seen(leaf.path, value)
        return Provenance(path=leaf.path, n=n, field="trusted") if n else None

    def content(self, leaf: Leaf) -> Provenance | None:
        """What in a content argument leads somewhere and has no trusted origin: the first such token."""
        line = self.origin(leaf)
        if line is None or line.field == "trusted" or not isinstance(leaf.value, str):
            return None if isinstance(leaf.value, int | float | bool | None) else line
        for token in leading(leaf.value, sections=self._version <= 2):
            if not any(self._holds_leading(text, token) for text in self._texts):
                return msgspec.structs.replace(self._seen(leaf.path, token.text), value=token.text[:SHOWN_CHARS_MAX])
        for lead in short_leads(leaf.value) if self._version > 2 else ():
            if not any(bare(lead) in text.leads for text in self._texts):
                return msgspec.structs.replace(self._seen(leaf.path, lead), value=lead[:SHOWN_CHARS_MAX])
        return None

    def is_verbatim(self, value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
        """Whether a value stands, whole, in any text of the run: then nothing was put into it on the way out."""
        if value is None or isinstance(value, bool):
            return True
        wanted = normalized(value.strip() if isinstance(value, str) else msgspec.json.encode(value).decode())
        texts = (*(s.text for s in (*self._sources.trusted, *self._sources.seen)), self._sources.material)
        return not wanted or any(_stands_whole(text, wanted) for text in texts)

    def _of_flag(self, leaf: Leaf) -> int | None:
        """A switch: the text names it (or, to switch it off, names it with a "no")."""
        if leaf.value is None:
            return None if leaf.has_default else 0
        name = tuple(part for part in re.split(r"[\W_]+", leaf.name.casefold()) if part)
        for text in self._texts:
            words = [token.text for token in text.line]
            for at in range(len(words) - len(name) + 1):
                if not name or not all(_alike(a, b) for a, b in zip(words[at : at + len(name)], name, strict=True)):
                    continue
                near = {*words[max(at - 3, 0) : at], *words[at + len(name) : at + len(name) + 3]}
                denied = bool(near & (_NO | {"false", "off"}))
                if denied != leaf.value:
                    return text.n
        return None

    def _of_number(self, value: Decimal, leaf: Leaf) -> int | None:
        for text in self._texts:
            if any(value in _as_named(amount, leaf) for amount in text.amounts):
                return text.n
        return None

    def _of_text(self, value: str, leaf: Leaf) -> int | None:
        wanted = tokens(value.strip().rstrip(".!?") or value)
        if all(token.kind == "sign" for token in wanted):
            # A full stop of the task is no folder of it.
            return None
        for text in self._texts:
            if text.holds(wanted) or self._holds_single(text, value, wanted, leaf):
                return text.n
        if is_moment(value):
            said = [text.spoken for text in self._texts]
            return 0 if is_spoken_of(value, said, self._sources.today) else None
        parts = [part for part in _PARTS.split(value.strip()) if part]
        if 1 < len(parts) <= VALUES_MAX:
            found = [self._of_text(part, leaf) for part in parts]
            return None if None in found else max(n for n in found if n is not None)
        return None

    @staticmethod
    def _holds_single(text: _Text, value: str, wanted: tuple[Token, ...], leaf: Leaf) -> bool:
        """Whether a number, an amount of money or an account stands in the text in another way of writing it."""
        if compact(value) in text.accounts:
            return True
        if len(wanted) == 1 and wanted[0].kind == "number" and not re.match(r"[-+]?0\d", wanted[0].text):
            return any(readings(wanted[0].text) & _as_named(amount, leaf) for amount in text.amounts)
        if len(wanted) == 2 and {token.kind for token in wanted} == {"number", "word"}:
            number, unit = sorted(wanted, key=lambda token: token.kind)
            return any(
                text.holds(pair) or readings(number.text) & amount.values
                for amount in text.amounts
                for pair in ((number, unit), (unit, number))
                if readings(number.text) & amount.values and unit in text.all
            )
        return False

    def _holds_leading(self, text: _Text, token: Token) -> bool:
        if token in text.all or token.text in text.hosts:
            return True
        if self._version > 2 and is_numbered(token) and bare(token.text) in text.leads:
            return True
        return token.kind == "number" and any(readings(token.text) & amount.values for amount in text.amounts)

    def _seen(self, path: str, value: Any) -> Provenance:  # noqa: ANN401 - any JSON leaf
        """Where a value that is not trusted was seen last, for whoever is asked."""
        shown = (value if isinstance(value, str) else msgspec.json.encode(value).decode()).strip().casefold()
        if shown:
            for source in self._sources.seen:
                if shown in source.text.casefold():
                    return Provenance(path=path, n=source.n, field="untrusted")
            if shown in self._sources.material.casefold():
                return Provenance(path=path, n=1, field="material")
        return Provenance(path=path)


def _alike(word: str, part: str) -> bool:
    """Whether a word is a name's part or a form of it: notify, notifies, notified."""
    if min(len(word), len(part)) < 4:
        return word == part
    return word.startswith(part[:-1]) or part.startswith(word)


def _as_named(amount: Amount, leaf: Leaf) -> frozenset[Decimal]:
    """A number of a text in the unit that the argument is in: euros where it says nothing, cents where it says so."""
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
