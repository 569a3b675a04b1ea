"""The runs that the log's first events name, and those with ids most like the one that a person typed. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from linestop.schemas.subjects import RunId, TenantId, parse_run_event

Key = tuple[TenantId, RunId]

NEAREST_SHOWN: Final = 3
"""How many runs are suggested to a person who typed a run that does not exist."""

SIMILARITY_MIN: Final = 0.6
"""The similarity (of ``difflib``) from which an id counts as a misspelt one."""


def named_runs(first_events: Sequence[str]) -> list[Key]:
    """The runs that these subjects of first events name, each once, in their order."""
    # A losing duplicate of a first event names the same run a second time.
    return list(dict.fromkeys((subject.tenant, subject.run) for subject in map(parse_run_event, first_events)))


def begun_runs(first_events: Sequence[str]) -> list[Key]:
    """As ``named_runs``, without runs that were stopped before they began: their first event is a stop."""
    return named_runs([subject for subject in first_events if parse_run_event(subject).event != "stopped"])


def nearest_runs(text: str, runs: Sequence[RunId]) -> list[RunId]:
    """The runs whose ids are most like ``text``, else the newest; ``runs`` come oldest first."""
    by_plain_id = {run.replace("-", ""): run for run in runs}
    similar = difflib.get_close_matches(text.replace("-", ""), by_plain_id, n=NEAREST_SHOWN, cutoff=SIMILARITY_MIN)
    return [by_plain_id[plain_id] for plain_id in similar] or list(reversed(runs[-NEAREST_SHOWN:]))
