"""Text without what a terminal would obey. Imports next to nothing, because every error message needs it."""

from __future__ import annotations

import re
from typing import Final

# C0 and C1 controls, DEL, what reorders or hides text, and lone surrogates: all that makes a terminal do or
# show something else than the characters it is given.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_BLOCK: Final = frozenset("\n\t")


def clean(text: str, *, block: bool = False) -> str:
    """Escape what a terminal would obey. ``block`` keeps line breaks and tabs."""

    def escaped(match: re.Match[str]) -> str:
        char = match[0]
        if block and char in _BLOCK:
            return char
        return char.encode("unicode_escape", "surrogatepass").decode()

    return _UNSAFE.sub(escaped, text)
