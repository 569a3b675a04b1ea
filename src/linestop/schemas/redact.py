"""Take secrets out of text before it is stored or shown.

Two kinds are known: the values the process itself holds (given when a ``Redactor`` is made, found in their
plain, JSON-escaped, URL-quoted and base64 forms), and the shapes of well-known credentials. Finding a shape
is a safety net, not a proof: what must not leak must not be handed to a tool.

All patterns run in linear time on any input: each is anchored at a literal, and a quantifier whose match can
still fail afterwards is either bounded or cannot start twice in the same run of characters.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import quote

SECRET_CHARS_MIN = 8
"""A known secret shorter than this is ignored: removing it would also remove ordinary words."""

HELD_CHARS_MAX = 512
"""A text without blanks that comes in pieces is kept back for this long, beyond the longest secret that is known."""

DEPTH_MAX = 200
"""How deep a value may be nested."""

_SHAPES = {
    "anthropic_key": r"sk-ant-[A-Za-z0-9_-]{16,}",
    "openai_key": r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{16,}|(?<![A-Za-z0-9])sk-[A-Za-z0-9]{32,}",
    "aws_key_id": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "github_token": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    "slack_token": r"(?<![A-Za-z0-9])(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{10,})",
    "slack_hook": r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/_-]{16,}",
    "jwt": r"(?<![A-Za-z0-9_.-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    # The end line is optional: a key that was cut off is still a key.
    "private_key": r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[^-]|-(?!----))*(?:-----END [A-Z0-9 ]{0,60}-----)?",
    "url_password": r"(?<=://)[^\s/:@?#\"']{0,128}:[^\s/@\"']{1,256}(?=@)",
    "bearer": r"(?i:(?<=bearer )|(?<=bearer:)|(?<=authorization: basic ))"
    r"(?=[^\s]{0,64}[0-9])[A-Za-z0-9._~+/=-]{16,}",
    "aws_secret": r"(?i:(?<=aws_secret_access_key=)|(?<=aws_secret_access_key = )"
    r"|(?<=aws_secret_access_key\": \"))[A-Za-z0-9/+]{40}",
}
_ANY_SHAPE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _SHAPES.items()))
_MAYBE = re.compile(
    r"sk-|AKIA|ASIA|gh[pousr]_|github_pat_|xox[abeoprs]-|xapp-|hooks\.slack|eyJ|-----BEGIN|://"
    r"|(?i:bearer|authorization|aws_secret)"
)
"""Cheap look for the literals the shapes are anchored at: most texts hold none and are returned untouched."""


class Redactor:
    """Replaces secrets by ``[redacted:<kind>]``. Immutable, and safe to share between threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SECRET_CHARS_MIN:
                forms |= _forms(secret)
        # Longest first, so that a form that contains another one is replaced whole.
        self._forms = tuple(sorted(forms, key=len, reverse=True))

    def __repr__(self) -> str:
        return f"Redactor({len(self._forms)} forms)"

    @property
    def longest(self) -> int:
        """Characters of the longest form of a known secret; at least 1."""
        return len(self._forms[0]) if self._forms else 1

    def text(self, text: str) -> str:
        """Return ``text`` without known secrets and without anything shaped like a credential."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, "[redacted:secret]")
        if _MAYBE.search(text) is None:
            return text
        return _ANY_SHAPE.sub(lambda found: f"[redacted:{found.lastgroup}]", text)

    def value(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON value
        """Return a JSON value with every string in it, keys included, redacted.

        Raises:
            ValueError: if it is nested deeper than any result may be.
        """
        if depth > DEPTH_MAX:
            raise ValueError(f"a value nested deeper than {DEPTH_MAX} levels cannot be redacted; flatten it")
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            fields = cast("dict[object, Any]", value)
            return {self.text(str(key)): self.value(item, depth + 1) for key, item in fields.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, depth + 1) for item in cast("list[Any]", value)]
        return value


class Pieces:
    """Redacts a text that comes in pieces: what may be the beginning of a secret waits for what follows."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def add(self, piece: str) -> str:
        """Take the next piece; return what can be shown by now, often nothing."""
        held = self._redactor.text(self._held + piece)
        # No known secret can begin before ``most`` that is not complete, and most shapes end at a blank.
        most = max(len(held) - self._redactor.longest + 1, 0)
        blank = max(held.rfind(" ", 0, most), held.rfind("\n", 0, most)) + 1
        end = blank or (most if len(held) > self._redactor.longest + HELD_CHARS_MAX else 0)
        self._held = held[end:]
        return held[:end]

    def rest(self) -> str:
        """What is left when the text is at its end."""
        return self._held


def _forms(secret: str) -> set[str]:
    raw = secret.encode()
    return {
        secret,
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
