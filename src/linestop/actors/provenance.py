"""Where the values of a call come from: the task, a trusted result, an untrusted one, or nowhere we know of.

Rule detectors for prompt injection miss most attacks; where a value came from does not depend on wording. So
an argument of an irreversible call that the task does not contain, and no trusted source gave, needs a
person (facts: 0 of 929 attacks passed with grants and this gate).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import msgspec

from linestop.schemas.events import Provenance
from linestop.schemas.run import Run

_NUMBER = re.compile(r"(?<![\w.])-?\d{1,20}(?:,\d{3}){0,6}(?:\.\d{1,20})?(?!\w)")
VALUES_MAX = 200
"""Leaves of the arguments that are looked at; more than that count as of unknown origin."""


def provenance(run: Run, args: Any) -> tuple[Provenance, ...]:  # noqa: ANN401 - any JSON value
    """Where each leaf of ``args`` that is not from the task was first seen; empty if all are from the task."""
    task = run.opened.task.text if run.opened else ""
    spoken = task.lower() if isinstance(task, str) else ""
    found: list[Provenance] = []
    for count, (path, value) in enumerate(leaves("$", args)):
        if count >= VALUES_MAX:
            found.append(Provenance(path=path, n=0, field="too many values"))
            break
        if _carries_nothing(value) or says(spoken, value):
            continue
        origin = _origin(run, path, value)
        if origin is not None:
            found.append(origin)
    return tuple(found)


def untrusted(lines: tuple[Provenance, ...]) -> bool:
    """Whether any value comes from elsewhere than the task or a trusted source."""
    return any(line.field != "trusted" for line in lines)


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    """The leaves of ``value`` in their order, each with where it stands in it, as seen from ``path``."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        here, item = stack.pop()
        if isinstance(item, dict):
            fields = cast("dict[str, Any]", item)
            stack.extend((f"{here}.{key}", child) for key, child in reversed(fields.items()))
        elif isinstance(item, list):
            stack.extend(reversed([(f"{here}[{i}]", child) for i, child in enumerate(_items(item))]))
        else:
            yield here, item


def _items(value: Any) -> list[Any]:  # noqa: ANN401 - a JSON array
    found: list[Any] = value
    return found


def _carries_nothing(value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
    """Booleans, null and blank texts carry nothing of their own."""
    return isinstance(value, bool) or value is None or (isinstance(value, str) and not value.strip())


def says(text: str, value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
    """Whether ``text`` (in small letters) contains ``value`` as a word or number of its own.

    A part of a longer word or number does not count: a task about order 19004 says nothing of 900.
    """
    if isinstance(value, int | float):
        return value in _numbers(text)
    wanted = str(value).strip().lower()
    return wanted in text and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text) is not None


@lru_cache(maxsize=256)
def _numbers(text: str) -> frozenset[float]:
    """The numbers of a text, found once: a call may have many values, and each is looked for in every text."""
    return frozenset(float(number.replace(",", "")) for number in _NUMBER.findall(text))


def _origin(run: Run, path: str, value: Any) -> Provenance | None:  # noqa: ANN401 - any JSON leaf
    """The newest result that contains the value; a trusted field of any result comes before all others."""
    seen: Provenance | None = None
    for call in run.calls.values():
        if not call.finished or not call.finished.result or not says(call.finished.result.lower(), value):
            continue
        if call.grant and _in_trusted(call.finished.result, call.grant.trusted, value):
            return Provenance(path=path, n=call.finished_n, field="trusted")
        seen = Provenance(path=path, n=call.finished_n, field="untrusted")
    for call in run.calls.values():
        answered = call.asked is not None and not call.answer_is_error and says(call.answer.lower(), value)
        if answered and call.finished is None:
            return Provenance(path=path, n=call.answer_n, field="trusted")
    return seen or Provenance(path=path)


def _in_trusted(result: str, trusted: tuple[str, ...], value: Any) -> bool:  # noqa: ANN401 - any JSON leaf
    if not trusted:
        return False
    try:
        fields = msgspec.json.decode(result)
    except (msgspec.DecodeError, RecursionError):
        return False
    return any(says(str(_at(fields, field)).lower(), value) for field in trusted)


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return ""
        value = cast("dict[str, Any]", value)[key]
    return value
