"""Whether a text is visible at all: many characters are drawn as nothing. Pure, with few imports."""

from __future__ import annotations

import re
from typing import Final

INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""The characters that are invisible or reorder others, as the inside of a regular expression's set: Unicode's
Default_Ignorable_Code_Point (tags, variation selectors, fillers, joiners, directions), the blank of Braille."""

_VISIBLE: Final = re.compile(f"[^\\s\x00-\x1f\x7f-\x9f{INVISIBLE}\u0300-\u036f\U00016fe4\U0001d159]")


def is_blank(text: str) -> bool:
    """Whether a text is invisible: white space, controls, marks without a letter, characters drawn as nothing."""
    return _VISIBLE.search(text) is None
