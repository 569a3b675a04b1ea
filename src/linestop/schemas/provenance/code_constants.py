"""Values that a planner function has from its own code, told from those that it took out of what came from outside.

Nobody can follow a value through a function. But a value that the operator wrote down in the code, and that stands in
nothing that the function was given from outside, was not copied from there. Both are needed: a function that compares
with a word of its code and then passes on what a result said must not make that word trusted; and a value that was put
together from a result (cut, joined, counted) stands in no code.
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
        """Whether a value is a constant of the code and stands nowhere outside."""
        if not self._constants or canonical(value).decode() not in self._constants:
            return False
        if self._texts is None:
            self._texts = tuple(text.casefold() for text in self._outside_texts if text)
        if isinstance(value, str):
            # Conservative: a part of a word outside counts, and so does the text as JSON writes it.
            spellings = {value.strip().casefold(), canonical(value).decode()[1:-1].casefold()}
            return all(each not in text for each in spellings for text in self._texts)
        pattern = re.compile(rf"(?<![\w.,]){re.escape(canonical(value).decode())}(?![\w])")
        return not any(pattern.search(text) for text in self._texts)
