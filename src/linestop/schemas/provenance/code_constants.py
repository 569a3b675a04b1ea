"""Values that a planner function has from its own code, as opposed to values from outside texts.

A value cannot be followed through a function. But a value that the operator wrote in the code, and that no outside text
given to the function contains, was not copied from such a text. Both conditions are needed: a function that compares a
result with a word of its code and then passes the result on must not make that word trusted; and a value that was built
from a result (cut, joined, counted) is not in the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from linestop.schemas.tool_contracts import canonical


class CodeConstants:
    """The constants of one agent's planner function, and the texts from outside in one run."""

    def __init__(self, constants: Iterable[str], outside: Iterable[str]) -> None:
        self._constants = frozenset(constants)
        self._outside_texts = outside
        self._texts: tuple[str, ...] | None = None

    def has_constant(self, value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
        """Whether a value is a constant of the code and no outside text contains it."""
        if not self._constants or canonical(value).decode() not in self._constants:
            return False
        if self._texts is None:
            self._texts = tuple(text.casefold() for text in self._outside_texts if text)
        if isinstance(value, str):
            # Conservative: a part of an outside word counts, and so does the JSON form of the text.
            spellings = {value.strip().casefold(), canonical(value).decode()[1:-1].casefold()}
            return all(each not in text for each in spellings for text in self._texts)
        pattern = re.compile(rf"(?<![\w.,]){re.escape(canonical(value).decode())}(?![\w])")
        return not any(pattern.search(text) for text in self._texts)
