"""Remove secrets from text before it is stored or shown.

Two kinds are known: the values that the process itself holds (given to a ``Redactor``, and found in their plain,
JSON-escaped, URL-quoted and base64 forms), and the shapes of well-known credentials. Finding a shape is a safety net,
not a proof: a secret that must not leak must not be given to a tool.

All patterns run in linear time on any input: each is anchored at a literal, and a quantifier whose match can
still fail afterwards is either bounded or cannot start twice in the same run of characters.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast
from urllib.parse import quote

from linestop.schemas.defaults import SECRET_CHARS_MIN
from linestop.schemas.json_values import JsonValue

PENDING_CHARS_MAX = 8192
"""The most characters of a streamed text that wait for the next piece, beyond the longest known secret.

No token in use is as long. If one seems to be, the rest of the text is not shown: see ``StreamRedactor``.
"""

_SCALAR_TYPES = frozenset({int, float, bool, type(None)})
DEPTH_MAX = 200
"""The deepest nesting of a value."""

_KEY_HEAD = r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_SHAPES = {
    "anthropic_key": r"sk-ant-[A-Za-z0-9_-]{16,}",
    "openai_key": r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{16,}|(?<![A-Za-z0-9])sk-[A-Za-z0-9]{32,}",
    "aws_key_id": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "github_token": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    "slack_token": r"(?<![A-Za-z0-9])(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,})",
    "slack_hook": r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/_-]{16,}",
    # The first two parts are bounded, so that the number of characters that identify the shape is bounded.
    "jwt": r"(?<![A-Za-z0-9_.-])eyJ[A-Za-z0-9_-]{8,8192}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]*",
    # The end line is optional: a key that was cut off is still a key.
    "private_key": _KEY_HEAD + r"(?:[^-]|-(?!----))*(?:-----END [A-Z0-9 ]{0,60}-----)?",
    "url_password": r"(?<=://)[^\s/:@?#\"']{0,128}:[^\s/@\"']{1,256}(?=@)",
    "bearer": r"(?i:(?<=bearer )|(?<=bearer:)|(?<=authorization: basic ))"
    r"(?=[^\s]{0,64}[0-9])[A-Za-z0-9._~+/=-]{16,}",
    "aws_secret": r"(?i:(?<=aws_secret_access_key=)|(?<=aws_secret_access_key = )"
    r"|(?<=aws_secret_access_key\": \"))[A-Za-z0-9/+]{40}",
}
_ANY_SHAPE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _SHAPES.items()))


def _prefix_pattern(literal: str, rest: str = "") -> str:
    """Return the pattern of a text that ends within ``literal`` (characters or classes), or in ``rest`` after it."""
    pattern = rest + r"\Z"
    for atom in reversed(re.findall(r"\[[^]]*\]|.", literal)):
        pattern = rf"{atom}(?:\Z|{pattern})"
    return pattern


_KEY_TAIL_CHARS = 80
"""Longer than an unfinished end line of a key."""

_OPEN = (
    # The possible beginnings of each shape above at the end of a text; waiting for more than these is right too.
    *(_prefix_pattern(f"sk-{kind}-", "[A-Za-z0-9_-]*") for kind in ("ant", "proj", "svcacct", "admin")),
    "(?<![A-Za-z0-9])(?:"
    + "|".join(
        (
            _prefix_pattern("sk-", "[A-Za-z0-9]*"),
            _prefix_pattern("A[KS]IA", "[A-Z0-9]{0,16}"),
            _prefix_pattern("gh[pousr]_", "[A-Za-z0-9]*"),
            _prefix_pattern("github_pat_", "[A-Za-z0-9_]*"),
            _prefix_pattern("xox[abeoprs]-", "[A-Za-z0-9-]*"),
            _prefix_pattern("xapp-[0-9]-", "[A-Za-z0-9-]*"),
        )
    )
    + ")",
    r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/_-]*\Z",
    r"(?<![A-Za-z0-9_.-])"
    + _prefix_pattern(
        "eyJ",
        r"(?:[A-Za-z0-9_-]*\Z|[A-Za-z0-9_-]{8,}\.(?:\Z|"
        + _prefix_pattern("eyJ", r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?")
        + "))",
    ),
    _prefix_pattern("-----BEGIN ", "[A-Z0-9 ]{0,70}-{0,4}"),
    rf"{_KEY_HEAD}(?:[^-]|-(?!----))*(?:\Z|{_prefix_pattern('-----END ', '[A-Z0-9 ]{0,60}-{0,4}')})",
    r"(?<=://)[^\s/:@?#\"']{0,128}(?::[^\s/@\"']{0,256})?\Z",
    r"(?i:(?<=bearer )|(?<=bearer:)|(?<=authorization: basic ))(?:[A-Za-z0-9._~+/=-]*|[^\s]{0,64})\Z",
    (
        r"(?i:(?<=aws_secret_access_key=)|(?<=aws_secret_access_key = )|(?<=aws_secret_access_key\": \"))"
        r"[A-Za-z0-9/+]{0,39}\Z"
    ),
)
_OPEN_KEY = re.compile(_KEY_HEAD)
_LOOKBEHIND_CHARS = 32
"""More characters than any shape looks back."""

_ANY_ANCHOR = re.compile(
    r"sk-|AKIA|ASIA|gh[pousr]_|github_pat_|xox[abeoprs]-|xapp-|hooks\.slack|eyJ|-----BEGIN|://"
    r"|(?i:bearer|authorization|aws_secret)"
)
"""A cheap search for the literals at which shapes are anchored: most texts have none and are returned unchanged."""

_ANCHORS = ("sk-", "AKIA", "ASIA", "gh", "github_pat_", "xox", "xapp-", "hooks.slack", "eyJ", "-----BEGIN", "://")
_ANCHORS_OF_ANY_CASE = ("bearer", "authorization", "aws_secret")
"""The same literals (or their beginnings) one by one: in a long text each is found many times faster this way."""

_SHORT_CHARS = 512
_WINDOW_CHARS = 64 * 1024
"""A long text is searched in windows: one search of the whole text would block every other thread."""

_LOOKAHEAD_CHARS = 2 * 8192 + 64
"""More characters than identify any shape, from its first one on."""

_DASHES = "-----"
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,60}-----")


class Redactor:
    """Replaces secrets by ``[redacted:<kind>]``. Immutable, and safe to share between threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SECRET_CHARS_MIN:
                forms |= _forms(secret)
        # Longest first, so that a form that contains another one is replaced as a whole.
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Redactor({len(self._forms)} forms)"

    @property
    def longest(self) -> int:
        """Characters of the longest form of a known secret; at least 1."""
        return len(self._forms[0]) if self._forms else 1

    def text(self, text: str) -> str:
        """Return ``text`` without known secrets and without anything shaped like a credential."""
        text = self.without_known_secrets(text)
        if len(text) > _WINDOW_CHARS:
            return "".join(_in_windows(text))
        return _ANY_SHAPE.sub(_marker, text) if _is_anchored(text) else text

    def is_clean(self, text: str) -> bool:
        """Whether neither a known secret nor the anchor of any shape is in ``text``, which may be JSON."""
        return not any(form in text for form in self._forms) and not _is_anchored(text)

    def without_known_secrets(self, text: str) -> str:
        """Return ``text`` without known secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, "[redacted:secret]")
        return text

    def settled_chars(self, text: str) -> int:
        """Return the length of the part of ``text`` whose redaction no later text can change (known secrets only)."""
        end = len(text)
        for form in self._forms:
            at = text.find(form[0], max(len(text) - len(form) + 1, 0), end)
            while at >= 0 and not form.startswith(text[at:]):
                at = text.find(form[0], at + 1, end)
            end = at if at >= 0 else end
        return self._end_outside_secrets(text, end)

    def _end_outside_secrets(self, text: str, end: int) -> int:
        """Return the last place up to ``end`` that is not within a known secret: two may overlap."""
        while end < len(text):
            before = end
            for form in self._forms:
                # A match between these bounds begins before ``end`` and ends after it.
                at = text.find(form, max(end - len(form) + 1, 0), end + len(form) - 1)
                end = at if at >= 0 else end
            if end == before:
                break
        return end

    def value(self, value: JsonValue, depth: int = 0) -> JsonValue:
        """Return a JSON value with every string in it, keys included, redacted.

        Raises:
            ValueError: the value is nested deeper than any result may be.
        """
        if depth > DEPTH_MAX:
            raise ValueError(f"a value nested deeper than {DEPTH_MAX} levels cannot be redacted; flatten it")
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            fields = cast("dict[object, Any]", value)
            return {self.text(str(key)): self.value(item, depth + 1) for key, item in fields.items()}
        if isinstance(value, list | tuple):
            items = cast("list[Any]", value)
            return [item if type(item) in _SCALAR_TYPES else self.value(item, depth + 1) for item in items]
        return value


class StreamRedactor:
    """Redacts a text that comes in pieces: a possible beginning of a secret waits for the next piece.

    All shown pieces together equal ``Redactor.text`` of the whole text. The one exception keeps memory bounded: if more
    than ``PENDING_CHARS_MAX`` characters would wait, ``[redacted:long]`` replaces them and the rest of the text, since
    the end of that secret is unknown. A private key may be of any length.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._raw = ""
        """The end of the text, a possible beginning of a known secret."""
        self._before: str = ""
        """The end of the shown text, without known secrets: shapes look back."""
        self._open = ""
        """A possible beginning of a shape, without known secrets."""
        self._is_cut_off = False

    def add(self, piece: str) -> str:
        """Add the next piece; return the text that can be shown by now."""
        if self._is_cut_off:
            return ""
        raw = self._raw + piece
        end = self._redactor.settled_chars(raw)
        self._raw = raw[end:]
        shown = self._redact_shapes(self._redactor.without_known_secrets(raw[:end]), _open_or_shape())
        if len(self._raw) > self._redactor.longest + PENDING_CHARS_MAX or len(self._open) > PENDING_CHARS_MAX:
            self._is_cut_off, self._raw, self._open = True, "", ""
            shown += "[redacted:long]"
        return shown

    def finish(self) -> str:
        """Return the rest at the end of the text."""
        raw, self._raw = self._raw, ""
        return self._redact_shapes(self._redactor.without_known_secrets(raw), _ANY_SHAPE)

    def _redact_shapes(self, text: str, pattern: re.Pattern[str]) -> str:
        """Add to the waiting text; return the part of it that is settled, redacted."""
        at = len(self._before)
        text = f"{self._before}{self._open}{text}"
        shown: list[str] = []
        end = len(text)
        for found in pattern.finditer(text, at):
            if found.lastgroup == "open":
                end = found.start()
                break
            shown += (text[at : found.start()], _marker(found))
            at = found.end()
        shown.append(text[at:end])
        self._before, self._open = text[max(end - _LOOKBEHIND_CHARS, 0) : end], _without_key_middle(text[end:])
        return "".join(shown)


