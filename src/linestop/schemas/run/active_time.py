"""The active time of a run, from its log alone; ``limits.wall_s`` bounds it.

Active is the time in which a start was open or a role was deciding. Waiting, queueing and the pause before a retry do
not count, nor does the time in which the next role was down or could not reach the broker. So:

- A start counts once its result is in the log: from its event, for the duration that the result states, at most until
  the result and until ``done_by``. A start that its own worker never reported does not count: that worker was lost.
- After each event the time until the next one counts, at most ``DECIDING_MAX_S``: the next role may take that long.
- While a start is open, only the process that performs it knows that the work continues. It counts that start up to
  now, and stops the run when its time is over (``actors/performing_role.py``, which knows ``Performing``). Others
  ignore it.

Overlapping spans count once. Any two readers of the same log agree.
"""

from __future__ import annotations

DECIDING_MAX_S = 1.0
"""The longest time after an event that counts as deciding; in a longer silence a role or the broker was down."""


class ActiveTime:
    """A set of spans of time, in seconds since the run opened, that are counted once each."""

    __slots__ = ("_spans", "total_s")

    def __init__(self) -> None:
        self.total_s = 0.0
        self._spans: list[tuple[float, float]] = []

    def add(self, begin_s: float, end_s: float) -> None:
        """Count the time between these moments, unless it was counted before."""
        if end_s <= begin_s:
            return
        later: list[tuple[float, float]] = []
        spans = self._spans
        # Spans come in order, except for concurrent starts, so the place is near the end.
        while spans and spans[-1][1] >= begin_s:
            span = spans.pop()
            if span[0] > end_s:
                later.append(span)
                continue
            begin_s, end_s = min(begin_s, span[0]), max(end_s, span[1])
            self.total_s -= span[1] - span[0]
        spans.append((begin_s, end_s))
        self.total_s += end_s - begin_s
        spans.extend(reversed(later))

    def with_span(self, begin_s: float, end_s: float) -> float:
        """Return the total with this span added, which ends after all others."""
        overlap_s = 0.0
        for span in reversed(self._spans):
            if span[1] <= begin_s:
                break
            overlap_s += min(span[1], end_s) - max(span[0], begin_s)
        return self.total_s + max(end_s - begin_s, 0.0) - overlap_s
