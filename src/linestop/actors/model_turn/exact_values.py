"""The values of a conversation that a summary must not lose: identifiers, amounts and dates that tools returned.

They are found by their form alone, so the same log always gives the same values, and a summary that omits or
rounds one does no harm. They contain no known secret: results are redacted before they are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from linestop.schemas.events import ExactValue
from linestop.schemas.provenance.argument_leaves import leaves
from linestop.schemas.run.fold import Run

VALUES_MAX = 32
"""Most values of one conversation. The newest results come first: they mostly repeat what matters of the older ones."""

PER_RESULT_MAX = 8
"""Most values of one result, so that a long table does not displace all the others."""

CHARS_MAX = 64

# Anchored where a word begins and bounded everywhere, so that any text takes linear time.
_AMOUNT = r"-?\d{1,15}(?:[.,]\d{1,9}){0,5}"
_VALUE = re.compile(
    r"(?<![\w.,+\\-])(?:"
    r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"  # an e-mail address
    r"|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"  # a date, or a moment
    rf"|(?:[$€£¥]|[A-Z]{{3}} ?){_AMOUNT}|{_AMOUNT} ?(?:[$€£¥%]|[A-Z]{{3}}(?!\w))"  # an amount with its currency
    r"|-?\d{1,15}(?:[.,]\d{1,9}){1,5}"  # an amount without
    r"|(?=[\w-]{0,63}\d)\w[\w-]{2,63}"  # an identifier or a number: three characters or more, one of them a digit
    r")(?![\w@-])",
    re.ASCII,
)


def covered_texts(run: Run, covers_to: int) -> tuple[tuple[int, str], ...]:
    """Return the results up to proposal ``covers_to``, newest first, each with its event; the task text comes last.

    Searching them takes time, so ``exact_values`` does that while the request to the model is performed.
    """
    task = run.opened.task.text if run.opened else ""
    proposals = reversed([p for p in run.proposals if p.n <= covers_to])
    texts = [(c.outcome_n, c.outcome_text) for p in proposals for c in reversed(p.calls) if not c.is_error]
    return (*texts, (0, task if isinstance(task, str) else ""))


def exact_values(covered: tuple[tuple[int, str], ...]) -> tuple[ExactValue, ...]:
    """Return the values in these results (see ``covered_texts``) that do not appear in the task."""
    *texts, (_, task) = covered or ((0, ""),)
    seen = set(_find_values(task))
    selected: list[ExactValue] = []
    for n, text in texts:
        if len(selected) >= VALUES_MAX:
            break
        values = [value for value in _find_values(text) if value not in seen][:PER_RESULT_MAX]
        seen.update(values)
        selected.extend(ExactValue(value=value, n=n) for value in values)
    return tuple(sorted(selected[:VALUES_MAX], key=lambda value: value.n))


def _find_values(text: str) -> dict[str, None]:
    """Return the values in ``text``, each once and in their order."""
    values = (value for part in _parts(text) for value in _VALUE.findall(part))
    return dict.fromkeys(value for value in values if len(value) <= CHARS_MAX)


def _parts(text: str) -> Iterator[str]:
    """Yield the text itself, or the values of a JSON text one by one, with numbers as they are written."""
    try:
        value = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        value = text
    return (str(leaf.value) for leaf in leaves(value, None))