@functools.cache
def _open_or_shape() -> re.Pattern[str]:
    """A possible beginning of a shape, or a whole one; compiled only where a stream is read, for it takes long."""
    return re.compile(f"(?P<open>{'|'.join(_OPEN)})|{_ANY_SHAPE.pattern}")


def _is_anchored(text: str) -> bool:
    """Whether ``text`` contains a literal at which a shape is anchored."""
    if len(text) <= _SHORT_CHARS:
        return _ANY_ANCHOR.search(text) is not None
    if any(anchor in text for anchor in _ANCHORS):
        return True
    small = text.casefold()
    return any(anchor in small for anchor in _ANCHORS_OF_ANY_CASE)


def _in_windows(text: str) -> Iterator[str]:
    """Yield the pieces of ``_ANY_SHAPE.sub(_marker, text)``, found with one bounded search after the other."""
    at = 0
    while at < len(text):
        end = min(at + _WINDOW_CHARS, len(text))
        search_end = min(end + _LOOKAHEAD_CHARS, len(text))
        # The anchor of a shape may be before the window: shapes look back.
        if _is_anchored(text[max(at - _LOOKBEHIND_CHARS, 0) : min(end + _LOOKBEHIND_CHARS, len(text))]):
            for match in _ANY_SHAPE.finditer(text, at, search_end):
                start, stop, kind = match.start(), match.end(), match.lastgroup
                if start >= end:
                    break
                if stop >= search_end and search_end < len(text):
                    # The window cut it off: it may be longer, or not a shape at all with the next characters.
                    stop, kind = _match_whole(text, match)
                    end = max(stop, start + 1)
                yield text[at:start]
                yield f"[redacted:{kind}]" if stop > start else text[start:end]
                at = max(stop, start + 1)
        yield text[at:end]
        at = max(at, end)


def _match_whole(text: str, partial_match: re.Match[str]) -> tuple[int, str | None]:
    """Return the end and kind of the shape that begins at ``partial_match``; 0 if it is not one as a whole."""
    if partial_match.lastgroup == "private_key":
        head = _OPEN_KEY.match(text, partial_match.start())
        assert head is not None
        dashes = text.find(_DASHES, head.end())
        if dashes < 0:
            return len(text), partial_match.lastgroup
        last = _KEY_END.match(text, dashes)
        return last.end() if last else dashes, partial_match.lastgroup
    whole = _ANY_SHAPE.match(text, partial_match.start())
    return (whole.end(), whole.lastgroup) if whole else (0, None)


def _marker(match: re.Match[str]) -> str:
    return f"[redacted:{match.lastgroup}]"


def _without_key_middle(pending: str) -> str:
    """Return ``pending`` without the middle of an unfinished private key, which is never shown, whatever its length."""
    head = _OPEN_KEY.match(pending)
    if head is None or len(pending) - head.end() <= _KEY_TAIL_CHARS:
        return pending
    return head[0] + pending[-_KEY_TAIL_CHARS:]


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(secret, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
