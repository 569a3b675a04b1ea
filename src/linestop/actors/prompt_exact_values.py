"""Which values of a conversation a summary must not lose: identifiers, amounts and dates that tools returned.

They are found by their form alone, so the same log always gives the same ones, and a summary that forgets or
rounds one does no harm. No secret that is known is among them: results are redacted before they are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from linestop.schemas.events import ExactValue
from linestop.schemas.provenance.argument_leaves import leaves
from linestop.schemas.run.state import Run

VALUES_MAX = 32
"""Of a conversation: those of the newest results, since what came of the older ones mostly stands in them."""

PER_RESULT_MAX = 8
"""Of one result, so that a long table does not take the place of all the others."""

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
    """The answers up to proposal ``covers_to``, newest first, each with its event; the task, which stays, is the last.

    What is looked for in them takes time, so it is done where the model is called: see ``exact_values``.
    """
    task = run.opened.task.text if run.opened else ""
    proposals = reversed([p for p in run.proposals if p.n <= covers_to])
    texts = [(c.outcome_n, c.outcome_text) for p in proposals for c in reversed(p.calls) if not c.is_error]
    return (*texts, (0, task if isinstance(task, str) else ""))


def exact_values(covered: tuple[tuple[int, str], ...]) -> tuple[ExactValue, ...]:
    """The values that these answers have (see ``covered_answers``), and the task has not."""
    *texts, (_, task) = covered or ((0, ""),)
    seen = set(_find_values(task))
    selected: list[ExactValue] = []
    for n, answer in texts:
        if len(selected) >= VALUES_MAX:
            break
        values = [value for value in _find_values(answer) if value not in seen][:PER_RESULT_MAX]
        seen.update(values)
        selected.extend(ExactValue(value=value, n=n) for value in values)
    return tuple(sorted(selected[:VALUES_MAX], key=lambda value: value.n))


def _find_values(text: str) -> dict[str, None]:
    """The values in ``text``, each once and in their order."""
    values = (value for part in _parts(text) for value in _VALUE.findall(part))
    return dict.fromkeys(value for value in values if len(value) <= CHARS_MAX)


def _parts(text: str) -> Iterator[str]:
    """The text itself; of JSON its values one by one, with numbers as they are written."""
    try:
        value = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        value = text
    return (str(leaf.value) for leaf in leaves(value, None))
